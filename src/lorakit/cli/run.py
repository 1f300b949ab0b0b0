"""lorakit run: one prompt, one answer, streamed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from lorakit.cli.answering import Answering, prompt_or_input, with_images
from lorakit.cli.chatting.answer import Answer
from lorakit.cli.output import note, print_json, say, say_piece
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    CalibrationOption,
    JsonOption,
    RunArgument,
    ToolsOption,
    read_tools,
)
from lorakit.cli.running import RunningAnywhere, open_with
from lorakit.cli.signature import argument, option
from lorakit.errors import LorakitError, ParameterError
from lorakit.model.chat_stream import ChatStream
from lorakit.model.model import Model
from lorakit.model.types import ChatPrompt, Prompt
from lorakit.runtime.generation import Completion


def command(
    answering: Answering,
    base: RunArgument = None,
    prompt: Annotated[
        str | None,
        argument(help="What to say; - reads standard input, and so does none in a pipe."),
    ] = None,
    adapter: AdapterOption = None,
    merge: Annotated[
        bool,
        option("--merge", help="Merge the adapters into the weights: any kind, at fixed scales."),
    ] = False,
    raw: Annotated[
        bool, option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    tools: ToolsOption = None,
    image: Annotated[
        list[Path] | None,
        option(metavar="FILE", help="A picture to ask about; may be repeated; needs --mmproj."),
    ] = None,
    calibration: CalibrationOption = None,
    *,
    running: RunningAnywhere,
    reading: Reading,
    json: JsonOption = False,
) -> None:
    """Answer one prompt with a base and any number of adapters.

    With --settings one word is the prompt, and BASE is as the file says. A terminal shows calls as
    code; a pipe, and --raw, what the model wrote.
    """
    if running.settings is not None and prompt is None:
        base, prompt = None, base
    if raw and (image or tools):
        raise ParameterError("--raw uses no chat template, which --image and --tools need")
    if raw:
        answering.require_raw()
    sampling, rendering = answering.sampling, answering.rendering
    text = prompt_or_input(prompt)
    schemas = read_tools(tools)
    with open_with(base, adapter, running, reading, calibration=calibration, merge=merge) as model:
        if own := answering.own(model):
            note(own)
        said: str | ChatPrompt = text
        if not raw:
            messages = [{"role": "user", "content": with_images(text, image or ())}]
            if answering.system is not None:
                messages.insert(0, {"role": "system", "content": answering.system})
            said = model.chat_prompt(messages, tools=schemas, **rendering)
        if isinstance(said, ChatPrompt) and not json and sys.stdout.isatty():
            repair = answering.repair
            _show(model, model.chat_stream(said, lookahead=None, repair=repair, **sampling))
            return
        stream = model.stream(said, lookahead=None, **sampling)
        if not json:
            for piece in stream:
                say_piece(piece)
            say()
        else:
            _print(model, stream.result(), None if raw else said, answering.repair)


def _show(model: Model, events: ChatStream) -> None:
    """As a chat does: calls as code, reasoning apart."""
    answer = Answer(model.capabilities.context, "--max-tokens N")
    try:
        for event in events:
            answer.show(event)
    except (LorakitError, KeyboardInterrupt):
        answer.end_line()
        raise


def _print(model: Model, completion: Completion, asked: Prompt | None, repair: bool) -> None:
    """asked: what it answers, unless that was raw."""
    reply = None if asked is None else model.parse_reply(completion, asked, repair=repair)
    print_json(
        {
            "text": completion.text if reply is None else reply.text,
            "tool_calls": [call.to_openai() for call in reply.tool_calls] if reply else [],
            "finish_reason": completion.finish_reason if reply is None else reply.finish_reason,
            "adapters": dict(completion.adapters),
            "usage": {
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
            },
            "seconds": round(completion.seconds, 4),
        }
    )
