"""The engines, by name, and which of them runs what. Adding one is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorakit.base.folder import Base
from lorakit.engines.protocol import Engine, EngineOptions
from lorakit.errors import CapabilityError, MissingExtraError
from lorakit.text.tokenizer import TextTokenizer, Tokenizer


@dataclass(frozen=True, slots=True)
class Kind:
    """open: makes the engine. gguf: whether it runs a GGUF file, and not a Hugging Face folder."""

    open: Callable[[Base, EngineOptions], Engine]
    gguf: bool = False


def _onnx(base: Base, options: EngineOptions) -> Engine:
    from lorakit.engines.onnx.engine import OnnxEngine  # loads onnxruntime

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


def _llama(base: Base, options: EngineOptions) -> Engine:
    from lorakit.engines.llama.engine import LlamaEngine  # loads llama.cpp when it is opened

    return LlamaEngine.open(base, options)


ENGINES: dict[str, Kind] = {
    "onnx": Kind(_onnx),
    "torch": Kind(_torch),
    "llama": Kind(_llama, gguf=True),
}


def choose_engine(name: str | None, base: Base) -> str:
    """The engine's name; None is "llama" for a GGUF file and "onnx" for a Hugging Face folder.

    Raises CapabilityError for a name that there is not, and for a base that it does not run.
    """
    if name is None:
        name = "llama" if base.is_gguf else "onnx"
    if name not in ENGINES:
        raise CapabilityError(
            f"this version of lorakit has no engine {name!r}",
            hint=f"engines: {', '.join(ENGINES)}",
        )
    if ENGINES[name].gguf != base.is_gguf:
        kinds = ("a GGUF file", "a Hugging Face folder")
        runs, found = kinds if ENGINES[name].gguf else kinds[::-1]
        others = [other for other, kind in ENGINES.items() if kind.gguf == base.is_gguf]
        raise CapabilityError(
            f"the {name} engine runs {runs}; {base.path} is {found}",
            hint=f"engine: {' or '.join(others)}"
            + ("" if base.is_gguf else "; llama.cpp's convert_hf_to_gguf.py makes GGUF files"),
        )
    return name


def open_engine(name: str, base: Base, options: EngineOptions) -> Engine:
    """Open an engine by name. Errors as of `choose_engine`, and the engine's own."""
    return ENGINES[choose_engine(name, base)].open(base, options)


def require_tokenizer(base: Base) -> None:
    """Raise BaseModelError (tokenizer_missing) where `open_tokenizer` would, if that is cheap."""
    if not base.is_gguf:
        Tokenizer.require(base.path)


def rehearse(base: Base, options: EngineOptions) -> None:
    """Before a base's file meets native code that may end the process over it: try it in a child.

    Raises FormatError for such a file, and MissingExtraError.
    """
    if base.is_gguf:
        from lorakit.engines.llama.options import LlamaOptions
        from lorakit.engines.llama.preflight import rehearse_model  # loads llama.cpp

        rehearse_model(base.path, options.llama or LlamaOptions())


def open_tokenizer(base: Base) -> TextTokenizer:
    """The base's own tokenizer, for a GGUF file through llama.cpp."""
    if not base.is_gguf:
        return Tokenizer.open(base.path)
    from lorakit.engines.llama.tokenizer import LlamaTokenizer  # loads llama.cpp

    return LlamaTokenizer(base.path)
