"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Literal

from lorakit.chat.calls import call_of
from lorakit.chat.messages import prepare_tools
from lorakit.chat.rendering import DEFAULT
from lorakit.cli.answering import with_images
from lorakit.cli.chatting.answer import CALL, DIM
from lorakit.cli.chatting.calls import signature_of
from lorakit.cli.chatting.conversation import Chat
from lorakit.cli.chatting.functions import SUFFIX as PYTHON
from lorakit.cli.chatting.functions import read_functions
from lorakit.cli.chatting.settings import NAMES, choose, require_setting, settings
from lorakit.cli.chatting.words import number, quoted, words_of
from lorakit.cli.downloads import downloads
from lorakit.cli.hints import did_you_mean
from lorakit.cli.output import say, say_folded
from lorakit.cli.references import read_tools
from lorakit.errors import (
    CapabilityError,
    LorakitError,
    NameTakenError,
    ParameterError,
    SourceError,
    UnknownAdapterError,
)
from lorakit.model.adapter_config import config_of
from lorakit.model.adapters import LoadedAdapter
from lorakit.model.conversation import Session
from lorakit.model.session_file import Saved, read_saved, write_saved
from lorakit.values import close_to

Takes = Literal["", "adapter", "path", "adapter path", "setting", "command"]
SUFFIX = ".json"
OFF = "off"
TO_SAY = "/help lists them; // begins a message with a slash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """run: is given what follows the name. takes: what completion offers after it."""

    run: Callable[[Chat, str], None]
    form: str
    about: str
    takes: Takes = ""


def run_command(chat: Chat, line: str) -> None:
    """Run a line such as "/adapter home 0.5". Raises LorakitError."""
    name, _, rest = line[1:].partition(" ")
    _require_command(name)
    command = COMMANDS[name]
    try:
        if rest.strip() and not command.form:
            raise ParameterError(f"/{name} takes nothing, found {rest.strip()!r}")
        command.run(chat, rest.strip())
    except ParameterError as error:
        error.hint = error.hint or f"/{name} {command.form}".rstrip()
        raise


def _require_command(name: str, hint: str = TO_SAY) -> None:
    if name not in COMMANDS:
        near = close_to(name, COMMANDS)
        close = f"; did you mean {' or '.join(f'/{each}' for each in near)}?" if near else ""
        raise ParameterError(f"there is no command /{name}{close}", hint=hint)


# What the model is asked with.


def _system(chat: Chat, rest: str) -> None:
    messages = chat.session.messages
    has = bool(messages) and messages[0].get("role") == "system"
    if rest:
        said = [] if rest == OFF else [{"role": "system", "content": rest}]
        messages[: int(has)] = said
    now = messages[0]["content"] if messages and messages[0].get("role") == "system" else "none"
    say_folded(f"  system: {now}", CALL)


def _tools(chat: Chat, rest: str) -> None:
    if rest:
        (word,) = words_of(rest, 1, 1)
        path = Path(word).expanduser()
        chat.functions = read_functions(path) if path.suffix == PYTHON else None
        tools = None if word == OFF or chat.functions is not None else read_tools(path)
        chat.session.tools = prepare_tools(tools)
    if chat.functions is not None:
        chat.session.tools = chat.functions.declarations
    declared = (
        [each.declaration for each in chat.functions.callees.values()] if chat.functions else []
    )
    names = [signature_of(tool) for tool in declared or chat.session.tools or ()]
    if not names:
        say_folded("  tools: none declared; an adapter may have learnt its own", CALL)
    for name in names:
        say_folded(f"  tools: {name}", CALL)


def _image(chat: Chat, rest: str) -> None:
    (word,) = words_of(rest, 1, 1)
    if word == OFF:
        chat.images = []
    else:
        picture = {"role": "user", "content": with_images("", [Path(word)])}
        _require_shown(chat, word, picture)
        chat.images = [*chat.images, Path(word)]
    names = ", ".join(image.name for image in chat.images)
    say_folded(f"  with what you say next: {names or 'no picture'}", CALL)


def _require_shown(chat: Chat, word: str, picture: dict[str, Any]) -> None:
    """Say now what is wrong with it: first with the model, then with the file."""
    try:
        chat.model.chat_prompt([picture])
    except CapabilityError as error:
        error.items = ()  # where the picture stands in a message that was not said
        raise
    except ParameterError as error:
        _require_sight(chat)
        reasons = [item.partition(": ")[2] or item for item in error.items]
        said = "; ".join(reasons) or error.message
        raise ParameterError(f"the picture {word} is not shown: {said}", hint=error.hint) from error


def _require_sight(chat: Chat) -> None:
    """Raise CapabilityError where the model sees no pictures at all."""
    none = {"role": "user", "content": [{"type": "image", "bytes": b"none"}]}
    try:
        chat.model.chat_prompt([none])
    except CapabilityError as error:
        error.items = ()
        raise
    except LorakitError:  # it can tell that this is none
        return


def _set(chat: Chat, rest: str) -> None:
    if rest:
        name, _, value = rest.partition(" ")
        require_setting(name)
        if value.strip():
            choose(chat, name, value.strip())
    chosen = rest.partition(" ")[0]
    for name, value, own in settings(chat):
        if chosen in ("", name):
            say_folded(f"  {name}  {value}{f'  ({own})' if own else ''}", CALL)


# Adapters.


def _adapter(chat: Chat, rest: str) -> None:
    if not rest:
        show_adapters(chat)
        return
    name, *scales = words_of(rest, 1, 2)
    loaded = chat.model.find(name)
    if loaded is None:
        known = [info.name for info in chat.model.adapters]
        if not Path(name).expanduser().exists() and (close := did_you_mean(name, known)):
            raise UnknownAdapterError(
                f"no adapter named {name!r} is loaded{close}", hint="/adapter lists them"
            )
        loaded = load_adapter(chat, name, None)
    elif not scales:
        loaded.apply()
    if scales and number(scales[0]) == 0:
        loaded.remove()
    elif scales:
        loaded.apply(number(scales[0]))
    show_adapters(chat)


def load_adapter(chat: Chat, reference: str, name: str | None) -> LoadedAdapter:
    """Load an adapter, and switch it on."""
    config = config_of(reference)
    with downloads:
        try:
            loaded = chat.model.load_adapter(config, name)
        except NameTakenError as error:
            error.hint = f"/load {quoted(reference)} NAME loads it under another name"
            raise
    loaded.apply("default" if config.scale is None else config.scale)
    return loaded


def _clear(chat: Chat, rest: str) -> None:
    chat.model.clear_adapters()
    show_adapters(chat)


def show_adapters(chat: Chat) -> None:
    """Which are loaded, and their scales."""
    for info in chat.model.adapters:
        state = f"at {info.scale:g}" if info.scale else "off"
        rank = f" (rank {info.rank})" if info.rank else ""  # of a server's it is not known
        say_folded(f"  {info.name} {state}{rank}", CALL)
    if not chat.model.adapters:
        say_folded("  no adapter is loaded; /adapter REF loads one", CALL)


# The conversation.


def _retry(chat: Chat, rest: str) -> None:
    chat.retry()


def _edit(chat: Chat, rest: str) -> None:
    if rest:
        chat.edit(rest)
        return
    said = chat.session.messages[chat.last_user()]["content"]
    if not isinstance(said, str):
        raise ParameterError("what was said last holds more than text", hint="/edit TEXT")
    chat.prefilled = f"/edit {said}"


def _result(chat: Chat, rest: str) -> None:
    if rest:
        chat.give(rest)
        return
    calls = chat.pending()
    for call in calls:
        say_folded(f"  {call} waits for its result", CALL)
    if not calls:
        say_folded("  no call waits for a result", CALL)


def _save(chat: Chat, rest: str) -> None:
    word, *others = words_of(rest, 1, 2)
    path = Path(word).expanduser()
    if path.suffix not in ("", SUFFIX):
        better = quoted(str(Path(word).with_suffix(SUFFIX)))
        raise ParameterError(
            f"a conversation is kept in a {SUFFIX} file, not {path.name}", hint=f"/save {better}"
        )
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    if others not in ([], ["--overwrite"]):
        raise ParameterError(f"expected a file, found {rest!r}", hint="/save FILE [--overwrite]")
    if path.exists() and not others and path != chat.file:
        raise ParameterError(f"{path} is there already", hint=f"/save {word} --overwrite")
    session, acting = chat.session, [info for info in chat.model.adapters if info.scale]
    saved = Saved(
        messages=session.messages,
        tools=session.tools,
        adapters={info.name: info.scale or 0.0 for info in acting},
        sampling=session.sampling,
        rendering=session.rendering,
        sources={info.name: info.source for info in acting if info.source},
    )
    write_saved(path, saved)
    chat.file = path
    say_folded(f"  saved {len(session.messages)} messages to {path}", CALL)


def _load(chat: Chat, rest: str) -> None:
    word, *name = words_of(rest, 1, 2)
    path = Path(word).expanduser()
    saved = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    if name or not (path == saved or saved.is_file()):
        load_adapter(chat, word, name[0] if name else None)
        show_adapters(chat)
        return
    if not saved.is_file():
        near = [each.name for each in saved.parent.glob(f"*{SUFFIX}")]
        raise SourceError(f"there is no file {saved}{did_you_mean(saved.name, near)}")
    session = Session.load(chat.model, saved, when_full=chat.session.when_full)
    if session.adapters is not None:
        acting = {name: scale for name, scale in session.adapters.items() if scale}
        _require_loaded(chat, acting, saved)
        chat.model.apply(acting)
        session.adapters = None
    if session.rendering == DEFAULT:
        session.rendering = chat.session.rendering
    chat.session, chat.file, chat.images = session, saved, []
    say_folded(f"  {len(session.messages)} messages of {saved}", CALL)
    for message in session.messages[-2:]:
        calls = [str(call_of(call)) for call in message.get("tool_calls") or ()]
        said = message["content"] if isinstance(message.get("content"), str) else ""
        say_folded(f"  {message['role']}: {' '.join(filter(None, [said, *calls]))}", DIM)


def _require_loaded(chat: Chat, names: Iterable[str], saved: Path) -> None:
    """Raise UnknownAdapterError, saying where a conversation's adapters came from."""
    loaded = {info.name for info in chat.model.adapters}
    missing = [name for name in names if name not in loaded]
    if not missing:
        return
    sources = read_saved(saved).sources
    steps = [f"/load {quoted(sources.get(name, 'REF'))} {quoted(name)}" for name in missing]
    raise UnknownAdapterError(
        "the conversation needs adapters that are not loaded",
        items=[f"{n}, from {sources[n]}" if n in sources else n for n in missing],
        hint=f"{', '.join(steps)}, then /load {quoted(str(saved))}",
    )


