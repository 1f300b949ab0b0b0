"""The engines, by name. Adding one is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable

from lorakit.base import Base
from lorakit.engines.protocol import Engine, EngineOptions
from lorakit.errors import CapabilityError, MissingExtraError


def _onnx(base: Base, options: EngineOptions) -> Engine:
    from lorakit.engines.onnx import OnnxEngine  # loads onnxruntime

    return OnnxEngine.open(base, options)


def _torch(base: Base, options: EngineOptions) -> Engine:
    try:
        from lorakit.engines.torch.engine import TorchEngine  # loads torch and transformers
    except ImportError as error:
        raise MissingExtraError(
            f"the torch engine needs torch and transformers: {error}",
            hint="pip install 'lorakit[torch]'",
        ) from error

    return TorchEngine.open(base, options)


ENGINES: dict[str, Callable[[Base, EngineOptions], Engine]] = {
    "onnx": _onnx,
    "torch": _torch,
}


def open_engine(name: str, base: Base, options: EngineOptions) -> Engine:
    """Open an engine by name. Raises CapabilityError for one that this version does not have."""
    if name not in ENGINES:
        raise CapabilityError(
            f"this version of lorakit has no engine {name!r}",
            hint=f"engines: {', '.join(ENGINES)}",
        )
    return ENGINES[name](base, options)
