"""The grammar of requests: tools, phrasings with slots, and the examples they make.

A phrasing is a format string over slot names, optionally with arguments that its wording fixes
("kill the lights" means state off). Framing (please, hey, casing, a final mark) multiplies the
phrasings; it is left off after free text, where it would belong to the value.
"""

import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import words

SlotMaker = Callable[[random.Random, str], str]
Phrasing = str | tuple[str, Mapping[str, object]]

CALL_STOP = "<start_function_response>"
TEXT_STOP = "<end_of_turn>"

PREFIXES = ["please ", "hey, ", "can you ", "could you ", "i want you to ", "would you "]
SUFFIXES = [" please", " now", " for me", ", please", ", thanks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """How a value is drawn and what it is in the schema."""

    make: SlotMaker
    description: str
    type: str = "string"
    enum: tuple[str, ...] = ()
    free_text: bool = False
    open: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function with its slots and the ways to ask for it."""

    name: str
    description: str
    slots: Mapping[str, Slot]
    required: tuple[str, ...]
    train: tuple[Phrasing, ...]
    held_out: tuple[Phrasing, ...]

    def schema(self) -> dict[str, object]:
        """The tool as an OpenAI function schema."""
        properties = {name: slot_schema(slot) for name, slot in self.slots.items()}
        parameters: dict[str, object] = {"type": "object", "properties": properties}
        if self.required:
            parameters["required"] = list(self.required)
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation, the text that must follow it, and the token that must end that text."""

    messages: tuple[Mapping[str, object], ...]
    expected: str
    stop: str
    tools: tuple[Mapping[str, object], ...] = ()
    call: tuple[str, Mapping[str, object]] | None = field(default=None)


def slot_schema(slot: Slot) -> dict[str, object]:
    """One property of a function schema."""
    schema: dict[str, object] = {"type": slot.type, "description": slot.description}
    if slot.enum:
        schema["enum"] = list(slot.enum)
    return schema


def render_value(value: object) -> str:
    """A value in FunctionGemma's notation: strings between two <escape>, the rest bare."""
    if isinstance(value, str):
        return f"<escape>{value}<escape>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{render_value(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(render_value(v) for v in value) + "]"
    return str(value)


def render_call(name: str, arguments: Mapping[str, object]) -> str:
    """A function call in FunctionGemma's notation."""
    return f"<start_function_call>call:{name}{render_value(arguments)}<end_function_call>"


def slot_names(text: str) -> list[str]:
    """The slots that a phrasing fills, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(text) if name]


def framed(rng: random.Random, text: str, *, closed: bool) -> str:
    """Wrap a request: prefix, suffix, casing and final mark; nothing after it when `closed`."""
    if rng.random() < 0.35 and not text.lower().startswith(("what", "how", "is ", "i ")):
        text = rng.choice(PREFIXES) + text
    if not closed and rng.random() < 0.25:
        text += rng.choice(SUFFIXES)
    if not closed and rng.random() < 0.25:
        text += rng.choice(".!")
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def fill(
    rng: random.Random, tool: Tool, phrasing: Phrasing, split: str
) -> tuple[str, dict[str, object]]:
    """A request and the arguments that it asks for."""
    text, fixed = (phrasing, {}) if isinstance(phrasing, str) else phrasing
    names = slot_names(text)
    values = {
        name: tool.slots[name].make(rng, split if tool.slots[name].open else words.TRAIN)
        for name in names
    }
    typed = {
        name: int(value) if tool.slots[name].type == "integer" else value
        for name, value in values.items()
    }
    closed = text.endswith("}") and tool.slots[names[-1]].free_text
    request = text.format(**values)
    if text.startswith("{"):
        return request, {**fixed, **typed}
    return framed(rng, request, closed=closed), {**fixed, **typed}


def has_open_slot(tool: Tool, phrasing: Phrasing) -> bool:
    """Whether a phrasing has a slot whose values can be held out."""
    text = phrasing if isinstance(phrasing, str) else phrasing[0]
    return any(tool.slots[name].open for name in slot_names(text))


def tool_example(
    rng: random.Random,
    tool: Tool,
    *,
    values: str = words.TRAIN,
    phrasings: str = words.TRAIN,
    tools: tuple[Mapping[str, object], ...] = (),
) -> Example:
    """One request for `tool`; held-out values imply a phrasing that has such a value."""
    choices = tool.train if phrasings == words.TRAIN else tool.held_out
    if values == words.HELD_OUT:
        choices = tuple(c for c in choices if has_open_slot(tool, c)) or choices
    request, arguments = fill(rng, tool, rng.choice(choices), values)
    return Example(
        messages=({"role": "user", "content": request},),
        expected=render_call(tool.name, arguments),
        stop=CALL_STOP,
        tools=tools,
        call=(tool.name, arguments),
    )


def text_example(request: str, reply: str, tools: tuple[Mapping[str, object], ...] = ()) -> Example:
    """A request that is answered in words."""
    return Example(
        messages=({"role": "user", "content": request},),
        expected=reply,
        stop=TEXT_STOP,
        tools=tools,
    )
