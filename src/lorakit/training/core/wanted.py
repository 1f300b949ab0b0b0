"""Which modules are trained and with what: from a spec, or from the adapter that is continued.

Everything that cannot be trained is refused here, by name, before weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Site
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.errors import CapabilityError, ParameterError
from lorakit.training.core.spec import LoraSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wanted:
    """An adapter's part at one module; shape is [out, in]. Without `a` it begins at its first
    values. `tokens` are the rows of the token table that are trained whole."""

    shape: tuple[int, int]
    rank: int = 0
    scale: float = 1.0
    alpha: float | None = None
    a: Any = None
    b: Any = None
    magnitude: Any = None
    tokens: tuple[int, ...] = ()
    rows: Any = None


def require_trainable(base: Base) -> None:
    """Raises CapabilityError for a mixture of experts."""
    if base.decoder.experts is not None:
        raise CapabilityError(
            f"{base.name}: training a mixture of experts "
            f"({base.decoder.architecture.model_type}) is not supported",
            hint="train it with PEFT, and use the adapter here",
        )


def requested(spec: LoraSpec, base: Base) -> dict[str, Wanted]:
    """By module name. Raises ParameterError for targets and tokens that the base lacks."""
    shapes = {name: (s.out_features, s.in_features) for name, s in _linears(base).items()}
    names = [name for name in shapes if not spec.targets or _matches(name, spec.targets)]
    lost = [t for t in spec.targets if not any(_matches(name, (t,)) for name in shapes)]
    vocabulary = base.decoder.vocabulary
    lost += [f"token {t}: there are {vocabulary}" for t in spec.tokens if not 0 <= t < vocabulary]
    if lost:
        raise ParameterError(
            f"{base.name} has no such module or token to train",
            items=lost,
            hint=f"targets: {', '.join(sorted({n.rpartition('.')[2] for n in shapes}))}; "
            "the token table is trained with `embeddings`",
        )
    found = {
        name: Wanted(shape=shapes[name], rank=spec.rank, scale=spec.scale, alpha=spec.alpha)
        for name in names
    }
    table, hidden = base.decoder.embedding, base.decoder.hidden
    if spec.embeddings:
        found[table] = Wanted(
            shape=(hidden, vocabulary), rank=spec.rank, scale=spec.scale, alpha=spec.alpha
        )
    elif spec.tokens:
        found[table] = Wanted(shape=(hidden, vocabulary), tokens=tuple(sorted(set(spec.tokens))))
    return found


def continued(start: Adapter, base: Base) -> dict[str, Wanted]:
    """By module name. Raises MismatchError, and CapabilityError for parts that are not trained."""
    require_fit(start, base)
    faults = [*_untrained(start.deltas, base, Site.INPUT), *_other_parts(start, base)]
    if faults:
        raise CapabilityError("training cannot continue from this adapter", items=faults)
    magnitudes = {m.module: m.value for m in start.magnitudes}
    found = {
        d.module: Wanted(
            shape=(d.out_features, d.in_features),
            rank=d.rank,
            scale=d.scale,
            alpha=d.alpha,
            a=_float(d.a),
            b=_float(d.b),
            magnitude=None if d.module not in magnitudes else _float(magnitudes[d.module]),
        )
        for d in start.deltas
    }
    for r in start.replacements:
        found[base.decoder.embedding] = Wanted(
            shape=(base.decoder.hidden, base.decoder.vocabulary),
            tokens=tuple(map(int, r.rows if r.rows is not None else ())),
            rows=_float(r.value),
        )
    return found


def require_companions(companions: Mapping[str, Adapter], base: Base) -> None:
    """Raises CapabilityError for companions that are more than low-rank terms of linear layers."""
    faults = []
    for name, adapter in companions.items():
        require_fit(adapter, base)
        others = adapter.features - {"delta_bias"}
        found = [*_untrained(adapter.deltas, base, None), *sorted(others - {"embedding"})]
        faults += [f"{name}: {fault}" for fault in found]
    if faults:
        raise CapabilityError(
            "a companion must be low-rank terms of linear layers alone", items=faults
        )


def _linears(base: Base) -> dict[str, Any]:
    layers = range(len(base.decoder.layers))
    return {name: shape for i in layers for name, shape in base.decoder.linears(i).items()}


def _matches(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _untrained(deltas: tuple[Delta, ...], base: Base, site: Site | None) -> Iterator[str]:
    """Deltas that have no place in our layers; at the token table `site` has one."""
    linears = _linears(base)
    for delta in deltas:
        if delta.bias is not None:
            yield f"{delta.module}: a bias of B"
        elif delta.module == HEAD:
            yield f"{delta.module}: the vocabulary projection"
        elif delta.module not in linears and (
            delta.module != base.decoder.embedding or delta.site is not site
        ):
            yield f"{delta.module}: a change of an embedding at {delta.site}"


def _other_parts(start: Adapter, base: Base) -> Iterator[str]:
    table = base.decoder.embedding
    for replacement in start.replacements:
        rows = replacement.rows is not None and replacement.site is None
        if replacement.name != f"{table}.weight" or not rows:
            yield f"{replacement.name}: {replacement.kind}"
    yield from (f"{m.module}: DoRA of an embedding" for m in start.magnitudes if m.module == table)
    if start.invocation_tokens:
        yield "invocation tokens"
    if not start.deltas:
        yield "no low-rank delta"


def _float(array: Array) -> Array:
    return np.array(array, np.float32)
