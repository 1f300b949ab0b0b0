"""What is evaluated beside each other, in one word each: "base", "merged", "int8", "home:0.5".

Words are joined by "+": merged+int8 is the merge in int8, home:0.5+style:0.3 two adapters at once.
No model is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

from lorakit.engines.onnx.options import Quantization
from lorakit.engines.table import ENGINES, EngineName
from lorakit.errors import ParameterError
from lorakit.model.adapter_config import AdapterConfig
from lorakit.model.load import default_scale
from lorakit.sources import Local, default_name, parse
from lorakit.sources.scaled import scaled
from lorakit.training.evaluate.constrained import REQUIRED, Constrained
from lorakit.values import shown

MAX_SCALES = 64
_NUMBER = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")
CONSTRAINED: dict[str, Constrained] = {"free": False, "constrained": True, "required": REQUIRED}
WORDS = (
    *("base", "merged", *ENGINES, *get_args(Quantization), *CONSTRAINED, "on:BASE", "model:BASE"),
)


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter of a side: its reference, and what its own scale is multiplied by; None is the
    default of one that is not here yet. absolute: what alpha / r is replaced by before that. label:
    what it is called."""

    reference: str
    scale: float | None = None
    absolute: float | None = None
    label: str = field(default="", compare=False)

    @property
    def loaded(self) -> AdapterConfig:
        """What is loaded to run it, at any scale."""
        return AdapterConfig(self.reference, absolute_scale=self.absolute)

    @property
    def merged(self) -> AdapterConfig:
        """The same in the base's weights."""
        if self.absolute is None:
            return AdapterConfig(self.reference, mode="merge", scale=self.scale)
        factor = 1.0 if self.scale is None else self.scale
        return AdapterConfig(self.reference, mode="merge", absolute_scale=self.absolute * factor)

    def to_list(self) -> list[Any]:
        """For JSON: what is loaded, and its scale."""
        said = self.reference if self.absolute is None else f"{self.reference}:={self.absolute!r}"
        return [said, self.scale]

    def times(self, factor: float) -> Applied:
        """The same at another scale."""
        return replace(self, scale=(1.0 if self.scale is None else self.scale) * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One side: a base with adapters, how it runs, and what it is called.

    merged: with the adapters in the base's weights. constrained: as in `evaluate`. scale: where it
    is a step of a sweep.
    """

    name: str
    base: str
    adapters: tuple[Applied, ...] = ()
    merged: bool = False
    constrained: Constrained = False
    engine: EngineName | None = None
    quantize: Quantization = "none"
    scale: float | None = None

    @property
    def model(self) -> Contestant:
        """What has to be opened for it; the same for all that run on one model."""
        held = self.adapters if self.merged else ()
        return replace(self, name="", scale=None, constrained=False, adapters=held)

    @property
    def applied(self) -> tuple[Applied, ...]:
        """The adapters that act at run time."""
        return () if self.merged else self.adapters

    @property
    def setting(self) -> tuple[tuple[Applied, ...], Constrained]:
        """What tells it from others on its model; those of the same answer alike."""
        return self.applied, self.constrained

    @property
    def free(self) -> Contestant:
        """The same without constraints and names."""
        return replace(self, name="", scale=None, constrained=False)


def first_contestant(
    base: str,
    adapters: Sequence[str] = (),
    *,
    engine: EngineName | None = None,
    quantize: Quantization = "none",
    constrained: Constrained = False,
) -> Contestant:
    """The one that all others are compared with."""
    applied = tuple(map(_applied, adapters))
    name = " + ".join(map(_said, applied)) or "base"
    if constrained:
        name += next(f"+{word}" for word, how in CONSTRAINED.items() if how == constrained)
    return Contestant(
        name=name,
        base=base,
        adapters=applied,
        engine=engine,
        quantize=quantize,
        constrained=constrained,
    )


def contestants(first: Contestant, words: Sequence[str]) -> list[Contestant]:
    """The others, from comma-separated words; see docs/evaluate.md. Raises ParameterError."""
    found = [word.strip() for each in words for word in _split(each, ",") if word.strip()]
    return [_contestant(first, word) for word in found]


def sweep(first: Contestant, scales: Sequence[float]) -> list[Contestant]:
    """The first with its adapters' scales multiplied by each of some. Raises ParameterError."""
    if scales and not first.adapters:
        raise ParameterError(
            "there is no adapter whose scale could be changed", hint="name one with adapter="
        )
    return [
        replace(
            first,
            name=f"{first.name} x {scale:g}",
            adapters=tuple(each.times(scale) for each in first.adapters),
            scale=scale,
        )
        for scale in scales
    ]


def parse_scales(text: str) -> list[float]:
    """0:1.25:0.25 (from, to, step; both ends) or 0.5,0.9,1. Raises ParameterError."""
    try:
        numbers = [Decimal(part.strip()) for part in text.replace(":", ",").split(",")]
    except InvalidOperation:
        numbers = []
    if not numbers or not all(number.is_finite() for number in numbers):
        raise ParameterError(f"{shown(text)} are no scales", hint=_SCALES)
    if ":" not in text:
        found = numbers
    else:
        if len(numbers) != 3 or "," in text or numbers[2] <= 0 or numbers[0] > numbers[1]:
            raise ParameterError(f"{shown(text)} is no range of scales", hint=_SCALES)
        low, high, step = numbers
        if (high - low) / step >= MAX_SCALES:
            raise ParameterError(f"{shown(text)} is more than {MAX_SCALES} scales")
        found = [low + step * n for n in range(int((high - low) / step) + 1)]
    if len(found) > MAX_SCALES:
        raise ParameterError(f"{shown(text)} is more than {MAX_SCALES} scales")
    return list(dict.fromkeys(float(number) for number in found))


_SCALES = "FROM:TO:STEP such as 0:1.25:0.25, or single ones such as 0.5,0.9,1"


def _contestant(first: Contestant, word: str) -> Contestant:
    """A word against the first: it changes what the word says, and keeps the rest."""
    found, adapters, base = replace(first, name=word), list[Applied](), ""
    for part in _split(word, "+"):
        kind, _, value = part.partition(":")
        if part == "base":
            base, found = part, replace(found, adapters=())
        elif part == "merged":
            found = replace(found, merged=True)
        elif part in CONSTRAINED:
            found = replace(found, constrained=CONSTRAINED[part])
        elif part in ENGINES:
            found = replace(found, engine=_engine(part))
        elif part in get_args(Quantization):
            found = replace(found, quantize=_quantization(part))
        elif kind in ("on", "model") and value:
            found = replace(found, base=value, engine=None)
            if kind == "model":
                base, found = part, replace(found, adapters=())
        elif _is_model(part):
            base, found = part, replace(found, base=part, adapters=())
        else:
            adapters.append(_adapter(part))
    if adapters and base:
        raise ParameterError(
            f"{shown(word)} names adapters and also {base}, which is without any",
            hint="on:BASE is another file of the base with adapters",
        )
    names = [each.reference for each in adapters]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ParameterError(f"{shown(word)} names {', '.join(sorted(twice))} twice")
    if adapters:
        found = replace(found, adapters=tuple(adapters))
    found = replace(found, name="+".join(map(_named, _split(word, "+"))))
    if found.merged and not found.adapters:
        raise ParameterError(f"{shown(word)}: there is no adapter to merge")
    return found


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks; a path that holds one is left whole."""
    path = text.strip().removeprefix("on:").removeprefix("model:")
    head, _, scale = path.rpartition(":")
    is_scaled = bool(_NUMBER.fullmatch(scale.removeprefix("="))) and _is_there(Path(head))
    return [text] if is_scaled or _is_there(Path(path)) else text.split(mark)


def _is_there(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # longer than a name may be, say
        return False


def _is_model(part: str) -> bool:
    folder = Path(part)
    return _is_there(folder / "config.json") and not _is_there(folder / "adapter_config.json")


def _adapter(part: str) -> Applied:
    """An adapter's reference with its scale; a word that means nothing is told from a path."""
    applied = _applied(part)
    found = parse(applied.reference)
    if isinstance(found, Local) and not _is_there(found.path):
        raise ParameterError(
            f"{shown(part)} is no adapter that is there, and no word to compare with",
            hint=f"words: {', '.join(WORDS)}; or an adapter's path, URL or hf:org/repo",
        )
    return applied


def _applied(part: str) -> Applied:
    said = scaled(part)
    found, scale = parse(said.path), said.scale
    unsaid = scale is None and said.absolute is None
    if unsaid and isinstance(found, Local) and _is_there(found.path):
        scale = default_scale(found.path)
    return Applied(said.path, scale, said.absolute, said.name)


def _named(part: str) -> str:
    """A part of a word without the folders of its path."""
    kind, colon, value = part.partition(":")
    if part in WORDS:
        return part
    if kind in ("on", "model") and value:
        return f"{kind}{colon}{default_name(value)}"
    return default_name(part) if _is_model(part) else _said(_applied(part))


def _said(applied: Applied) -> str:
    name = applied.label or default_name(applied.reference)
    if applied.absolute is not None:
        return f"{name}:={applied.absolute:g}"
    return name if applied.scale in (None, 1.0) else f"{name}:{applied.scale:g}"


def _engine(word: str) -> EngineName:
    return next(name for name in ENGINES if name == word)


def _quantization(word: str) -> Quantization:
    found: Quantization = next(name for name in get_args(Quantization) if name == word)
    return found