def _reset(chat: Chat, rest: str) -> None:
    kept = [m for m in chat.session.messages[:1] if m.get("role") == "system"]
    chat.session.messages[:] = kept
    chat.images, chat.file = [], None
    say_folded("  forgotten" + (", but the system message" if kept else ""), CALL)


def _help(chat: Chat, rest: str) -> None:
    name = rest.removeprefix("/")
    if name:
        _require_command(name, "/help lists them")
    for each, command in COMMANDS.items():
        if name in ("", each):
            _explain(f"/{each} {command.form}".rstrip(), command.about)
    for keys, about in () if name else KEYS:
        _explain(keys, about)
    if name == "set":
        _explain("NAME is one of", ", ".join(NAMES))
        _explain("VALUE", "default is the model's own; without one it is shown")


def _explain(what: str, about: str) -> None:
    """On one line, where the terminal is wide enough."""
    if 2 + COLUMN + 2 + len(about) >= get_terminal_size().columns or len(what) > COLUMN:
        say_folded(f"  {what}", "bold")
        say_folded(f"      {about}", DIM)
    else:
        say((f"  {what:<{COLUMN}}", "bold"), (f"  {about}", DIM))


COLUMN = 24
KEYS = (
    ('Alt-Enter, """', 'another line; up to the next """'),
    ("Tab, Up, Ctrl-R", "complete; what was said before"),
    ("Ctrl-C", "stops an answer, clears a line"),
)

