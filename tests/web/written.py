"""Replies as models of every tool format write them, and should not: for the page's parsers, beside
what Python makes of them."""

from __future__ import annotations

import importlib
import inspect
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.chat import events
from lorakit.chat.calls import NO_CALLS, ToolCall
from lorakit.chat.reading import ReplyReader
from lorakit.chat.scanning import take_apart
from lorakit.chat.tools import FORMATS, get_format

CHAT = Path(__file__).parents[1] / "chat"
FORMS = CHAT / "formats"
sys.path[:0] = [str(CHAT), str(FORMS)]
reading = importlib.import_module("test_reading")
scanning = importlib.import_module("test_scanning")
repairing = importlib.import_module("test_repair")

CALLS = [
    *reading.CALLS,
    ToolCall(name="ok", arguments={"n": -1, "x": 0.5, "on": True, "none": None, "words": "a\nb"}),
    ToolCall(
        name="get_weather", arguments={"city": "Óslo 日本 😀", "days": [1, 2], "o": {"k": "v"}}
    ),
]
HOLDING = ToolCall(name="say", arguments={"on": True, "text": "HELD"})
TEXT, WORD = {"type": "string"}, {"enum": ["a", "1"]}
TOOLS = [  # by whose types Qwen 3 Coder's calls are read
    {"type": "function", "function": {"name": "f", "parameters": {
        "properties": {"t": TEXT, "a": {"anyOf": [TEXT, {"type": "null"}]}},
        "additionalProperties": {"$ref": "#/$defs/word"}, "$defs": {"word": WORD}}}},
    {"name": "ok", "parameters": {"properties": {
        "n": {"type": ["string", "null"]}, "x": {"type": "string", "nullable": True},
        "on": {"const": "true"}, "none": {"allOf": [TEXT]}, "words": {"type": "integer"}}}},
    {"name": "get_weather", "parameters": {"properties": {
        "city": {"type": "STRING"}, "days": {"oneOf": []}, "o": {"enum": ["v", 1]}}}},
    {"name": "g"},
]  # fmt: skip
PIECES = [
    "call:", "f", "{", "}", "[", "]", ":", ",", "1", "-0.5", "01", "true", "None", "NaN", "null",
    " ", "\n", "\\", "\\u00e9", "\\ud83d", '{"name":', '"f"', ',"arguments":', ',"parameters":',
    "{}", '{"a":1}', "words", "日本", "😀", "<think>", "</think>", "`", "`<think>`", "[THINK]",
    "\x1c", "\ufeff", "__proto__", '"__proto__":1', "a:", "x{", '{"a":1,"a":2}', "1e999",
    "Infinity", '{"city": 1}', "{{", "}}", "```", "```json\n", "'a'", "True", ",}", ",]", ";",
]  # fmt: skip
BREAKS = ["", '"', "}", "{", "\\", "x", ",", "\n", "'", "</", "<", "]", "[", "True", "`", "```"]
SLIPS = [  # what small models slip on
    lambda text: text.replace("\\n", "\n"),
    lambda text: text.replace("}", ",}", 1),
    lambda text: text.replace("]", ", ]"),
    lambda text: text.replace("true", "True").replace("null", "None"),
    lambda text: text.replace("<escape>", '"').replace('<|"|>', '"'),
    lambda text: text.replace('"', "'"),
    lambda text: text.replace("{", "{{").replace("}", "}}"),
    lambda text: _around(text, "```json\n", "\n```"),
    lambda text: _around(text, "[", "]"),
    lambda text: "".join(text.rsplit("}", 1)),
    lambda text: text[: text.rfind("}") + 1],
    lambda text: text[: text.rfind("}")],
    lambda text: text + text,
]


def _around(text: str, before: str, behind: str) -> str:
    """A text with something before its first brace and behind its last one."""
    first, last = text.find("{"), text.rfind("}") + 1
    return f"{text[:first]}{before}{text[first:last]}{behind}{text[last:]}"


def own_strings() -> list[str]:
    """The texts that Python's tests of the formats are given."""
    found: dict[str, None] = {}
    for file in (*sorted(FORMS.glob("test_*.py")), CHAT / "test_scanning.py"):
        module = importlib.import_module(file.stem)
        for _, value in inspect.getmembers(module):
            for mark in getattr(value, "pytestmark", []):
                if mark.name == "parametrize":
                    found.update(dict.fromkeys(_strings(mark.args[1])))
    return [text for text in found if 3 < len(text) < 3000]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _strings(item)
    elif hasattr(value, "values") and isinstance(value.values, tuple):  # pytest.param
        yield from _strings(value.values)


