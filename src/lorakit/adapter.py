"""The Adapter: one immutable value for what every format says of a LoRA adapter.

It knows nothing of files, bases or engines. Orientation is canonical: A is [r, in], B is [out, r],
so that a linear layer computes ``y = W x + scale * B (A x)``. Module names are Hugging Face module
paths (``model.layers.0.self_attn.q_proj``). ``scale`` is the effective scale: whatever alpha, rank
and rsLoRA a trainer used is already in it (Hu et al. 2021; Kalajdzievski 2023 for alpha / sqrt(r)).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lorakit.errors import AdapterError
from lorakit.values import FLOAT32_MAX  # engines fold scales in float32

Array = npt.NDArray[Any]
_DIGITS = re.compile("([0-9]+)")


def natural(name: str) -> tuple[Any, ...]:
    """A key to sort names by, with numbers in them as numbers: layer 2 comes before layer 10."""
    parts: list[Any] = _DIGITS.split(name)
    for at in range(1, len(parts), 2):
        digits = parts[at].lstrip("0")
        parts[at] = (len(digits), digits)  # int() refuses very long ones
    return (tuple(parts), name)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of modules or tensors, sorted as `natural` says."""
    return sorted(names, key=natural)


class Site(StrEnum):
    """Where a delta acts. An embedding matrix may be used twice when it is tied to the head."""

    LINEAR = "linear"  # any linear layer; at lm_head the projection only, whether tied or not
    INPUT = "input"  # the embedding lookup only
    OUTPUT = "output"  # an embedding module's use as the vocabulary projection only
    BOTH = "both"  # an embedding module's lookup and the vocabulary projection


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delta:
    """A low-rank change of one weight matrix.

    a: [r, in], b: [out, r], any float dtype (bfloat16 through ml_dtypes); for mixture-of-experts
    weights both carry a leading expert axis, a: [experts, r, in], b: [experts, out, r], and the
    module is named by projection over all experts: ``model.layers.0.mlp.experts.gate_proj``.
    At lm_head site OUTPUT becomes LINEAR, which it equals.
    At site INPUT or BOTH the module is an embedding: in = vocabulary, out = hidden size, and the
    row of token t changes by ``scale * b @ a[:, t]``.
    bias: [out] or None, added by some trainers to B's output: ``y += scale * (B (A x) + bias)``.
    """

    module: str
    a: Array
    b: Array
    scale: float
    site: Site = Site.LINEAR
    bias: Array | None = None
    alpha: float | None = None  # display only; `scale` is what counts

    def __post_init__(self) -> None:
        if self.site is Site.OUTPUT and self.module == "lm_head":  # one form, so one digest
            object.__setattr__(self, "site", Site.LINEAR)
        if self.a.ndim not in (2, 3) or self.b.ndim != self.a.ndim:
            raise AdapterError(
                f"{self.module}: A and B must both be 2-D (3-D for experts), "
                f"found A {list(self.a.shape)} and B {list(self.b.shape)}"
            )
        if self.a.shape[-2] != self.b.shape[-1] or self.a.shape[:-2] != self.b.shape[:-2]:
            raise AdapterError(
                f"{self.module}: A {list(self.a.shape)} and B {list(self.b.shape)} "
                "disagree on the rank: A is [r, in], B is [out, r]"
            )
        if self.bias is not None and self.bias.shape != (self.b.shape[-2],):
            raise AdapterError(
                f"{self.module}: the bias of B must be [{self.b.shape[-2]}], "
                f"found {list(self.bias.shape)}"
            )
        object.__setattr__(self, "scale", float(self.scale) + 0.0)  # no negative zero
        if not abs(self.scale) <= FLOAT32_MAX:
            raise AdapterError(f"{self.module}: scale must be finite, found {self.scale}")

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.a.shape[-2])

    @property
    def in_features(self) -> int:
        """Columns of A."""
        return int(self.a.shape[-1])

    @property
    def out_features(self) -> int:
        """Rows of B."""
        return int(self.b.shape[-2])

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a delta within one adapter."""
        return (self.module, self.site.value)

    def __repr__(self) -> str:
        arrays = f"A {_outline(self.a)}, B {_outline(self.b)}"
        return f"<Delta {self.module!r} ({self.site}), {arrays}, scale {self.scale:g}>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replacement:
    """A parameter that the adapter replaces: whole, or only the rows named in `rows` [n].

    Replacements do not scale: they hold while the adapter is active at any scale but 0. They come
    before any delta of the same module.
    """

    name: str  # parameter path, such as "model.norm.weight"
    value: Array
    rows: Array | None = None
    site: Site | None = None  # None: wherever the parameter is used, so at both uses of a tied one

    def __post_init__(self) -> None:
        if self.rows is None:
            return
        if self.rows.ndim != 1 or self.rows.dtype.kind not in "iu" or self.value.ndim != 2:
            raise AdapterError(f"{self.name}: replaced rows need token ids [n] and values [n, dim]")
        if len(self.rows) != len(self.value) or (np.diff(self.rows) <= 0).any():
            raise AdapterError(f"{self.name}: replaced rows need one increasing id for each value")

    @property
    def kind(self) -> str:
        """What it is called in messages."""
        return "replacement" if self.rows is None else "replaced rows"

    def __repr__(self) -> str:
        return f"<Replacement {self.name!r} ({self.kind}), {_outline(self.value)}>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Magnitude:
    """DoRA's magnitude of one module, [out]; Liu et al. 2024.

    Of an embedding it is [hidden] where PEFT made it, which norms columns, and [vocabulary] where
    mlx-lm did, which norms rows; readers refuse an embedding where the two sizes are equal.
    """

    module: str
    value: Array

    def __repr__(self) -> str:
        return f"<Magnitude {self.module!r}, {_outline(self.value)}>"


Part = TypeVar("Part", Delta, Replacement, Magnitude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """What the adapter says of the base it was trained on."""

    name: str | None = None  # a repository id or path, as its trainer wrote it
    fingerprint: str | None = None  # `Base.fingerprint` where a tool recorded it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What reading a file found beside the adapter's parts. It does not count for the digest.

    missing: what the file's own config promises and the file lacks. notes: what had to be decided.
    renamed: beginnings of module names, as they were in the file and as they are now.
    """

    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """An immutable adapter. Two adapters are equal when their digests are.

    Raises AdapterError where two parts claim the same module.
    """

    deltas: tuple[Delta, ...] = ()
    replacements: tuple[Replacement, ...] = ()
    magnitudes: tuple[Magnitude, ...] = ()
    invocation_tokens: tuple[int, ...] = ()  # aLoRA: act only from this sequence on
    precondition: Precondition = Precondition()
    metadata: Mapping[str, Any] = field(default_factory=dict)  # free, never used for arithmetic
    reading: Reading = Reading()
    _digest: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", tuple(sorted(self.deltas, key=_place)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        claims = Counter(f"delta of {d.module} at {d.site}" for d in self.deltas)
        claims.update(f"{r.kind} of {r.name}" for r in self.replacements)
        claims.update(f"magnitude of {m.module}" for m in self.magnitudes)
        twice = in_order(name for name, count in claims.items() if count > 1)
        if twice:
            raise AdapterError("the adapter holds a part more than once", items=twice)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapter) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical content (float32 values, names, scales); computed once.

        It does not depend on the file format, the stored dtype, or the metadata.
        """
        if not self._digest:
            self._digest.append(_digest(self))
        return self._digest[0]

    def __repr__(self) -> str:
        """Counts and sizes; reads no values."""
        modules = f"{len(self.modules)} modules, rank {self.max_rank}, {self.nbytes:,} bytes"
        digest = [f"digest {self._digest[0][:12]}"] if self._digest else []
        return f"<Adapter of {', '.join([modules, *sorted(self.features), *digest])}>"

    def __copy__(self) -> Adapter:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and deepcopy make it again from; mapped arrays become copies."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _made, (values | {"metadata": dict(self.metadata)},)

    def in_memory(self) -> Adapter:
        """The same adapter with copies of its arrays, which no change of a file can reach."""

        return replace(
            self,
            deltas=tuple(_copied(d) for d in self.deltas),
            replacements=tuple(_copied(r) for r in self.replacements),
            magnitudes=tuple(_copied(m) for m in self.magnitudes),
        )

    @property
    def modules(self) -> tuple[str, ...]:
        """Canonical names of the modules that have a delta, each once, in their order."""
        return tuple(dict.fromkeys(d.module for d in self.deltas))

    @property
    def max_rank(self) -> int:
        """The largest rank of a delta; 0 where there is none."""
        return max((d.rank for d in self.deltas), default=0)

    @property
    def parameters(self) -> int:
        """How many numbers all its arrays hold."""
        return sum(int(array.size) for _, array in self.arrays())

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(int(array.nbytes) for _, array in self.arrays())

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Every array with the name to report it by."""
        for d in self.deltas:
            yield f"{d.module}.A", d.a
            yield f"{d.module}.B", d.b
            if d.bias is not None:
                yield f"{d.module}.B.bias", d.bias
        for r in self.replacements:
            yield r.name, r.value
        for m in self.magnitudes:
            yield f"{m.module}.magnitude", m.value

    @property
    def features(self) -> frozenset[str]:
        """What an engine must be able to do beyond two-dimensional deltas of linear layers.

        Of "embedding", "experts", "delta_bias", "replacement", "rows", "dora", "invocation".
        """
        found = {
            "embedding": any(d.site is not Site.LINEAR for d in self.deltas),
            "experts": any(d.a.ndim == 3 for d in self.deltas),
            "delta_bias": any(d.bias is not None for d in self.deltas),
            "replacement": any(r.rows is None for r in self.replacements),
            "rows": any(r.rows is not None for r in self.replacements),
            "dora": bool(self.magnitudes),
            "invocation": bool(self.invocation_tokens),
        }
        return frozenset(name for name, present in found.items() if present)

    def non_finite(self) -> list[str]:
        """Names of the arrays that hold NaN or infinity."""
        return [name for name, array in self.arrays() if not _finite(array)]


