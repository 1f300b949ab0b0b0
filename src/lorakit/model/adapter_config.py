"""AdapterConfig: an adapter to open a base with, and what to do if it fails."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from lorakit.adapter import Adapter
from lorakit.errors import ParameterError
from lorakit.sources import Source, describe, parse
from lorakit.sources.scaled import scaled
from lorakit.values import among, finite, shown, truth

Mode = Literal["dynamic", "merge"]
OnError = Literal["raise", "base"]
Text = Literal["own", "base"]
_CHOICES = {"source": get_args(Source), "mode": get_args(Mode), "on_error": get_args(OnError)}


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How `lorakit.open` gets and applies an adapter.

    path: a path, an https:// URL, hf:org/repo[@revision][/subfolder].
    source: the kind that `path` must be; "auto" detects it.
    mode: "dynamic" applies it at run time, so that its scale can change; "merge" adds it to the
    base's weights, which supports any adapter and costs nothing at run time, but is permanent.
    scale: multiplies the adapter's own effective scale, alpha / r; None is the default_scale that
    its lorakit.json says, else 1. absolute_scale: replaces alpha / r instead, in every module.
    alpha, mlx_version, partial, allow_pickle: as in `formats.read_adapter`, for weights without a
    config, MLX adapters whose scale depends on a version, incomplete saves, and pickles.
    on_error: "raise", or "base": continue without this adapter, with a note in `Model.warnings`.
    alias: what the adapter is called; None is the last part of `path`. Two of one alias are refused
    when a model is opened.
    text: "own" uses the tokenizer and the chat template that it brings where all adapters agree on
    them, with a note in `Model.warnings`; "base" leaves the base's.
    Raises ParameterError.
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    source: Source = "auto"
    mode: Mode = "dynamic"
    scale: float | None = None
    absolute_scale: float | None = None
    alpha: float | None = None
    mlx_version: str | None = None
    partial: bool = False
    allow_pickle: bool = False
    on_error: OnError = "raise"
    alias: str | None = None
    text: Text = "own"

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise ParameterError(f"path must be a path or a reference, not {shown(self.path)}")
        for name, allowed in (_CHOICES | {"text": get_args(Text)}).items():
            if not among(value := getattr(self, name), allowed):
                raise ParameterError(f"{name} is {' or '.join(allowed)}, not {shown(value)}")
        for name in ("scale", "absolute_scale", "alpha"):
            value = getattr(self, name)
            if value is not None and not finite(value):
                raise ParameterError(f"{name} must be None or a finite number, not {shown(value)}")
        if self.scale is not None and self.absolute_scale is not None:
            raise ParameterError(
                "scale multiplies the adapter's own, absolute_scale replaces it", hint="give one"
            )
        if self.alias is not None and not (isinstance(self.alias, str) and self.alias):
            raise ParameterError(f"alias must be None or a name, not {shown(self.alias)}")
        if self.mlx_version is not None and not isinstance(self.mlx_version, str):
            raise ParameterError(
                f"mlx_version must be None or a text, not {shown(self.mlx_version)}"
            )
        for name in ("partial", "allow_pickle"):
            if not truth(value := getattr(self, name)):
                raise ParameterError(f"{name} must be true or false, not {shown(value)}")

    @property
    def name(self) -> str:
        """The adapter's name: its alias, else the last part of its reference."""
        if self.alias is not None:
            return self.alias
        return parse(self.path, self.source).name

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `formats.read_adapter` among its own, those that are set."""
        names = ("alpha", "mlx_version", "partial", "allow_pickle")
        values = {name: getattr(self, name) for name in names}
        return {
            name: value
            for name, value in values.items()
            if value is not None and value is not False
        }

    def __repr__(self) -> str:
        """Hides secrets in URLs."""
        values = [repr(describe(self.path)), *(f"{k}={getattr(self, k)!r}" for k in _CHOICES)]
        values.append(f"scale={self.scale!r}")
        others = {"absolute_scale": self.absolute_scale, "alias": self.alias, **self.reading}
        values += [f"{name}={value!r}" for name, value in others.items() if value is not None]
        values += [f"text={self.text!r}"] if self.text != "own" else []
        return f"AdapterConfig({', '.join(values)})"


def config_of(reference: str, **others: Any) -> AdapterConfig:
    """What a reference says: "home", "home:0.5", "home:=2.0", "lights=home:0.5".

    others: further fields. Raises ParameterError.
    """
    said = scaled(reference)
    return AdapterConfig(
        said.path,
        scale=said.scale,
        absolute_scale=said.absolute,
        alias=said.name or None,
        **others,
    )


SAME_SCALE, READ, TEXT_ALONE = "same_scale", "adapter_read", "text_alone"
MERGED, SAMPLING, CONTEXT = "adapter_merged", "sampling_ignored", "context_limited"
FALLBACK = "fallback"
SAME_ADAPTER = "same_adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWarning:
    """What did not prevent opening the model. `code` is that of the error, where one was survived;
    else SAME_SCALE, READ for what reading the adapter had to decide, TEXT_ALONE for a model that
    also sees, of which the text model runs, MERGED for what merging into a GGUF file made, SAMPLING
    for values of the model's own defaults that are none, CONTEXT where it holds fewer tokens than
    were asked for, FALLBACK where a server answers until the model is open, or SAME_ADAPTER for one
    that was given twice."""

    code: str
    message: str
    adapter: str  # its reference, safe to show; empty: it is about the base


AdapterRef = str | os.PathLike[str] | Adapter
AdapterChoice = AdapterRef | AdapterConfig


def as_choices(
    adapter: AdapterChoice | Iterable[AdapterChoice] | None,
) -> list[Adapter | AdapterConfig]:
    """One adapter or several, in any form, as a list. Raises ParameterError."""
    if adapter is None:
        return []
    one = isinstance(adapter, str | os.PathLike | Adapter | AdapterConfig)
    if not one and (isinstance(adapter, Mapping) or not isinstance(adapter, Iterable)):
        raise ParameterError(
            f"adapter must be a reference or an AdapterConfig, or several, not {shown(adapter)}",
            hint="a scale is said by AdapterConfig(path, scale=0.5)",
        )
    several: Iterable[AdapterChoice] = [adapter] if one else adapter  # type: ignore[list-item,assignment]  # told apart by `one`
    return [
        choice if isinstance(choice, Adapter | AdapterConfig) else AdapterConfig(choice)
        for choice in several
    ]


def require_aliases(choices: Iterable[Adapter | AdapterConfig]) -> None:
    """Raise ParameterError for an alias that stands for two adapters."""
    counts = Counter(choice.alias for choice in choices if isinstance(choice, AdapterConfig))
    if twice := [shown(alias) for alias, count in counts.items() if alias and count > 1]:
        raise ParameterError(
            f"two adapters are called {', '.join(twice)}", hint="give each a name of its own"
        )