def own_vectors() -> list[tuple[str, str]]:
    """(format, reply) of those texts: as they are, and where a call's body stands."""
    found = []
    for name in FORMATS:
        syntax = get_format(name).syntax
        opening = syntax.openings[0] if syntax.openings else ""
        bad, good = (scanning.written(name, call) for call in (scanning.BAD, scanning.GOOD))
        for text in own_strings():
            inside = f"call:{text}" if "gemma" in name else text
            found += [(name, text), (name, f"{opening}{inside}{syntax.closing}")]
        found += [(name, f"{a}Shall I {bad}? No.{b}{good}") for a, b in scanning.TAGS]
        found += [(name, f"The tag {q}<think>{q} opens, {q}</think>{q} {good}") for q in "`\"'"]
        shapes = scanning.test_reasoning_in_every_shape_hides_its_calls.pytestmark
        found += [
            (name, shape.format(bad=bad))
            for mark in shapes if mark.args[0] == "shape" for shape in mark.args[1]
        ]  # fmt: skip
    for name, (call, wholes) in repairing.QUOTED_CALLS.items():
        found += [(name, f"{whole % call}{more}") for whole in wholes for more in ("", f" {call}")]
    return list(dict.fromkeys(found))


def nearly_right() -> list[tuple[str, str]]:
    """(format, reply) that are mended, and that look alike but could mean two things."""
    bodies = (*repairing.MENDED, *repairing.NOT_CLEAR)
    of_gemma = (*repairing.OF_GEMMA, 'call:f{a:"C:\\new"}')
    return [
        *(("hermes", f"<tool_call>{body}</tool_call>") for body in bodies),
        *(
            ("functiongemma", f"<start_function_call>{body}<end_function_call>")
            for body in of_gemma
        ),
    ]


def drawn(count: int, seed: int = 13) -> list[tuple[str, str]]:
    """(format, reply): put together from what the formats are made of, and broken calls."""
    draw = random.Random(seed)
    names = [*FORMATS, ""]
    rendered = {name: _rendered(name) for name in names}
    replies = []
    for at in range(count):
        name = names[at % len(names)]
        marks = [mark for mark in reading.MARKS.get(name, []) if mark]
        pieces = [*marks * 3, *rendered[name] * 3, *PIECES, *reading.TAGS, *reading.WORDS]
        if (kind := draw.random()) < 0.3 and rendered[name]:
            text = draw.choice(rendered[name])
            for slip in draw.choices(SLIPS, k=draw.randint(1, 2)):
                text = slip(text)
            replies.append((name, text))
        elif kind < 0.65:
            replies.append((name, "".join(draw.choices(pieces, k=draw.randint(0, 12)))))
        else:
            broken = list("".join(draw.choices(rendered[name] or PIECES, k=draw.randint(1, 3))))
            for _ in range(draw.randint(0, 3)):
                broken[draw.randrange(len(broken))] = draw.choice(BREAKS)
            replies.append((name, "".join(broken)))
    return replies


def _rendered(name: str) -> list[str]:
    """Calls of a format; the last hold one in a string, which is not quoted there, or is."""
    if not name:
        return []
    *calls, holding = (get_format(name).render_call(call) for call in (*CALLS, HOLDING))
    inner = calls[0]
    return [*calls, *(holding.replace("HELD", held) for held in (inner, json.dumps(inner)[1:-1]))]


def pieces_of(reply: str, draw: random.Random) -> list[str]:
    """A reply cut at some places, or at every one."""
    if draw.random() < 0.3:
        return list(reply)
    places = sorted(draw.choices(range(len(reply) + 1), k=draw.randint(0, 8)))
    return [reply[a:b] for a, b in zip([0, *places], [*places, len(reply)], strict=True)]


def python(given: dict[str, Any]) -> dict[str, Any]:
    """What Python makes of a reply, as the page says it."""
    name, reply = given["format"], given["reply"]
    asked = {"reasons": given["reasons"], "repair": given["repair"]}
    form = get_format(name) if name else None
    if given.get("tools") and hasattr(form, "with_tools"):
        form = form.with_tools(given["tools"])
    found = form.parse(reply, **asked) if form else take_apart(reply, NO_CALLS, **asked)
    whole = {
        "text": found.text,
        "calls": [{"name": c.name, "arguments": c.arguments} for c in found.tool_calls],
        "malformed": [
            {"text": m.text, "reason": m.reason, "position": units(reply[: m.position])}
            for m in found.malformed
        ],
        "reasoning": found.reasoning,
        "repairs": [{"index": r.index, "words": r.words} for r in found.repairs],
    }
    if "pieces" not in given:
        return {"whole": whole}
    reader = ReplyReader(form.syntax if form else NO_CALLS, **asked)
    told = [event for piece in given["pieces"] for event in reader.feed(piece)]
    return {"whole": whole, "events": [_event(event) for event in told + reader.end(found)]}


TYPES = {
    events.TextDelta: "text",
    events.ReasoningDelta: "reasoning",
    events.CallStart: "callStart",
    events.CallArguments: "callArguments",
    events.CallEnd: "callEnd",
    events.CallWithdrawn: "callWithdrawn",
    events.Withdrawn: "withdrawn",
}


def _event(event: events.Delta) -> dict[str, Any]:
    if isinstance(event, events.CallEnd):
        call = replace(event.call, id="")
        told = {"name": call.name, "arguments": call.arguments}
        return {"type": "callEnd", "index": event.index, "call": told}
    fields = {name: getattr(event, name) for name in event.__slots__}
    return {"type": TYPES[type(event)], **fields}


def units(text: str) -> int:
    """Its length in JavaScript."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
