"""The base as a model to train an adapter on, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from lorakit.adapter import Adapter, Delta, Magnitude, Precondition, Replacement, Site
from lorakit.base.folder import Base
from lorakit.engines.torch.loading import choose_device
from lorakit.errors import CapabilityError, ContextFullError, ParameterError
from lorakit.training.core.attention import Layout
from lorakit.training.core.build import Built, build
from lorakit.training.core.loss import CrossEntropy, Head
from lorakit.training.core.memory import Memory, torch_errors
from lorakit.training.core.numerics import DType, Numerics, choose
from lorakit.training.core.rows import Example, Packed, pack
from lorakit.training.core.spec import LoraSpec

Companions = Mapping[str, float] | Sequence[Mapping[str, float]]


def load_model(
    base: Base,
    spec: LoraSpec,
    *,
    dtype: DType = "auto",
    device: str | None = None,
    seed: int = 0,
    start: Adapter | None = None,
    companions: Mapping[str, Adapter] | None = None,
    numerics: Numerics | None = None,
    checkpointing: bool | None = None,
    quantize: Literal["nf4"] | None = None,
) -> TrainModel:
    """The base, frozen, with a new adapter on it.

    start: an adapter to continue from, whose modules, ranks and scales hold in place of the spec's.
    companions: adapters that are active beside it, as `loss` says. numerics: of a run that is
    resumed; chosen here otherwise. checkpointing: compute layers twice to save memory; None: where
    a step would not fit otherwise. quantize: hold the frozen linear layers in four bits, for which
    bitsandbytes must be there. The same seed gives the same first values.

    Raises CapabilityError for an architecture or a part of an adapter that is not trained here,
    MismatchError for adapters of another base, ParameterError, EngineError.
    """
    base.require_weights()
    place = choose_device(device)
    chosen = numerics or choose(base.decoder, place, dtype)
    built = build(base, spec, chosen, place, seed, start, companions or {}, quantize == "nf4")
    itemsize = chosen.torch_dtype.itemsize
    memory = Memory(base.decoder, itemsize, place, checkpointing)
    return TrainModel(base, built, chosen, place, memory)


class TrainModel:
    """A frozen base and the adapter that is trained on it."""

    def __init__(
        self, base: Base, built: Built, numerics: Numerics, device: Any, memory: Memory
    ) -> None:
        self.numerics = numerics
        self.device = device
        self._base = base
        self._built = built
        self._memory = memory
        self._in_pieces: bool | None = None
        self._windows = [layer.window for layer in base.decoder.layers]
        self._head = Head(
            weight=built.head,
            multiply=numerics.multiply,
            softcap=base.decoder.logit_softcap,
            replaced=built.head_rows[0] if built.head_rows else None,
        )

    def parameters(self) -> list[Any]:
        """What is trained, float32, always in the same order."""
        return list(self.state().values())

    def state(self) -> dict[str, Any]:
        """The parameters by name, themselves and not copies."""
        return self._built.parameters()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over values that `state` gave. Raises ParameterError where they are of another."""
        own = self.state()
        faults = [
            f"{name}: expected {_shape(own, name)}, found {_shape(state, name)}"
            for name in sorted(own.keys() | state.keys())
            if _shape(own, name) != _shape(state, name)
        ]
        if faults:
            raise ParameterError("this state is of another training run", items=faults[:20])
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def loss(self, rows: Sequence[Example], companions: Companions = ()) -> tuple[Any, int]:
        """The sum of -log p over the answers of a batch, and how many tokens that is.

        rows: token ids and which of them are answers. companions: the scales of those that are
        active, for all rows or for each of them. Raises ContextFullError for a row that is too
        long, EngineError; `memory.torch_errors` is for the caller's `backward`.
        """
        self._check(rows)
        active = self._active(companions, len(rows))
        packed = pack(rows, [tuple(sorted(one.items())) for one in active])
        step = self._built.step
        step.scales = self._scales(packed, active)
        step.read = self._put(sorted(set(packed.states)))
        step.twice = self._memory.checkpoint(len(packed.ids))
        with torch_errors("computing the loss"):
            return self._loss(packed), len(packed.labels)

    def _loss(self, packed: Packed) -> Any:
        hidden = self._built.inner(
            input_ids=self._put(packed.ids)[None],
            position_ids=self._put(packed.positions)[None],
            use_cache=False,
            layout=self._layout(packed),
        ).last_hidden_state[0]
        states = hidden[self._put(packed.states)]
        rows = self._built.head_rows[1] if self._built.head_rows else None
        return CrossEntropy.apply(states, rows, self._put(packed.labels), self._head)

    def _layout(self, packed: Packed) -> Layout:
        times = self.numerics.multiply.times
        return Layout.of(packed, self._windows, self.device, times, self._in_pieces)

    def adapter(self) -> Adapter:
        """The adapter as it stands, in float32 and on its own memory."""
        return Adapter(
            deltas=tuple(self._deltas()),
            magnitudes=tuple(
                Magnitude(module=name, value=_array(layer.magnitude))
                for name, layer in self._built.linears.items()
                if layer.magnitude is not None
            ),
            replacements=tuple(self._replacements()),
            precondition=Precondition(name=self._base.name, fingerprint=self._base.fingerprint),
        )

    def _deltas(self) -> list[Delta]:
        built = self._built
        found = []
        for name, layer in built.linears.items():
            a, b, alpha = _array(layer.a), _array(layer.b), built.alphas[name]
            for start in built.initial.get(name, ()):  # what PiSSA began with is taken off
                a, b = np.concatenate([a, _array(start.a)]), np.concatenate([b, _array(start.b)], 1)
                alpha = None
            found.append(Delta(module=name, a=a, b=b, scale=layer.scale, alpha=alpha))
        if built.table is not None and built.table.a is not None:
            name, table = self._base.decoder.embedding, built.table
            found.append(
                Delta(
                    module=name,
                    a=_array(table.a),
                    b=_array(table.b),
                    scale=table.scale,
                    site=Site.INPUT,
                    alpha=built.alphas[name],
                )
            )
        return found

    def _replacements(self) -> list[Replacement]:
        table = self._built.table
        if table is None or table.rows is None:
            return []
        name = f"{self._base.decoder.embedding}.weight"
        rows = table.replaced.cpu().numpy()
        return [Replacement(name=name, value=_array(table.rows), rows=rows)]

    def _check(self, rows: Sequence[Example]) -> None:
        if not rows:
            raise ParameterError("a batch needs at least one example")
        longest = max(len(row.ids) for row in rows)
        if longest > self._base.decoder.context:
            raise ContextFullError(
                f"an example of {longest} tokens is longer than the context of {self._base.name}, "
                f"{self._base.decoder.context} tokens"
            )
        ropes = [layer.rope for layer in self._base.decoder.layers]
        limits = [r.original_context for r in ropes if r is not None and r.kind == "longrope"]
        if limits and longest > min(limits):
            raise CapabilityError(
                f"an example of {longest} tokens: beyond {min(limits)} tokens longrope turns every "
                "token otherwise, and a batch is one row here",
                hint="shorten the examples",
            )

    def _active(self, companions: Companions, count: int) -> list[dict[str, float]]:
        each = [companions] * count if isinstance(companions, Mapping) else list(companions)
        each = each or [{}] * count
        named = {name for one in each for name in one}
        unknown = sorted(named - self._built.companions)
        if unknown or len(each) != count:
            raise ParameterError(
                f"companions: expected scales of {sorted(self._built.companions)} for each of the "
                f"{count} rows, found {len(each)} mappings of {sorted(named)}"
            )
        return [{name: scale for name, scale in one.items() if scale} for one in each]

    def _scales(self, packed: Packed, active: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """Of each companion that is on: one number, or one by token where rows differ."""
        scales: dict[str, Any] = {}
        for name in sorted({name for one in active for name in one}):
            each = [one.get(name, 0.0) for one in active]
            if len(set(each)) == 1:
                scales[name] = each[0]
            else:
                by_token = [each[row] for row in packed.owner]
                scales[name] = torch.tensor(by_token, device=self.device)[:, None]
        return scales

    def _put(self, values: Sequence[int]) -> Any:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _shape(state: Mapping[str, Any], name: str) -> list[int] | None:
    return list(state[name].shape) if name in state else None


def _array(tensor: Any) -> Any:
    array = tensor.detach().to("cpu", torch.float32, copy=True).numpy()
    array.flags.writeable = False
    return array
