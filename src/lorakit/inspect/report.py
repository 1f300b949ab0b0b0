"""What is in an adapter: a frozen report that reads headers first.

Structure (ranks, shapes, scales, sizes) comes from names and shapes alone, so that mapped arrays
stay on the disk. Norms, the digest and singular values read every value and are computed when asked
for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.formats import expressible
from lorakit.inspect.relative import relative, weight_norms
from lorakit.inspect.spectrum import Spectrum, spectra


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """One delta. `norm` is the Frobenius norm of scale * B @ A and `spectra` its singular values,
    one for each expert; None where not asked for. `relative_norm`: `norm` over that of the base's
    weight, see relative.py; None without a base or a weight to read."""

    module: str
    site: str
    rank: int
    in_features: int
    out_features: int
    scale: float
    alpha: float | None
    dtype: str
    parameters: int
    norm: float | None = None
    relative_norm: float | None = None
    experts: int | None = None
    spectra: tuple[Spectrum, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `inspect` found. `to_dict` gives plain values for JSON."""

    format: str | None
    base: str | None
    features: tuple[str, ...]
    parameters: int
    nbytes: int
    dtypes: Mapping[str, int]  # parameters by dtype
    ranks: Mapping[int, int]  # number of modules by rank
    scales: Mapping[float, int]  # number of modules by effective scale
    modules: tuple[ModuleReport, ...]
    replacements: tuple[str, ...]
    magnitudes: int
    invocation_tokens: tuple[int, ...]
    metadata: Mapping[str, Any]
    expressible: Mapping[str, tuple[str, ...]]  # what each format cannot say; empty: it says all
    norm: float | None = None  # of all deltas together, None where not asked for
    relative_norm: float | None = None  # over that of their base's weights, None without a base
    digest: str | None = None  # None where not asked for

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `json.dumps(..., allow_nan=False)` takes; a norm that is not finite is
        its name as a string."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def inspect(
    adapter: Adapter,
    *,
    values: bool = False,
    spectrum: bool = False,
    decoder: Decoder | None = None,
    base: Base | None = None,
) -> Report:
    """Describe an adapter.

    values: also read every value, for the norms of the deltas and the digest; without it nothing
    but names and shapes is looked at. spectrum: the singular values too (and so `values`).
    decoder: the base, which decides what other formats can say of an embedding. base: the same with
    its weights, for the relative norms; with `values` all weights of the modules are read.
    """
    values = values or spectrum
    decoder = decoder if base is None else base.decoder
    modules = tuple(_module(delta, values, spectrum) for delta in adapter.deltas)
    weights: tuple[float | None, ...] = ()
    if values and base is not None:
        weights = weight_norms(adapter.deltas, base)
        modules = tuple(map(_beside, modules, weights))
    dtypes: Counter[str] = Counter()
    for _, array in adapter.arrays():
        dtypes[array.dtype.name] += int(array.size)
    norms = [module.norm for module in modules if module.norm is not None]
    form = adapter.metadata.get("format")
    return Report(
        format=form if isinstance(form, str) else None,
        base=adapter.precondition.name,
        features=tuple(sorted(adapter.features)),
        parameters=adapter.parameters,
        nbytes=adapter.nbytes,
        dtypes=dict(dtypes.most_common()),
        ranks=dict(sorted(Counter(m.rank for m in modules).items())),
        scales=dict(sorted(Counter(m.scale for m in modules).items())),
        modules=modules,
        replacements=tuple(f"{r.kind} of {r.name}" for r in adapter.replacements),
        magnitudes=len(adapter.magnitudes),
        invocation_tokens=adapter.invocation_tokens,
        metadata=dict(adapter.metadata),
        expressible=expressible(adapter, decoder),
        norm=math.hypot(*norms) if values else None,
        relative_norm=relative(norms, weights) if weights else None,
        digest=adapter.digest if values else None,
    )


def delta_norm(delta: Delta) -> float:
    """Frobenius norm of scale * B @ A, over all experts.

    From the Gram matrices of the factors, both [r, r]: ||B A||^2 = trace((B^T B)(A A^T)). Computed
    in float64, at a cost of (in + out) r^2; the product itself is never formed.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = _gram(delta.b.swapaxes(-1, -2)), _gram(delta.a)
        square = float(np.sum(left * right))
    return abs(delta.scale) * math.sqrt(max(square, 0.0)) if square == square else math.nan


def _gram(rows: Array) -> npt.NDArray[np.float64]:
    """X X^T of [r, n] (or of each expert's); in slices, so that only those are converted."""
    total: npt.NDArray[np.float64] = np.zeros((*rows.shape[:-1], rows.shape[-2]), np.float64)
    for start in range(0, rows.shape[-1], _SLICE):
        part = rows[..., start : start + _SLICE].astype(np.float64)
        total += part @ part.swapaxes(-1, -2)
    return total


_SLICE = 16384


def _module(delta: Delta, values: bool, spectrum: bool) -> ModuleReport:
    return ModuleReport(
        module=delta.module,
        site=delta.site.value,
        rank=delta.rank,
        in_features=delta.in_features,
        out_features=delta.out_features,
        scale=delta.scale,
        alpha=delta.alpha,
        dtype=delta.a.dtype.name,
        parameters=int(delta.a.size + delta.b.size),
        norm=delta_norm(delta) if values else None,
        experts=len(delta.a) if delta.a.ndim == 3 else None,
        spectra=spectra(delta) if spectrum else None,
    )


def _beside(module: ModuleReport, weight: float | None) -> ModuleReport:
    return replace(module, relative_norm=relative([module.norm or 0.0], [weight]))


def _plain(value: Any) -> Any:
    """Nested values as JSON has them: string keys, lists, finite numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
