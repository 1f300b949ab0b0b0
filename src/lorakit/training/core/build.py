"""From a base to a transformers model whose layers are ours: frozen, with the adapter on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.engines.torch import layers as reference
from lorakit.engines.torch.loading import load_model
from lorakit.files.mapped import release
from lorakit.training.core.attention import NAME
from lorakit.training.core.frozen import Frozen
from lorakit.training.core.gated import fuse
from lorakit.training.core.last import only_read
from lorakit.training.core.layers import Fixed, FrozenLinear, LoraLinear, LoraTable, Step, norms
from lorakit.training.core.memory import twice
from lorakit.training.core.norm import Norm
from lorakit.training.core.numerics import Numerics
from lorakit.training.core.quantized import Nf4, bitsandbytes
from lorakit.training.core.spec import LoraSpec
from lorakit.training.core.wanted import (
    Wanted,
    continued,
    requested,
    require_companions,
    require_trainable,
)

PISSA_STEPS, PISSA_MORE = 8, 8  # of subspace iteration, and columns beyond the rank


@dataclass(slots=True, kw_only=True, eq=False)
class Built:
    """A model ready to be trained. `linears` are those with an adapter, by name."""

    model: Any
    inner: Any  # without the head
    head: Any = None  # the weight of the head
    linears: dict[str, LoraLinear] = field(default_factory=dict)
    table: LoraTable | None = None
    alphas: dict[str, float | None] = field(default_factory=dict)
    initial: dict[str, tuple[Fixed, ...]] = field(default_factory=dict)  # of PiSSA
    companions: frozenset[str] = frozenset()
    step: Step = field(default_factory=Step)

    @property
    def head_rows(self) -> tuple[Any, Any] | None:
        """Ids and rows of the head that are trained: those of the table, where it is tied."""
        tied = self.table is not None and self.table.weight is self.head
        if not tied or self.table is None or self.table.rows is None:
            return None
        return self.table.replaced, self.table.rows

    def parameters(self) -> dict[str, Any]:
        """What is trained, by name."""
        modules: dict[str, Any] = dict(self.linears)
        if self.table is not None:
            modules["embedding"] = self.table
        return {
            f"{name}.{leaf}": parameter
            for name, module in modules.items()
            for leaf, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
        }


def build(
    base: Base,
    spec: LoraSpec,
    numerics: Numerics,
    device: Any,
    seed: int,
    start: Adapter | None,
    companions: Mapping[str, Adapter],
    quantize: bool,
) -> Built:
    """Errors as of `load_model` in model.py."""
    require_trainable(base)
    if quantize:
        bitsandbytes()  # before the weights are read
    require_companions(companions, base)
    wanted = requested(spec, base) if start is None else continued(start, base)
    dense = torch.device("cpu") if quantize else device  # the whole may not fit on a GPU
    model = load_model(base, dense, dtype=numerics.torch_dtype, attention=NAME)
    _let_go(base)
    root = base.decoder.architecture.layout.root.rstrip(".")
    built = Built(
        model=model,
        inner=model.get_submodule(root),
        companions=frozenset(companions),
    )
    draws = torch.Generator().manual_seed(seed)
    multiply = Nf4 if quantize else numerics.multiply
    made = _Maker(built, base, spec, numerics, device, draws, multiply)
    for name in _linear_names(base):
        made.linear(name, wanted.get(name), companions)
    model.to(device)
    built.head = model.get_output_embeddings().weight
    for name in _norm_names(base):
        made.norm(name)
    if (table := wanted.get(base.decoder.embedding)) is not None:
        made.table(table)
    blocks = model.get_submodule(base.decoder.architecture.layout.blocks)
    for block in blocks:
        if hasattr(block.mlp, "gate_proj"):
            fuse(block.mlp)
    only_read(blocks[-1].mlp, built.step)
    twice(blocks, built.step)
    return built


def _let_go(base: Base) -> None:
    """Take the pages of the weights' files out of this process's memory: most were converted and
    are not read again, and those that are come back by themselves."""
    for name in base.decoder.parameters():
        release(base.tensor(name))


def _linear_names(base: Base) -> Iterator[str]:
    for index in range(len(base.decoder.layers)):
        yield from base.decoder.linears(index)


def _norm_names(base: Base) -> Iterator[str]:
    """RMS norms; those of a family that has others stay as they are."""
    layout, heads = base.decoder.architecture.layout, ("self_attn.q_norm", "self_attn.k_norm")
    if layout.norm_bias:
        return
    for index in range(len(base.decoder.layers)):
        for norm in (*layout.norms, *(heads if base.decoder.architecture.qk_norm else ())):
            yield f"{layout.blocks}.{index}.{norm}"
    yield layout.final_norm


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the modules; first values are drawn in the order of the modules, on the CPU."""

    built: Built
    base: Base
    spec: LoraSpec
    numerics: Numerics
    device: Any
    generator: Any
    multiply: type[Frozen]

    def linear(self, name: str, wanted: Wanted | None, companions: Mapping[str, Adapter]) -> None:
        module = self.built.model.get_submodule(name)
        weight = module.weight.detach().to(self.device)
        frozen = self.multiply(reference.oriented(module, weight))
        bias, step = module.bias, self.built.step
        fixed = [
            Fixed(a=self._put(d.a), b=self._put(d.b), scale=d.scale, companion=companion)
            for companion, adapter in companions.items()
            for d in adapter.deltas
            if d.module == name
        ]
        if wanted is None:
            self._place(name, FrozenLinear(frozen, bias, fixed, step))
            return
        a, b = self._factors(wanted, frozen)
        if self.spec.pissa and wanted.a is None:
            start = Fixed(a=self._put(a), b=self._put(-b), scale=wanted.scale)
            self.built.initial[name] = (start,)
            fixed.append(start)
        magnitude = self._magnitude(wanted, frozen, a, b)
        layer = LoraLinear(
            frozen, bias, fixed, step, a=a, b=b, scale=wanted.scale, magnitude=magnitude
        )
        self.built.alphas[name] = wanted.alpha
        self.built.linears[name] = layer
        self._place(name, layer)

    def norm(self, name: str) -> None:
        weight, decoder = self.built.model.get_submodule(name).weight, self.base.decoder
        self._place(name, Norm(weight, decoder.architecture.norm_offset, decoder.eps))

    def table(self, wanted: Wanted) -> None:
        decoder = self.base.decoder
        weight = self.built.model.get_submodule(decoder.embedding).weight
        factor = math.sqrt(decoder.hidden) if decoder.architecture.scaled_embedding else 1.0
        if wanted.tokens:
            ids = torch.tensor(wanted.tokens, device=self.device)
            rows = weight[ids].float() if wanted.rows is None else self._master(wanted.rows)
            table = LoraTable(weight, factor, rows=rows, replaced=ids)
        else:
            a, b = self._table_factors(wanted)
            table = LoraTable(weight, factor, a=a, b=b, scale=wanted.scale)
            self.built.alphas[decoder.embedding] = wanted.alpha
        self.built.table = table
        self._place(decoder.embedding, table)

    def _factors(self, wanted: Wanted, frozen: Frozen) -> tuple[Any, Any]:
        if wanted.a is not None:
            return self._master(wanted.a), self._master(wanted.b)
        if self.spec.pissa:
            return self._principal(frozen.dense(), wanted)
        out, inputs = wanted.shape
        bound = 1 / math.sqrt(inputs)
        a = torch.empty(wanted.rank, inputs).uniform_(-bound, bound, generator=self.generator)
        return a.to(self.device), torch.zeros(out, wanted.rank, device=self.device)

    def _table_factors(self, wanted: Wanted) -> tuple[Any, Any]:
        """Of [vocabulary, hidden], which is the other way round; PEFT's first values."""
        if wanted.a is not None:
            return self._master(wanted.a), self._master(wanted.b)
        hidden, vocabulary = wanted.shape
        b = torch.empty(hidden, wanted.rank).normal_(generator=self.generator)
        return torch.zeros(wanted.rank, vocabulary, device=self.device), b.to(self.device)

    def _principal(self, weight: Any, wanted: Wanted) -> tuple[Any, Any]:
        """The part of W that a product of this rank holds best, by subspace iteration."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=self.generator)))
            more = min(wanted.rank + PISSA_MORE, *weight.shape)
            u, s, v = torch.svd_lowrank(weight.float(), q=more, niter=PISSA_STEPS)
        kept, root = wanted.rank, (s[: wanted.rank] / wanted.scale).sqrt()
        return (v[:, :kept] * root).t().contiguous(), (u[:, :kept] * root).contiguous()

    def _magnitude(self, wanted: Wanted, frozen: Frozen, a: Any, b: Any) -> Any:
        if wanted.a is not None:
            return None if wanted.magnitude is None else self._master(wanted.magnitude)
        return norms(frozen.dense(), a, b, wanted.scale) if self.spec.dora else None

    def _put(self, array: Any) -> Any:
        return self._master(array).to(self.numerics.torch_dtype)

    def _master(self, array: Any) -> Any:
        values = array if isinstance(array, torch.Tensor) else torch.tensor(array)
        return values.detach().to(self.device, torch.float32, copy=True)

    def _place(self, name: str, module: Any) -> None:
        parent, _, leaf = name.rpartition(".")
        setattr(self.built.model.get_submodule(parent), leaf, module)
