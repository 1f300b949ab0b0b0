"""lorakit: LoRA adapters for language models, where the user is.

Importing this is inert and cheap: what it offers is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.adapter import Adapter as Adapter
    from lorakit.base.folder import Base as Base
    from lorakit.engines.llama.options import LlamaOptions as LlamaOptions
    from lorakit.engines.protocol import EngineOptions as EngineOptions
    from lorakit.errors import LorakitError as LorakitError
    from lorakit.formats import read_adapter as read_adapter
    from lorakit.merge.cached import MergedAdapter as MergedAdapter
    from lorakit.model.adapter_config import AdapterConfig as AdapterConfig
    from lorakit.model.adapter_config import ModelWarning as ModelWarning
    from lorakit.model.adapters import AdapterInfo as AdapterInfo
    from lorakit.model.adapters import LoadedAdapter as LoadedAdapter
    from lorakit.model.conversation import Session as Session
    from lorakit.model.model import Model as Model
    from lorakit.model.open import open as open
    from lorakit.model.types import Request as Request
    from lorakit.runtime.generation import Completion as Completion
    from lorakit.runtime.sampling import SamplingParams as SamplingParams

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "lorakit.adapter",
    "AdapterConfig": "lorakit.model.adapter_config",
    "AdapterInfo": "lorakit.model.adapters",
    "Base": "lorakit.base.folder",
    "Completion": "lorakit.runtime.generation",
    "EngineOptions": "lorakit.engines.protocol",
    "LlamaOptions": "lorakit.engines.llama.options",
    "LoadedAdapter": "lorakit.model.adapters",
    "LorakitError": "lorakit.errors",
    "MergedAdapter": "lorakit.merge.cached",
    "Model": "lorakit.model.model",
    "ModelWarning": "lorakit.model.adapter_config",
    "Request": "lorakit.model.types",
    "SamplingParams": "lorakit.runtime.sampling",
    "Session": "lorakit.model.conversation",
    "open": "lorakit.model.open",
    "read_adapter": "lorakit.formats",
}
__all__ = [*_HOMES, "__version__"]  # names of the table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lorakit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
