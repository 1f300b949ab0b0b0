"""lorakit chat: a conversation in the terminal, with adapters that change between the turns."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from lorakit.cli.downloads import downloads
from lorakit.cli.output import console, error_line, say, say_piece
from lorakit.cli.references import (
    AdapterOption,
    AlphaOption,
    CalibrationOption,
    ContextOption,
    DeviceOption,
    GpuLayersOption,
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
from lorakit.cli.run import with_images
from lorakit.errors import LorakitError, ParameterError
from lorakit.model.adapter_config import config_of
from lorakit.model.model import Model
from lorakit.runtime.sampling import SamplingParams

DEFAULTS = SamplingParams()


def command(
    base: RunArgument,
    adapter: AdapterOption = None,
    tools: ToolsOption = None,
    engine: RuntimeOption = None,
    served: ModelOption = None,
    quantize: QuantizeOption = "none",
    calibration: CalibrationOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    context: ContextOption = None,
    gpu_layers: GpuLayersOption = None,
    mmproj: MmprojOption = None,
    alpha: AlphaOption = None,
    mlx_version: MlxVersionOption = None,
    partial: PartialOption = False,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    max_tokens: int = DEFAULTS.max_tokens,
    temperature: float = DEFAULTS.temperature,
) -> None:
    """Chat; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
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
        alpha=alpha,
        mlx_version=mlx_version,
        partial=partial,
        allow_pickle=allow_pickle,
    ) as model:
        session = Session(model=model, sampling=sampling, tools=read_tools(tools))
        say((f"{model.name}; /help lists the commands, Ctrl-D ends", "dim"))
        session.show_adapters("")
        session.run()


@dataclass(slots=True, kw_only=True)
class Session:
    """What one terminal conversation holds between its lines."""

    model: Model
    sampling: SamplingParams
    tools: list[dict[str, Any]] | None
    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)  # for the next turn

    def run(self) -> None:
        while True:
            try:
                line = console().input(Text("> ", "bold")).strip()
            except (EOFError, KeyboardInterrupt):
                say()
                return
            if line in ("/quit", "/exit"):
                return
            try:
                self.command(line) if line.startswith("/") else self.say(line)
            except LorakitError as error:
                say((error_line(error), "red"))

    def say(self, line: str) -> None:
        """One turn. Ctrl-C stops the answer and takes the turn back."""
        if not line:
            return
        messages = [*self.messages, {"role": "user", "content": with_images(line, self.images)}]
        ids = self.model.chat_prompt(messages, tools=self.tools)
        stream = self.model.stream(ids, sampling=self.sampling)
        try:
            for piece in stream:
                say_piece(piece)
            say()
        except KeyboardInterrupt:
            stream.cancel()
            say((" (stopped)", "dim"))
            return
        self.messages = [*messages, self.model.parse_reply(stream.result()).message]
        self.images = []

    def command(self, line: str) -> None:
        """Run a line such as "/adapter home 0.5"."""
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise ParameterError(f"there is no command /{name}", hint="/help lists them")
        COMMANDS[name](self, rest.strip())

    def set_adapter(self, rest: str) -> None:
        """/adapter NAME [SCALE]: switch an adapter on at a scale; scale 0 switches it off"""
        name, scale = _words(rest, 2)
        with downloads:
            loaded = self.model.find(name) or self.model.load_adapter(name)
        if scale is not None and _number(scale) == 0:
            loaded.remove()
        else:
            loaded.apply("default" if scale is None else _number(scale))
        self.show_adapters("")

    def load(self, rest: str) -> None:
        """/load REF[:SCALE] [NAME]: load another adapter and switch it on"""
        reference, name = _words(rest, 2)
        config = config_of(reference)
        with downloads:
            loaded = self.model.load_adapter(config, name)
        loaded.apply("default" if config.scale is None else config.scale)
        self.show_adapters("")

    def clear(self, rest: str) -> None:
        """/clear: back to the plain base; the adapters stay loaded"""
        self.model.clear_adapters()
        self.show_adapters("")

    def show_adapters(self, rest: str) -> None:
        """/adapters: list the loaded adapters"""
        for info in self.model.adapters:
            state = "off" if info.scale is None else f"at {info.scale:g}"
            rank = f" (rank {info.rank})" if info.rank else ""  # of a server's it is not known
            say((f"  {info.name} {state}{rank}", "cyan"))

    def set_tools(self, rest: str) -> None:
        """/tools [FILE|off]: declare the tools of a JSON file, or none; alone, list them"""
        if rest:
            self.tools = None if rest == "off" else read_tools(Path(rest).expanduser())
        names = [tool.get("function", tool).get("name", "?") for tool in self.tools or []]
        say((f"  tools: {', '.join(names) or 'none declared'}", "cyan"))

    def show_image(self, rest: str) -> None:
        """/image FILE|off: show a picture with what you say next; needs --mmproj"""
        word, _ = _words(rest, 1)
        picture = {"role": "user", "content": with_images("", [Path(word)])}
        if word != "off":
            self.model.chat_prompt([picture])  # says now what is wrong with it
        self.images = [] if word == "off" else [*self.images, Path(word)]
        names = ", ".join(image.name for image in self.images)
        say((f"  with what you say next: {names or 'no picture'}", "cyan"))

    def reset(self, rest: str) -> None:
        """/reset: forget the conversation"""
        self.messages, self.images = [], []

    def help(self, rest: str) -> None:
        """/help: this list"""
        for function in COMMANDS.values():
            say((f"  {function.__doc__}", "dim"))
        say(("  /quit: end (also Ctrl-D)", "dim"))


COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "adapter": Session.set_adapter,
    "adapters": Session.show_adapters,
    "load": Session.load,
    "clear": Session.clear,
    "tools": Session.set_tools,
    "image": Session.show_image,
    "reset": Session.reset,
    "help": Session.help,
}


def _words(rest: str, most: int) -> tuple[str, str | None]:
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ParameterError(f"cannot read {rest!r}: {error}") from error
    if not 1 <= len(words) <= most:
        raise ParameterError(f"expected 1 to {most} words, found {len(words)}", hint="/help")
    return words[0], words[1] if len(words) > 1 else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ParameterError(f"a scale is a number, not {text!r}") from error
