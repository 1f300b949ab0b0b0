"""lorakit: LoRA adapters for language models, where the user is.

Importing this is inert and cheap: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.adapter import Adapter as Adapter
    from lorakit.adapter_config import AdapterConfig as AdapterConfig
    from lorakit.adapter_config import ModelWarning as ModelWarning
    from lorakit.base import Base as Base
    from lorakit.engines.llama.options import LlamaOptions as LlamaOptions
    from lorakit.engines.protocol import EngineOptions as EngineOptions
    from lorakit.errors import LorakitError as LorakitError
    from lorakit.formats import read_adapter as read_adapter
    from lorakit.loaded import AdapterInfo as AdapterInfo
    from lorakit.loaded import LoadedAdapter as LoadedAdapter
    from lorakit.merged import MergedAdapter as MergedAdapter
    from lorakit.model import Model as Model
    from lorakit.opening import open as open
    from lorakit.requests import Request as Request
    from lorakit.runtime.generation import Completion as Completion
    from lorakit.runtime.sampling import SamplingParams as SamplingParams
    from lorakit.session import Session as Session

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "lorakit.adapter",
    "AdapterConfig": "lorakit.adapter_config",
    "AdapterInfo": "lorakit.loaded",
    "Base": "lorakit.base",
    "Completion": "lorakit.runtime.generation",
    "EngineOptions": "lorakit.engines.protocol",
    "LlamaOptions": "lorakit.engines.llama.options",
    "LoadedAdapter": "lorakit.loaded",
    "LorakitError": "lorakit.errors",
    "MergedAdapter": "lorakit.merged",
    "Model": "lorakit.model",
    "ModelWarning": "lorakit.adapter_config",
    "Request": "lorakit.requests",
    "SamplingParams": "lorakit.runtime.sampling",
    "Session": "lorakit.session",
    "open": "lorakit.opening",
    "read_adapter": "lorakit.formats",
}
__all__ = [*_HOMES, "__version__"]  # names of the table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lorakit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
