"""What users write, every public type in a signature of theirs; `mypy --strict` must pass it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt

import lorakit
from lorakit import (
    Adapter,
    AdapterConfig,
    AdapterInfo,
    AdapterRef,
    CallArguments,
    CallEnd,
    CallStart,
    CallWithdrawn,
    ChatKeywords,
    ChatReply,
    ChatStream,
    Choice,
    Completion,
    ControlTokens,
    Device,
    Dtype,
    EngineName,
    Event,
    FinishReason,
    FormatName,
    KvPolicy,
    LlamaOptions,
    LoadedAdapter,
    Message,
    Model,
    Progress,
    Quantization,
    ReasoningDelta,
    ReplyEnd,
    Request,
    RunEnd,
    RuntimeName,
    SamplingParams,
    Scales,
    Session,
    Source,
    Stream,
    TextDelta,
    Tool,
    ToolCall,
    ToolFinished,
    ToolKeywords,
    ToolLimits,
    ToolRun,
    ToolStarted,
    ToolStep,
    ToolStream,
    Turn,
    Usage,
    Withdrawn,
    demo,
)
from lorakit.errors import CapabilityError, LorakitError

Vector = npt.NDArray[np.float32]


def on_a_server(url: str, engine: RuntimeName = "api") -> None:
    with lorakit.open(url, engine=engine, api_key="key", model="name", adapter="home") as model:
        name: str = model.name
        try:
            print(name, model.complete("hello", adapters={"home": 0.5}).usage.total_tokens)
        except lorakit.ServerError as error:
            print(error.code)


def from_settings() -> str:
    with lorakit.open(settings="lorakit.toml", fallback="https://host/v1") as model:
        print([warning.message for warning in model.warnings])
        return model.runtime_name


def first_program() -> None:
    with lorakit.open(demo.base_path()) as model:
        home = model.load_adapter(demo.adapter_path("home"))
        style = model.load_adapter(demo.adapter_path("style"))
        lights: list[Message] = [{"role": "user", "content": "turn the lights off"}]
        hello = model.chat_prompt([{"role": "user", "content": "hello"}])
        style.apply(scale=0.8)
        for piece in model.stream(hello, max_tokens=40):
            print(piece, end="", flush=True)
            style.scale = 1.0
        reply = model.chat(lights, adapters={"home": 1.0, "style": 0.3})
        print(reply.tool_calls)
        batch = [
            Request(prompt=hello, adapters={"home": 1.0}),
            Request(prompt="hello", adapters=["style"]),
            Request(prompt=[1, 2, 3], sampling=SamplingParams(temperature=0.5, stop=("\n",))),
        ]
        print([completion.text for completion in model.batch(batch)])
        replies: list[ChatReply] = model.batch(
            Request(messages=lights, adapters={loaded: 0.5}, max_tokens=20)
            for loaded in (home, style)
        )
        print(replies[0].tool_calls, replies[0].finish_reason)
        style.remove()
        model.clear_adapters()
        home.unload()


def opened(
    base: str | Path,
    adapters: list[AdapterConfig],
    engine: EngineName | None = None,
    quantize: Quantization = "none",
    device: Device | None = None,
) -> Model:
    def progress(at: Progress) -> None:
        print(at.source, at.file, at.done, at.total or 0)

    if engine == "llama":
        native = LlamaOptions(gpu_layers=-1, kv_type="f16", flash_attention="on")
        return lorakit.open(base, adapter=adapters, llama=native, progress=progress)
    return lorakit.open(
        base, adapter=adapters, engine=engine, quantize=quantize, device=device, threads=2
    )


def configured(path: AdapterRef, source: Source) -> AdapterConfig | None:
    if isinstance(path, Adapter):
        return None
    return AdapterConfig(path, source=source, mode="merge", scale=0.5, on_error="base")


def calls(reply: ChatReply) -> Iterator[tuple[str, object]]:
    call: ToolCall
    for call in reply.tool_calls:
        for name, value in call.arguments.items():
            yield f"{call.name}.{name}", value


def turns(model: Model, scales: Scales) -> Session:
    session = model.session(system="Be short.", adapters=scales)
    turn: Turn = session.stream("hello", max_tokens=8)
    for piece in turn.text:
        print(piece.upper())
    reply: ChatReply = session.answer(
        [{"role": "tool", "name": call.name, "content": "done"} for call in turn.reply.tool_calls]
    )
    print(reply.message, reply.reasoning)
    session.fork().save("session.json")
    return Session.load(model, Path("session.json"))


def shown(event: Event) -> str:
    if isinstance(event, TextDelta | ReasoningDelta):
        return event.text
    if isinstance(event, CallStart):
        return event.name
    if isinstance(event, CallArguments):
        return event.text
    if isinstance(event, CallEnd):
        return event.call.name
    if isinstance(event, Withdrawn | CallWithdrawn):
        return ""
    usage: Usage = event.reply.usage
    return f"{usage.total_tokens}"


def streamed(model: Model, messages: list[Message], loaded: LoadedAdapter) -> ChatReply:
    rules: ControlTokens = "text"
    keywords: ChatKeywords = {"control_tokens": rules, "temperature": 0.5}
    stream: ChatStream = model.stream(messages, tools=[], adapters=[loaded], **keywords)
    print(*map(shown, stream))
    thinking = model.session(enable_thinking=False, chat_template_kwargs={"day": 1}, max_tokens=5)
    for event in thinking.stream("hello", control_tokens="template"):
        if isinstance(event, ReplyEnd):
            return event.reply
    return stream.reply


def set_lights(room: str) -> str:
    return room


def looped(model: Model, messages: list[Message]) -> Iterator[str]:
    limits = ToolLimits(rounds=3, seconds=60)
    run: ToolRun = model.run_tools(
        messages, [set_lights, Tool(len, name="size")], limits=limits, approve=lambda call: True
    )
    step: ToolStep
    for step in run.steps:
        yield f"{step.call.name} {step.seconds:.1f}"
    keywords: ToolKeywords = {"on_tool_error": "raise", "max_tokens": 5}
    stream: ToolStream = model.session().stream_tools("hello", [set_lights], **keywords)
    for event in stream:
        if isinstance(event, ToolFinished):
            yield event.step.content
        elif isinstance(event, RunEnd):
            yield event.run.text
        elif not isinstance(event, ToolStarted):
            yield shown(event)


async def events(model: Model, messages: list[Message]) -> list[Event]:
    stream = model.stream(messages, lookahead=None)
    found = [event async for event in stream]
    await stream.areply()
    return found


async def many(model: Model, prompts: list[str], kv: KvPolicy) -> list[Completion]:
    loaded: LoadedAdapter = await model.aload_adapter("hf:org/repo", "mine", source="huggingface")
    await loaded.aapply(0.5, kv=kv)
    stream: Stream = model.stream(prompts[0], timeout=2.0, lookahead=None)
    async for piece in stream:
        print(piece.upper())
    ended: Completion = await stream.aresult()
    rest = await asyncio.gather(*(model.acomplete(prompt) for prompt in prompts[1:]))
    return [ended, *rest]


def ended(completion: Completion) -> tuple[FinishReason, list[float]]:
    def probable(token: Choice) -> float:
        return 0.0 if token.logprob is None else token.logprob

    return completion.finish_reason, [probable(token) for token in completion.tokens]


def vectors(model: Model) -> tuple[Vector, Vector, int]:
    return model.logits("hello"), model.embed("hello", pooling="last"), model.load_state("state")


def background(model: Model, path: Path) -> AdapterInfo:
    future: Future[LoadedAdapter] = model.load_adapter(path, wait=False)
    found = model.find("home")
    return future.result().info if found is None else found.info


def converted(source: Path, target: Path, to: FormatName, dtype: Dtype | None) -> tuple[str, ...]:
    from lorakit.formats.convert import convert

    try:
        return convert(source, target, to=to, dtype=dtype, lossy=True).dropped
    except lorakit.ParameterError as error:
        raise ValueError(str(error)) from error
    except CapabilityError as error:
        return (error.code, *error.items)
    except LorakitError as error:
        return (error.code, error.hint)


def algebra(one: Adapter, other: Adapter) -> float:
    summed, report = lorakit.algebra.combine([(one, 0.7), (other, 0.3)], "ties", rank=8)
    assert summed.max_rank <= 8
    return report.residual