def _place(delta: Delta) -> tuple[Any, ...]:
    return (natural(delta.module), delta.site.value)


def at_scale(adapter: Adapter, scale: float) -> Adapter:
    """The adapter with every delta at this effective scale, in place of its own alpha / r.

    Raises AdapterError for one that is not finite.
    """
    deltas = tuple(replace(delta, scale=scale, alpha=None) for delta in adapter.deltas)
    return replace(adapter, deltas=deltas)


def _outline(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _finite(array: Array) -> bool:
    """Whether all values are finite; a sum first: it reads memory once and copies nothing."""
    if array.dtype in _EXPONENT:  # two-byte floats: no slow conversion, only a look at the exponent
        mask = _EXPONENT[array.dtype]
        return not array.size or bool(np.max(array.view(np.uint16) & 0x7FFF) < mask)
    with np.errstate(invalid="ignore", over="ignore"):
        if array.dtype.kind == "f" and math.isfinite(float(array.sum())):
            return True
        return bool(np.isfinite(array.astype(np.float64, copy=False)).all())


_EXPONENT = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}


def _made(values: Mapping[str, Any]) -> Adapter:
    """An adapter that came from another process, or a copy: its arrays are its own, and fixed."""
    adapter = Adapter(**values)
    for _, array in adapter.arrays():
        array.flags.writeable = False
    return adapter


