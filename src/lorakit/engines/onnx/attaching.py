"""An adapter and its base -> what the engine holds of it.

May be done beside the running engine: it reads the base's mapped weights and nothing of a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Replacement, Site, in_order
from lorakit.base.folder import Base
from lorakit.engines.onnx.attached import Attached, Dora, Factors, Floats, Table
from lorakit.engines.replaced import uses
from lorakit.errors import CapabilityError
from lorakit.graph import HEAD
from lorakit.graph.gains import norm_scale, norms

Rows = tuple[npt.NDArray[np.int64], Floats]


def require_applicable(adapter: Adapter, base: Base) -> None:
    """Raise CapabilityError for what the graph and the host cannot do, all of it at once."""
    stacked = {name for name, shape in base.decoder.modules().items() if shape.experts is not None}
    fused = {base.decoder.fused(name) for name in stacked}
    items = [f"{m.module}: DoRA of experts" for m in adapter.magnitudes if m.module in stacked]
    items += [
        f"{d.module}: a bias of B of experts"
        for d in adapter.deltas
        if d.module in stacked and d.bias is not None
    ]
    items += [f"{r.name}: a {r.kind} of experts" for r in adapter.replacements if r.name in fused]
    items += [
        f"{d.module}: DoRA of what the head reads"
        for d in adapter.deltas
        if _on_head(d) and _by_feature(d, adapter, base)
    ]
    if items:
        raise CapabilityError(
            "the ONNX engine cannot apply this adapter at run time",
            items=items,
            hint='merge it as it is loaded: AdapterConfig(path, mode="merge"), '
            'lorakit run --merge; or open the base with engine="torch"',
        )


def _on_head(delta: Delta) -> bool:
    return delta.site in (Site.BOTH, Site.OUTPUT)


def _by_feature(delta: Delta, adapter: Adapter, base: Base) -> bool:
    """Of an embedding PEFT's magnitude is by feature, mlx-lm's by token."""
    found = [m.value for m in adapter.magnitudes if m.module == delta.module]
    return bool(found) and delta.module != HEAD and found[0].shape == (base.decoder.hidden,)


def attached(adapter: Adapter, base: Base) -> Attached:
    """What `require_applicable` and `check.require_fit` let pass."""
    return _Attaching(base, adapter).attached()


@dataclass(slots=True)
class _Attaching:
    base: Base
    adapter: Adapter
    whole: dict[str, Array] = field(default_factory=dict)  # by parameter
    rows: dict[str, Rows] = field(default_factory=dict)
    magnitudes: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.magnitudes = {m.module: m.value for m in self.adapter.magnitudes}
        for replacement in self.adapter.replacements:
            self._replace(replacement)

    def attached(self) -> Attached:
        table, head = f"{self.base.decoder.embedding}.weight", f"{HEAD}.weight"
        linears, lookups, heads = {}, [], []
        for delta in self.adapter.deltas:
            if delta.site in (Site.INPUT, Site.BOTH):
                lookups.append(self._lookup(delta))
            if _on_head(delta) or delta.module == HEAD:
                heads.append(self._head(delta))
            elif delta.site is Site.LINEAR:
                linears[delta.module] = self._linear(delta)
        every = norms(self.base)
        changed = {name.rpartition(".")[0]: name for name in {*self.whole, *self.rows}}
        return Attached(
            linears=linears,
            embedding=tuple(lookups),
            head=tuple(heads),
            weights={
                name.removesuffix(".weight"): _as_factors(self._weight(name))
                for name in in_order({*self.whole, *self.rows} - {table, head})
                if name.endswith(".weight") and name.removesuffix(".weight") not in every
            },
            biases={
                name.removesuffix(".bias"): value.astype(np.float32)
                - np.asarray(self.base.tensor(name), np.float32)
                for name, value in self.whole.items()
                if name.endswith(".bias")
            },
            norms={
                module: norm_scale(self.base, self.whole[changed[module]]).reshape(shape)
                for module, shape in every.items()
                if module in changed
            },
            lookup=self._table(table),
            projection=self._table(head),
            replaced=frozenset({*self.whole, *self.rows}),
            normed=frozenset(self._normed()),
        )

    def _normed(self) -> Iterator[str]:
        for delta in self.adapter.deltas:
            if delta.module in self.magnitudes:
                if delta.site is not Site.OUTPUT:
                    yield f"{delta.module}.weight"
                if _on_head(delta):
                    yield f"{HEAD}.weight"

    def _replace(self, replacement: Replacement) -> None:
        decoder = self.base.decoder
        names = uses(replacement.name, replacement.site, decoder.embedding, tied=decoder.tied)
        for name in names:
            if replacement.rows is None:
                self.whole[name] = replacement.value
            else:
                ids = replacement.rows.astype(np.int64)
                self.rows[name] = ids, replacement.value.astype(np.float32)

    def _linear(self, delta: Delta) -> Factors:
        dora = None
        if (magnitude := self.magnitudes.get(delta.module)) is not None:
            weight = self._weight(f"{delta.module}.weight")
            dora = Dora.of_rows(weight, delta.a, delta.b, magnitude)
        return Factors(a=delta.a, b=delta.b, scale=delta.scale, bias=_bias(delta), dora=dora)

    def _lookup(self, delta: Delta) -> Factors:
        dora = None
        if (magnitude := self.magnitudes.get(delta.module)) is not None:
            table = self._weight(f"{delta.module}.weight")
            if _by_feature(delta, self.adapter, self.base):
                dora = Dora.of_columns(table, delta.a, delta.b, magnitude)
            else:
                dora = Dora.of_rows(table, delta.b.T, delta.a.T, magnitude)
        factors = Factors(a=delta.a, b=delta.b, scale=delta.scale, bias=_bias(delta), dora=dora)
        return factors.widened()

    def _head(self, delta: Delta) -> Factors:
        """W + s B A of an embedding acts on the head transposed; its bias is then each token's."""
        flipped = delta.site is Site.BOTH
        a, b = (delta.b.T, delta.a.T) if flipped else (delta.a, delta.b)
        dora = None
        if (magnitude := self.magnitudes.get(delta.module)) is not None:
            dora = Dora.of_rows(self._weight(f"{HEAD}.weight"), a, b, magnitude)
        bias, reads = (None, _bias(delta)) if flipped else (_bias(delta), None)
        factors = Factors(a=a, b=b, scale=delta.scale, bias=bias, reads=reads, dora=dora)
        return factors.widened()

    def _weight(self, name: str) -> Array:
        """A matrix [out, in], or the vocabulary's [vocabulary, hidden], as the adapter has it."""
        weight = self.whole.get(name)
        if weight is None:
            weight = self.base.tensor(name)
        if name in self.rows:
            ids, values = self.rows[name]
            weight = weight.astype(np.float32)
            weight[ids] = values
        return weight

    def _table(self, name: str) -> Table:
        """At the head in float32, for products; rows of a lookup are widened one by one."""
        ids, values = self.rows.get(name, (None, None))
        whole = self.whole.get(name)
        if whole is not None and name == f"{HEAD}.weight":
            whole = whole.astype(np.float32, copy=False)
        return Table(whole=whole, ids=ids, values=values)


def _bias(delta: Delta) -> Floats | None:
    return None if delta.bias is None else delta.bias.astype(np.float32, copy=False)


def _as_factors(weight: Array) -> Factors:
    """A weight [out, in] in place of another, as a product of itself with the identity."""
    outputs, inputs = weight.shape
    one = np.eye(min(outputs, inputs), dtype=np.float32)
    a, b = (one, weight) if inputs <= outputs else (weight, one)
    return Factors(a=a, b=b, scale=1.0)
