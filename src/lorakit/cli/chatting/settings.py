"""/set: how tokens are chosen and what happens when the context is full, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, cast, get_args

from lorakit.chat.rendering import RenderOptions
from lorakit.cli.chatting.conversation import Chat
from lorakit.cli.hints import did_you_mean
from lorakit.errors import CapabilityError, LorakitError, ParameterError
from lorakit.model.fitting import WhenFull, require_when_full
from lorakit.model.model import Model
from lorakit.model.types import keywords_of
from lorakit.runtime.params import SamplingParams

LEFT_OUT = (  # no line of a chat can say them
    *("choices", "grammar", "logit_bias", "logprobs", "response_format", "stop_tokens"),
)
SAMPLING = tuple(each.name for each in fields(SamplingParams) if each.name not in LEFT_OUT)
WHEN_FULL, THINKING, TOOL_CHOICE, REPAIR = "when_full", "thinking", "tool_choice", "repair"
NAMES = (*SAMPLING, THINKING, TOOL_CHOICE, REPAIR, WHEN_FULL)
DEFAULT = "default"
CHOICES = ("auto", "required", "none", "free", DEFAULT)
SIDES = {"on": True, "off": False, DEFAULT: None}


def settings(chat: Chat) -> Iterator[tuple[str, str, str]]:
    """(name, value, where it is from or else what the model's own is)."""
    own = chat.model.defaults
    for name in SAMPLING:
        value, standard = getattr(chat.sampling, name), getattr(own, name)
        yield name, _said(value), "" if value == standard else f"the model's own: {_said(standard)}"
    thinking = chat.session.rendering.enable_thinking
    yield THINKING, next(word for word, side in SIDES.items() if side is thinking), ""
    yield TOOL_CHOICE, str(chat.session.rendering.tool_choice or DEFAULT), ""
    yield REPAIR, _said(chat.session.repair), ""
    yield WHEN_FULL, chat.session.when_full, ""


def choose(chat: Chat, name: str, text: str) -> None:
    """Change one. Raises ParameterError for a name or a value that is none, and LorakitError for
    a value that this model cannot have."""
    require_setting(name)
    if name == WHEN_FULL:
        require_when_full(text)
        require_counted(chat.model, cast(WhenFull, text), f"/set {WHEN_FULL} stop")
        chat.session.when_full = cast(WhenFull, text)
    elif name == THINKING:
        if text not in SIDES:
            raise ParameterError(f"thinking is one of {', '.join(SIDES)}, not {text!r}")
        chosen = replace(chat.session.rendering, enable_thinking=SIDES[text])
        if SIDES[text] is not None:
            _require_rendered(chat, chosen, THINKING)
        chat.session.rendering = chosen
    elif name == TOOL_CHOICE:
        choice = None if text == DEFAULT else text
        chosen = replace(chat.session.rendering, tool_choice=choice)
        if choice is not None:
            _require_rendered(chat, chosen, TOOL_CHOICE)
        chat.session.rendering = chosen
    elif name == REPAIR:
        if text not in SIDES:
            raise ParameterError(f"repair is one of {', '.join(SIDES)}, not {text!r}")
        chat.session.repair = SIDES[text] or False
    else:
        value = getattr(chat.model.defaults, name) if text == DEFAULT else _value(name, text)
        chat.session.sampling = replace(chat.sampling, **{name: value})


def require_setting(name: str) -> None:
    """Raise ParameterError for the name of none."""
    if name not in NAMES:
        raise ParameterError(
            f"there is no setting {name}{did_you_mean(name, NAMES)}", hint="/set lists them"
        )


def require_counted(model: Model, when_full: WhenFull, hint: str) -> None:
    """A conversation is shortened only where its tokens are counted: a server counts its own."""
    if when_full != "stop" and model.capabilities.engine == "api":
        raise CapabilityError(
            "a conversation is not shortened where a server counts its tokens", hint=hint
        )


def values_of(name: str) -> tuple[str, ...]:
    """Words that a setting may have, for completion."""
    if name == WHEN_FULL:
        return get_args(WhenFull)
    if name == TOOL_CHOICE:
        return CHOICES
    return tuple(SIDES) if name in (THINKING, REPAIR) else (DEFAULT,)


def _require_rendered(chat: Chat, chosen: RenderOptions, name: str) -> None:
    """Raise what the next message would: a template may not read the variable, say."""
    said = [{"role": "user", "content": "hello"}]
    try:
        chat.model.chat_prompt(said, tools=chat.callable, **keywords_of(chosen))
    except LorakitError as error:
        if name == THINKING:
            error.hint = f"/set {THINKING} {DEFAULT}"
        raise


def _value(name: str, text: str) -> Any:
    """A word as the parameter's value; what is wrong with it, the parameters say."""
    if name == "stop":
        return (_unescaped(text),)
    known: dict[str, Any] = {"none": None, "true": True, "false": False, "on": True, "off": False}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _unescaped(text: str) -> str:
    """A stop string as it is meant: \\n is a line's end. Raises ParameterError."""
    try:
        return text.encode().decode("unicode_escape") if text.isascii() else text
    except ValueError as error:
        hint = r"\\ is a backslash"
        raise ParameterError(f"{text!r} ends in half an escape", hint=hint) from error


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(repr, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
