"""The engines, by name: what each runs, how it opens, and what a user may choose of it.

Adding one is a folder and one row here. Importing this loads no engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from lorakit.base.folder import Base
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import Engine, EngineOptions
from lorakit.engines.torch.options import TorchOptions
from lorakit.errors import CapabilityError, MissingExtraError, ParameterError
from lorakit.text.tokenizer import TextTokenizer, Tokenizer
from lorakit.values import among, shown

log = logging.getLogger("lorakit")
EngineName = Literal["onnx", "llama", "torch"]
RuntimeName = Literal[EngineName, "api"]  # and a model on a server


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An engine's row.

    options: the class of its options. open, tokenizer: make the engine, and what its bases' texts
    are encoded with. require: raises early what `tokenizer` would raise, where that is cheap.
    preflight: tries a file in a child process first, if native code could crash on it.
    gguf: whether it runs a GGUF file, and not a Hugging Face folder. others: options of other
    engines, each with the error for choosing it: (values that mean "not chosen", message, hint).
    """

    options: type[EngineOptions]
    open: Callable[[Base, Any], Engine]
    tokenizer: Callable[[Base], TextTokenizer]
    require: Callable[[Base], object] = lambda base: None
    preflight: Callable[[Base, Any], object] = lambda base, options: None
    gguf: bool = False
    others: Mapping[str, tuple[tuple[Any, ...], str, str]] = field(default_factory=dict)


def _onnx(base: Base, options: OnnxOptions) -> Engine:
    if base.exported is not None:
        from lorakit.engines.onnx.exported import ExportedEngine  # loads onnxruntime

        return ExportedEngine.open(base, base.exported, options)
    from lorakit.engines.onnx.engine import OnnxEngine  # loads onnxruntime

    return OnnxEngine.open(base, options)


def _torch(base: Base, options: TorchOptions) -> Engine:
    from lorakit.engines.torch.versions import require_versions  # reads metadata, which is slow

    require_versions("torch", "transformers")
    try:
        from lorakit.engines.torch.engine import TorchEngine  # loads torch and transformers
    except ImportError as error:
        raise MissingExtraError(
            f"the torch engine needs torch and transformers: {error}",
            hint="pip install 'lorakit[torch]'",
        ) from error

    return TorchEngine.open(base, options)


def _llama(base: Base, options: LlamaOptions) -> Engine:
    from lorakit.engines.llama.engine import LlamaEngine  # loads llama.cpp when it is opened

    return LlamaEngine.open(base, options)


def _llama_tokenizer(base: Base) -> TextTokenizer:
    from lorakit.engines.llama.tokenizer import LlamaTokenizer  # loads llama.cpp

    return LlamaTokenizer(base.path)


def _llama_preflight(base: Base, options: LlamaOptions) -> None:
    from lorakit.engines.llama.preflight import preflight_model  # loads llama.cpp

    preflight_model(base.path, options)


def _folder_tokenizer(base: Base) -> TextTokenizer:
    return Tokenizer.open(base.path)


def _require_tokenizer(base: Base) -> None:
    Tokenizer.require(base.path)


_LLAMA_ALONE = (
    (None,),
    "LlamaOptions are for GGUF files; this engine runs a Hugging Face folder",
    "leave llama= (on the command line: --gpu-layers) out",
)
_CALIBRATION = (
    (None,),
    "a calibration text is for weights that the ONNX engine quantises",
    "leave it out",
)
_PROJECTOR = (
    (None,),
    "a projector goes with a GGUF model",
    "open the GGUF file of the vision model",
)
ENGINES: dict[EngineName, Kind] = {
    "onnx": Kind(
        options=OnnxOptions,
        open=_onnx,
        tokenizer=_folder_tokenizer,
        require=_require_tokenizer,
        others={
            "device": (
                (None, "cpu"),
                "the ONNX engine runs on the CPU",
                'leave device out, or use engine="torch"',
            ),
            "llama": _LLAMA_ALONE,
            "mmproj": _PROJECTOR,
        },
    ),
    "torch": Kind(
        options=TorchOptions,
        open=_torch,
        tokenizer=_folder_tokenizer,
        require=_require_tokenizer,
        others={
            "quantize": (
                ("none",),
                "the torch engine computes in float32, not in quantized weights",
                'leave quantize at "none", or use engine="onnx"',
            ),
            "calibration": _CALIBRATION,
            "llama": _LLAMA_ALONE,
            "mmproj": _PROJECTOR,
        },
    ),
    "llama": Kind(
        options=LlamaOptions,
        open=_llama,
        tokenizer=_llama_tokenizer,
        preflight=_llama_preflight,
        gguf=True,
        others={
            "quantize": (
                ("none",),
                "the llama engine runs a GGUF file as it is stored",
                "lorakit quantize IN.gguf OUT.gguf --type Q8_0, and open that",
            ),
            "calibration": _CALIBRATION,
            "device": (
                (None, "cpu"),
                "the llama engine takes no device",
                "llama=LlamaOptions(gpu_layers=-1) puts the layers on a GPU",
            ),
        },
    ),
}


