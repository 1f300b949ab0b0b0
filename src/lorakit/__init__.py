"""lorakit: LoRA adapters for language models, where the user is.

Importing this is inert and cheap: what it offers is loaded when it is first used. docs/api.md says
which names and modules are public.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorakit import algebra as algebra
    from lorakit import check as check
    from lorakit import demo as demo
    from lorakit import errors as errors
    from lorakit import formats as formats
    from lorakit import merge as merge
    from lorakit import sources as sources
    from lorakit import verify as verify
    from lorakit.adapter import Adapter as Adapter
    from lorakit.adapter import Delta as Delta
    from lorakit.adapter import Magnitude as Magnitude
    from lorakit.adapter import Precondition as Precondition
    from lorakit.adapter import Reading as Reading
    from lorakit.adapter import Replacement as Replacement
    from lorakit.adapter import Site as Site
    from lorakit.base.folder import Base as Base
    from lorakit.chat.calls import Malformed as Malformed
    from lorakit.chat.calls import ParsedReply as ParsedReply
    from lorakit.chat.calls import Repair as Repair
    from lorakit.chat.calls import ToolCall as ToolCall
    from lorakit.chat.events import CallArguments as CallArguments
    from lorakit.chat.events import CallEnd as CallEnd
    from lorakit.chat.events import CallStart as CallStart
    from lorakit.chat.events import CallWithdrawn as CallWithdrawn
    from lorakit.chat.events import ReasoningDelta as ReasoningDelta
    from lorakit.chat.events import TextDelta as TextDelta
    from lorakit.chat.events import Withdrawn as Withdrawn
    from lorakit.chat.functions import Tool as Tool
    from lorakit.chat.messages import Message as Message
    from lorakit.chat.rendering import ControlTokens as ControlTokens
    from lorakit.chat.rendering import RenderOptions as RenderOptions
    from lorakit.engines.llama.options import LlamaOptions as LlamaOptions
    from lorakit.engines.onnx.options import OnnxOptions as OnnxOptions
    from lorakit.engines.onnx.options import Quantization as Quantization
    from lorakit.engines.protocol import Capabilities as Capabilities
    from lorakit.engines.protocol import EngineOptions as EngineOptions
    from lorakit.engines.protocol import Logits as Logits
    from lorakit.engines.table import EngineName as EngineName
    from lorakit.engines.table import RuntimeName as RuntimeName
    from lorakit.engines.torch.options import Device as Device
    from lorakit.engines.torch.options import TorchOptions as TorchOptions
    from lorakit.errors import AdapterError as AdapterError
    from lorakit.errors import BaseModelError as BaseModelError
    from lorakit.errors import CancelledError as CancelledError
    from lorakit.errors import CapabilityError as CapabilityError
    from lorakit.errors import ClosedError as ClosedError
    from lorakit.errors import ContextFullError as ContextFullError
    from lorakit.errors import DeadlineError as DeadlineError
    from lorakit.errors import EngineError as EngineError
    from lorakit.errors import FormatError as FormatError
    from lorakit.errors import LorakitError as LorakitError
    from lorakit.errors import MismatchError as MismatchError
    from lorakit.errors import MissingExtraError as MissingExtraError
    from lorakit.errors import NameTakenError as NameTakenError
    from lorakit.errors import ParameterError as ParameterError
    from lorakit.errors import ParityError as ParityError
    from lorakit.errors import QueueFullError as QueueFullError
    from lorakit.errors import RequestError as RequestError
    from lorakit.errors import ServerError as ServerError
    from lorakit.errors import SourceError as SourceError
    from lorakit.errors import UnknownAdapterError as UnknownAdapterError
    from lorakit.errors import UnsupportedError as UnsupportedError
    from lorakit.errors import WriteError as WriteError
    from lorakit.exporting.export import export as export
    from lorakit.exporting.parity import Parity as Parity
    from lorakit.exporting.parity import ProofOptions as ProofOptions
    from lorakit.exporting.push import PushResult as PushResult
    from lorakit.exporting.push import push as push
    from lorakit.exporting.result import ExportedFile as ExportedFile
    from lorakit.exporting.result import ExportProgress as ExportProgress
    from lorakit.exporting.result import ExportResult as ExportResult
    from lorakit.formats import FormatName as FormatName
    from lorakit.formats import read_adapter as read_adapter
    from lorakit.formats.readback import Dtype as Dtype
    from lorakit.merge.cached import MergedAdapter as MergedAdapter
    from lorakit.model.adapter_config import AdapterChoice as AdapterChoice
    from lorakit.model.adapter_config import AdapterConfig as AdapterConfig
    from lorakit.model.adapter_config import AdapterRef as AdapterRef
    from lorakit.model.adapter_config import ModelWarning as ModelWarning
    from lorakit.model.adapters import AdapterInfo as AdapterInfo
    from lorakit.model.adapters import LoadedAdapter as LoadedAdapter
    from lorakit.model.adapters import Scales as Scales
    from lorakit.model.chat_stream import ChatStream as ChatStream
    from lorakit.model.conversation import Session as Session
    from lorakit.model.conversation import Turn as Turn
    from lorakit.model.model import Model as Model
    from lorakit.model.open import EngineKeywords as EngineKeywords
    from lorakit.model.open import open as open
    from lorakit.model.tool_loop import ToolStream as ToolStream
    from lorakit.model.tool_types import RunEnd as RunEnd
    from lorakit.model.tool_types import ToolFinished as ToolFinished
    from lorakit.model.tool_types import ToolKeywords as ToolKeywords
    from lorakit.model.tool_types import ToolLimits as ToolLimits
    from lorakit.model.tool_types import ToolRun as ToolRun
    from lorakit.model.tool_types import ToolStarted as ToolStarted
    from lorakit.model.tool_types import ToolStep as ToolStep
    from lorakit.model.types import ChatKeywords as ChatKeywords
    from lorakit.model.types import ChatPrompt as ChatPrompt
    from lorakit.model.types import ChatReply as ChatReply
    from lorakit.model.types import Event as Event
    from lorakit.model.types import Prompt as Prompt
    from lorakit.model.types import ReplyEnd as ReplyEnd
    from lorakit.model.types import Request as Request
    from lorakit.runtime.generation import Completion as Completion
    from lorakit.runtime.generation import FinishReason as FinishReason
    from lorakit.runtime.generation import Stream as Stream
    from lorakit.runtime.generation import Usage as Usage
    from lorakit.runtime.params import SamplingOptions as SamplingOptions
    from lorakit.runtime.params import SamplingParams as SamplingParams
    from lorakit.runtime.sampling import Choice as Choice
    from lorakit.runtime.stages import KvPolicy as KvPolicy
    from lorakit.sources import OnProgress as OnProgress
    from lorakit.sources import Progress as Progress
    from lorakit.sources import Source as Source
    from lorakit.training.result import TrainResult as TrainResult
    from lorakit.training.run import train as train

__version__ = "0.1.0"

_MODULES = ("algebra", "check", "demo", "errors", "formats", "merge", "sources", "verify")
_NAMES = {  # by the module that defines them
    "adapter": "Adapter Delta Magnitude Precondition Reading Replacement Site",
    "base.folder": "Base",
    "chat.calls": "Malformed ParsedReply Repair ToolCall",
    "chat.events": (
        "CallArguments CallEnd CallStart CallWithdrawn ReasoningDelta TextDelta Withdrawn"
    ),
    "chat.functions": "Tool",
    "chat.messages": "Message",
    "chat.rendering": "ControlTokens RenderOptions",
    "engines.llama.options": "LlamaOptions",
    "engines.onnx.options": "OnnxOptions Quantization",
    "engines.protocol": "Capabilities EngineOptions Logits",
    "engines.table": "EngineName RuntimeName",
    "engines.torch.options": "Device TorchOptions",
    "errors": (
        "AdapterError BaseModelError CancelledError CapabilityError ClosedError "
        "ContextFullError DeadlineError EngineError FormatError LorakitError MismatchError "
        "MissingExtraError NameTakenError ParameterError ParityError QueueFullError "
        "RequestError ServerError SourceError UnknownAdapterError UnsupportedError WriteError"
    ),
    "exporting.export": "export",
    "exporting.parity": "Parity ProofOptions",
    "exporting.push": "PushResult push",
    "exporting.result": "ExportProgress ExportResult ExportedFile",
    "formats": "FormatName read_adapter",
    "formats.readback": "Dtype",
    "merge.cached": "MergedAdapter",
    "model.adapter_config": "AdapterChoice AdapterConfig AdapterRef ModelWarning",
    "model.adapters": "AdapterInfo LoadedAdapter Scales",
    "model.chat_stream": "ChatStream",
    "model.conversation": "Session Turn",
    "model.model": "Model",
    "model.open": "EngineKeywords open",
    "model.tool_loop": "ToolStream",
    "model.tool_types": (
        "RunEnd ToolFinished ToolKeywords ToolLimits ToolRun ToolStarted ToolStep"
    ),
    "model.types": "ChatKeywords ChatPrompt ChatReply Event Prompt ReplyEnd Request",
    "runtime.generation": "Completion FinishReason Stream Usage",
    "runtime.params": "SamplingOptions SamplingParams",
    "runtime.sampling": "Choice",
    "runtime.stages": "KvPolicy",
    "sources": "OnProgress Progress Source",
    "training.result": "TrainResult",
    "training.run": "train",
}
_HOMES = {name: f"lorakit.{home}" for home, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # with a `__getattr__` in sight, checkers let every name pass
    __all__ = [*_HOMES, "__version__"]

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"lorakit.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'lorakit' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted([*__all__, *_MODULES])
