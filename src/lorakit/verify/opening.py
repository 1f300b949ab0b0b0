"""The two sides of a comparison as they are named, and how a side that is a model is opened.

The other side is named in one line: "base", "peft", "engine:NAME", "quantize:HOW", "model:BASE",
"on:BASE", a model's folder, recorded logits, or adapters. Nothing is printed; a caller that shows
how far opening is brings its Opener.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from lorakit.base.exported import is_export, is_graph
from lorakit.engines.onnx.options import CALIBRATED, Quantization
from lorakit.engines.table import EngineName, engine_named
from lorakit.errors import ParameterError
from lorakit.files.gguf import is_gguf
from lorakit.model.adapter_config import config_of
from lorakit.model.open import open as open_model
from lorakit.verify.forms import GGUF

if TYPE_CHECKING:
    from lorakit.model.model import Model

OPENED = ("engine", "quantize", "model", "on")  # words before a colon: what another model is


class Opener(Protocol):
    """Opens a base with adapters (REF[:SCALE]) active. reading: fields of AdapterConfig."""

    def __call__(
        self,
        base: str,
        adapters: Sequence[str],
        *,
        engine: EngineName | None,
        quantize: Quantization,
        calibration: Path | None,
        threads: int | None,
        allow_private: bool,
        reading: Mapping[str, Any],
    ) -> Model: ...


def open_references(
    base: str,
    adapters: Sequence[str],
    *,
    engine: EngineName | None,
    quantize: Quantization,
    calibration: Path | None,
    threads: int | None,
    allow_private: bool,
    reading: Mapping[str, Any],
) -> Model:
    """The Opener that shows nothing."""
    return open_model(
        base,
        adapter=[config_of(reference, **reading) for reference in adapters],
        engine=engine,
        quantize=quantize,
        calibration=calibration,
        threads=threads,
        allow_private=allow_private,
    )


@dataclass(frozen=True, slots=True)
class Opening:
    """How the first side is opened; the other differs in what it is said to be.

    calibration: the text for weights of 8 and 4 bits, of either side. reading: how all adapters of
    both are read, as fields of AdapterConfig.
    """

    base: str
    adapters: tuple[str, ...] = ()
    engine: EngineName | None = None
    quantize: Quantization = "none"
    threads: int | None = None
    allow_private: bool = False
    opener: Opener = open_references
    calibration: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Model:
        """Raises what lorakit.open raises."""
        return self.opener(
            self.base,
            self.adapters,
            engine=self.engine,
            quantize=self.quantize,
            calibration=self.calibration if self.quantize in CALIBRATED else None,
            threads=self.threads,
            allow_private=self.allow_private,
            reading=self.reading,
        )

    @property
    def text(self) -> str:
        """The side in words: base + adapters (engine)."""
        held = "" if self.quantize == "none" else f", {self.quantize}"
        engine = self.engine or ("llama" if is_gguf(Path(self.base)) else "onnx")
        return " + ".join([self.base, *self.adapters]) + f" ({engine}{held})"

    def changed(self, other: Other) -> Opening:
        """What a kind of "engine", "quantize", "model" or "on" opens instead."""
        if other.kind in ("model", "on"):
            same = _stored_as(other.value) == _stored_as(self.base)
            adapters = () if other.kind == "model" else self.adapters
            changed = replace(self, base=other.value, adapters=adapters)
            return changed if same else replace(changed, engine=None, quantize="none")
        if other.kind == "engine":
            engine = engine_named(other.value)
            return replace(
                self, engine=engine, quantize=self.quantize if engine == "onnx" else "none"
            )
        held: Quantization = next(q for q in get_args(Quantization) if q == other.value)
        return replace(self, quantize=held)


@dataclass(frozen=True, slots=True)
class Other:
    """The other side as it was named: its kind, and what stands after the colon or the path."""

    kind: str  # "base", "peft", "engine", "quantize", "model", "on", "record", "adapters"
    value: str
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        return " + ".join(self.references)


def parse_other(against: Sequence[str]) -> Other:
    """Words first, then what is there: `./peft` is a folder, `peft` is PEFT. ParameterError."""
    if not against:
        raise ParameterError("there is nothing to compare with")
    kinds = {_kind(reference) for reference in against}
    if kinds != {"adapters"} and len(against) > 1:
        raise ParameterError(
            "only adapters can be named together as the other side",
            items=[f"{reference}: {_kind(reference)}" for reference in against],
        )
    kind = kinds.pop()
    value = against[0].partition(":")[2] if kind == against[0].partition(":")[0] else against[0]
    if kind == "quantize" and value not in get_args(Quantization):
        raise ParameterError(
            f"there are no weights {value!r}",
            hint=", ".join(f"quantize:{name}" for name in get_args(Quantization)),
        )
    return Other(kind, value, tuple(against))


def _stored_as(base: str) -> str:
    """What kind of files a base is in; an engine of one kind is none for another."""
    path = Path(base).expanduser()
    return "export" if is_export(path) else GGUF if is_gguf(path) else "folder"


def _kind(reference: str) -> str:
    word, colon, _ = reference.partition(":")
    if reference in ("base", "peft") or (colon and word in OPENED):
        return word
    if reference.partition("#")[0].endswith(".npz"):
        return "record"
    folder = Path(reference).expanduser()
    if is_graph(folder) and is_export(folder):
        return "model"
    model = (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()
    return "model" if model else "adapters"