def make_options(
    name: EngineName, given: Mapping[str, Any], ready: EngineOptions | None = None
) -> EngineOptions:
    """The options of an engine from keyword arguments, which change those that are ready.

    Raises ParameterError for an unknown keyword or a bad value, CapabilityError for what another
    engine has and this one has not.
    """
    kind = ENGINES[name]
    own = {option.name for option in fields(kind.options)}
    known = own.union(*(row.others for row in ENGINES.values())) - {"llama", "mmproj"}
    if unknown := sorted(set(given) - known - own - set(kind.others)):
        raise ParameterError(
            f"unknown options: {', '.join(unknown)}", hint=f"options: {', '.join(sorted(known))}"
        )
    for option, value in given.items():
        if option not in own:
            neutral, words, hint = kind.others[option]
            if value not in neutral:
                raise CapabilityError(f"{words} ({option}={shown(value)})", hint=hint)
    if ready is not None and not isinstance(ready, kind.options):
        wanted = kind.options.__name__
        raise ParameterError(f"the {name} engine takes {wanted}, found {shown(ready)}")
    chosen = {option: value for option, value in given.items() if option in own}
    return kind.options(**chosen) if ready is None else replace(ready, **chosen)


def engine_named(name: str) -> EngineName:
    """The name as that of an engine. Raises CapabilityError where there is none."""
    found = next((known for known in ENGINES if among(name, (known,))), None)
    if found is None:
        raise CapabilityError(
            f"this version of lorakit has no engine {shown(name)}",
            hint=f"engines: {', '.join(ENGINES)}; api is for the URL of a server",
        )
    return found


def _said(name: str) -> str:
    return f'engine="{name}"'


_CONVERTED = {
    True: "lorakit merge FILE.gguf -o FOLDER makes a folder of it",
    False: "lorakit export BASE --to gguf makes a GGUF file",
}


def choose_engine(name: str | None, base: Base) -> EngineName:
    """The engine's name; None is "llama" for a GGUF file and "onnx" for a Hugging Face folder.

    Raises CapabilityError for a name that there is not, and for a base that it does not run.
    """
    if name is None:
        name = "llama" if base.is_gguf else "onnx"
    chosen = engine_named(name)
    if base.exported is not None and chosen != "onnx":
        raise CapabilityError(
            f"the {chosen} engine does not run {base.path}, which is an exported model",
            hint='engine="onnx"; or open the base that it was made from: '
            f"{base.exported.base_name}",
        )
    if ENGINES[chosen].gguf != base.is_gguf:
        kinds = ("a GGUF file", "a Hugging Face folder")
        runs, found = kinds if ENGINES[chosen].gguf else kinds[::-1]
        others = [other for other, kind in ENGINES.items() if kind.gguf == base.is_gguf]
        raise CapabilityError(
            f"the {chosen} engine runs {runs}; {base.path} is {found}",
            hint=f"{' or '.join(map(_said, others))}; {_CONVERTED[base.is_gguf]}",
        )
    return chosen


def open_engine(name: str, base: Base, options: EngineOptions) -> Engine:
    """Open an engine by name. Errors as of `choose_engine`, and the engine's own.

    options: of the engine's own class, or EngineOptions, which all share.
    """
    chosen = choose_engine(name, base)
    kind = ENGINES[chosen]
    if not isinstance(options, kind.options):
        options = make_options(chosen, {o.name: getattr(options, o.name) for o in fields(options)})
    begin = time.monotonic()
    engine = kind.open(base, options)
    log.info("opened %s on %s in %.2f s", base.name, chosen, time.monotonic() - begin)
    return engine
