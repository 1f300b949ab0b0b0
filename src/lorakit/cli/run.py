"""lorakit run: one prompt, one answer, streamed."""

from __future__ import annotations

import sys
from typing import Annotated

from lorakit.cli.output import print_json
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    DeviceOption,
    EngineOption,
    JsonOption,
    QuantizeOption,
    ThreadsOption,
    ToolsOption,
    open_with,
    read_tools,
)
from lorakit.cli.signature import argument, option
from lorakit.model import Model
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import SamplingParams

DEFAULTS = SamplingParams()


def command(
    base: BaseArgument,
    prompt: Annotated[str, argument(help="What to say; - reads standard input.")],
    adapter: AdapterOption = None,
    raw: Annotated[
        bool, option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    tools: ToolsOption = None,
    engine: EngineOption = None,
    quantize: QuantizeOption = "none",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    max_tokens: int = DEFAULTS.max_tokens,
    temperature: float = DEFAULTS.temperature,
    top_k: int = DEFAULTS.top_k,
    top_p: float = DEFAULTS.top_p,
    seed: int | None = DEFAULTS.seed,
    json: JsonOption = False,
) -> None:
    """Answer one prompt with a base and any number of adapters."""
    sampling = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    schemas = read_tools(tools)
    with open_with(
        base, adapter, engine=engine, quantize=quantize, threads=threads, device=device
    ) as model:
        ids = model.encode(text) if raw else model.chat_prompt(
            [{"role": "user", "content": text}], tools=schemas
        )  # fmt: skip
        stream = model.stream(ids, sampling=sampling, lookahead=None)
        if not json:
            for piece in stream:
                print(piece, end="", flush=True)
            print()
        else:
            _print(model, stream.result(), raw)


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
                "completion_tokens": len(completion.tokens),
            },
            "seconds": round(completion.seconds, 4),
        }
    )
