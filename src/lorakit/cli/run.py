"""lorakit run: one prompt, one answer, streamed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from lorakit.cli.output import print_json, say, say_piece
from lorakit.cli.references import (
    AdapterOption,
    AlphaOption,
    CalibrationOption,
    ContextOption,
    DeviceOption,
    GpuLayersOption,
    JsonOption,
    MergeOption,
    MlxVersionOption,
    MmprojOption,
    ModelOption,
    PartialOption,
    PickleOption,
    PrivateOption,
    QuantizeOption,
    RunArgument,
    RuntimeOption,
    ThreadsOption,
    ToolsOption,
    open_with,
    read_tools,
)
from lorakit.cli.signature import argument, option
from lorakit.errors import ParameterError
from lorakit.files.bounded import read_text
from lorakit.model.model import Model
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import SamplingParams

DEFAULTS = SamplingParams()


def command(
    base: RunArgument,
    prompt: Annotated[str, argument(help="What to say; - reads standard input.")],
    adapter: AdapterOption = None,
    merge: MergeOption = False,
    raw: Annotated[
        bool, option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    tools: ToolsOption = None,
    image: Annotated[
        list[Path] | None,
        option(metavar="FILE", help="A picture to ask about; may be repeated; needs --mmproj."),
    ] = None,
    mmproj: MmprojOption = None,
    engine: RuntimeOption = None,
    served: ModelOption = None,
    quantize: QuantizeOption = "none",
    calibration: CalibrationOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    context: ContextOption = None,
    gpu_layers: GpuLayersOption = None,
    max_tokens: int = DEFAULTS.max_tokens,
    temperature: Annotated[float, option(help="0 takes the likeliest.")] = DEFAULTS.temperature,
    top_k: int = DEFAULTS.top_k,
    top_p: float = DEFAULTS.top_p,
    min_p: float = DEFAULTS.min_p,
    typical_p: float = DEFAULTS.typical_p,
    mirostat: Annotated[
        float | None,
        option(metavar="TAU", help="Mirostat 2 in their place: bits of surprise per token."),
    ] = DEFAULTS.mirostat_tau,
    repetition_penalty: float = DEFAULTS.repetition_penalty,
    presence_penalty: float = DEFAULTS.presence_penalty,
    frequency_penalty: float = DEFAULTS.frequency_penalty,
    seed: int | None = DEFAULTS.seed,
    stop: Annotated[
        list[str] | None, option(metavar="TEXT", help="Ends the answer; may be repeated.")
    ] = None,
    grammar: Annotated[
        Path | None,
        option(metavar="FILE", help="A GBNF grammar that the answer follows; GGUF files only."),
    ] = None,
    alpha: AlphaOption = None,
    mlx_version: MlxVersionOption = None,
    partial: PartialOption = False,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Answer one prompt with a base and any number of adapters."""
    if raw and (image or tools):
        raise ParameterError("--raw uses no chat template, which --image and --tools need")
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        mirostat_tau=mirostat,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        grammar=None if grammar is None else read_text(grammar),
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    schemas = read_tools(tools)
    with open_with(
        base,
        adapter,
        engine=engine,
        served=served,
        quantize=quantize,
        calibration=calibration,
        threads=threads,
        device=device,
        context=context,
        gpu_layers=gpu_layers,
        mmproj=mmproj,
        allow_private=allow_private,
        merge=merge,
        alpha=alpha,
        mlx_version=mlx_version,
        partial=partial,
        allow_pickle=allow_pickle,
    ) as model:
        said = text if raw else model.chat_prompt(
            [{"role": "user", "content": with_images(text, image or ())}], tools=schemas
        )  # fmt: skip
        stream = model.stream(said, sampling=sampling, lookahead=None)
        if not json:
            for piece in stream:
                say_piece(piece)
            say()
        else:
            _print(model, stream.result(), raw)


def with_images(text: str, images: Sequence[Path]) -> str | list[dict[str, Any]]:
    """The content of a message that shows pictures before it says something."""
    if not images:
        return text
    shown = [{"type": "image", "path": str(image.expanduser())} for image in images]
    return [*shown, {"type": "text", "text": text}]


def _print(model: Model, completion: Completion, raw: bool) -> None:
    reply = None if raw else model.parse_reply(completion)
    print_json(
        {
            "text": completion.text if reply is None else reply.text,
            "tool_calls": [call.to_openai() for call in reply.tool_calls] if reply else [],
            "finish_reason": completion.finish_reason,
            "adapters": dict(completion.adapters),
            "usage": {
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
            },
            "seconds": round(completion.seconds, 4),
        }
    )