COMMANDS: dict[str, Command] = {
    "adapter": Command(
        run=_adapter, form="[NAME|REF [SCALE]]", takes="adapter path",
        about="list the adapters, or switch one on; at scale 0 it is off",
    ),
    "adapters": Command(run=lambda chat, _: show_adapters(chat), form="", about="list them"),
    "clear": Command(run=_clear, form="", about="all adapters off; they stay loaded"),
    "system": Command(run=_system, form="[TEXT|off]", about="what the model is told first"),
    "tools": Command(
        run=_tools, form="[FILE|off]", takes="path",
        about="what the model may call: JSON, or Python that is run",
    ),
    "result": Command(
        run=_result, form="[TEXT]", about="what a call gave back; the model goes on",
    ),
    "image": Command(
        run=_image, form="FILE|off", takes="path",
        about="a picture for what you say next; needs --mmproj",
    ),
    "set": Command(
        run=_set, form="[NAME [VALUE]]", takes="setting", about="how tokens are chosen, and more",
    ),
    "retry": Command(run=_retry, form="", about="another answer to what you said last"),
    "edit": Command(run=_edit, form="[TEXT]", about="say the last message otherwise"),
    "save": Command(
        run=_save, form="FILE [--overwrite]", takes="path", about="keep the conversation",
    ),
    "load": Command(
        run=_load, form="FILE|REF [NAME]", takes="path",
        about="go on with a saved conversation; or load another adapter",
    ),
    "reset": Command(run=_reset, form="", about="forget the conversation"),
    "help": Command(run=_help, form="[COMMAND]", takes="command", about="this list"),
    "quit": Command(run=lambda chat, _: None, form="", about="end; so does Ctrl-D"),
}  # fmt: skip
