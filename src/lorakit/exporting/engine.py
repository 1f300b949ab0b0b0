"""The engine that stands for a runtime which computes what a folder's weights say."""

from __future__ import annotations

from importlib.util import find_spec

from lorakit.base.folder import Base
from lorakit.engines.table import EngineName
from lorakit.errors import CapabilityError, MissingExtraError
from lorakit.graph.decoder import require_supported


def running_engine(base: Base) -> EngineName:
    """The onnx engine, or torch for an architecture that it does not run."""
    try:
        require_supported(base.decoder, "the onnx engine", "")
    except CapabilityError:
        return "torch"
    return "onnx"


def require_runnable(base: Base) -> None:
    """Raise MissingExtraError where an export could not be compared with its base."""
    if running_engine(base) == "torch" and find_spec("torch") is None:
        raise MissingExtraError(
            "this base runs in torch alone, which the proof needs",
            hint="pip install 'lorakit[torch]', or leave the proof out: --no-proof",
        )