def _copied(part: Part) -> Part:
    arrays: dict[str, Any] = {}
    for field_ in fields(part):
        if isinstance(value := getattr(part, field_.name), np.ndarray):
            arrays[field_.name] = np.array(value)
            arrays[field_.name].flags.writeable = False
    return replace(part, **arrays)


def _digest(adapter: Adapter) -> str:
    state = hashlib.sha256()

    def put(tag: str, *arrays: Array) -> None:
        state.update(tag.encode() + b"\0")
        for array in arrays:
            state.update(str(array.shape).encode() + b"\0")
            state.update(np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8).data)

    for d in sorted(adapter.deltas, key=lambda d: d.key):  # as text: digests outlive the order
        put(f"delta {d.module} {d.site} {float(np.float32(d.scale)).hex()}", d.a, d.b)
        if d.bias is not None:
            put("bias", d.bias)
    for r in sorted(adapter.replacements, key=lambda r: (r.name, r.kind)):
        put(f"replace {r.name} {r.site or ''}".rstrip(), r.value)
        if r.rows is not None:
            state.update(np.ascontiguousarray(r.rows, dtype="<i8").tobytes())
    for m in sorted(adapter.magnitudes, key=lambda m: m.module):
        put(f"magnitude {m.module}", m.value)
    state.update(repr(adapter.invocation_tokens).encode())
    return state.hexdigest()
