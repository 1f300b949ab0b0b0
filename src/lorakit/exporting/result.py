"""What an export says of itself while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorakit.exporting.parity import Parity

Phase = Literal["preparing", "converting", "quantising", "verifying"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """How far an export is. file: that is being made. done, total: bytes of it, about, or runs of
    the proof."""

    phase: Phase
    file: str = ""
    done: int = 0
    total: int = 0


OnExport = Callable[[ExportProgress], None]  # what it raises ends the export, and leaves nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One form. path: what a runtime opens; parts: all of its files. nbytes: of them. seconds: that
    making it took, and proving it.

    parity: None where it was not to be proven.
    """

    form: str
    path: Path
    parts: tuple[Path, ...]
    nbytes: int
    seconds: float
    proof_seconds: float = 0.0
    parity: Parity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported folder. to: onnx, gguf, safetensors or mlx. kind: what became of the adapters.
    nbytes: of all that is in it. seconds: that all of it took. notes: what its user should know.
    """

    output: Path
    to: str
    kind: str
    context: int
    files: tuple[ExportedFile, ...]
    nbytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> Mapping[str, Any]:
        """Plain values, for JSON."""
        return {
            "output": str(self.output),
            "to": self.to,
            "adapters": self.kind,
            "context": self.context,
            "bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "files": [
                {
                    "form": file.form,
                    "path": str(file.path),
                    "parts": [str(part) for part in file.parts],
                    "bytes": file.nbytes,
                    "seconds": round(file.seconds, 3),
                    "proof_seconds": round(file.proof_seconds, 3),
                    "parity": None if file.parity is None else file.parity.to_dict(),
                }
                for file in self.files
            ],
        }
