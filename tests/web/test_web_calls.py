"""The page's tool-call parsers give what Python's give: on Python's own vectors, and on more."""

import json
import math
import random
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from written import CHAT, TOOLS, drawn, nearly_right, own_vectors, pieces_of, python

from lorakit.chat.template import ChatTemplate
from lorakit.chat.tools import FORMATS, detect_format

GEMMA = "<start_function_call>call:{}<end_function_call>"


def same(found, expected) -> bool:
    """Equal as JSON: JavaScript has one kind of number, a float64."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(found) is type(expected) and found == expected
    if abs(expected) > sys.float_info.max:
        return found is None  # Infinity, which JSON has not
    return math.isclose(found, expected, rel_tol=1e-15)


def alike(found, expected, reply: str) -> bool:
    """Equal but for how numbers are written: 1 and 1.0 are the same in JavaScript. What lies beyond
    the basic plane has two characters there, and half of one is escaped: then only the joined
    events have to agree."""
    if any(ord(char) > 0xFFFF or 0xD800 <= ord(char) < 0xE000 for char in reply):
        return joined(found) == joined(expected)
    return same(*([plain(event) for event in events] for events in (found, expected)))


def plain(event: dict) -> dict:
    """An event with its numbers as JavaScript writes them."""
    text = event.get("text")
    return {**event, "text": re.sub(r"(?<=\d)\.0\b", "", text)} if text else event


def joined(events) -> list[str]:
    """The texts and calls of events; what was withdrawn does not count."""
    last = max((at for at, e in enumerate(events) if e["type"] == "withdrawn"), default=-1)
    kept = events[last + 1 :]
    texts = ["".join(e["text"] for e in kept if e["type"] == t) for t in ("text", "reasoning")]
    return [*texts, repr([e["call"] for e in kept if e["type"] == "callEnd"])]


@cache
def vectors() -> list[tuple[dict, dict]]:
    """Python's own and drawn replies, what is asked of them and how they are cut; and what Python
    says of each."""
    draw = random.Random(7)
    given = [
        {"format": name, "reply": reply, "reasons": False, "repair": at % 3 == 0}
        for at, (name, reply) in enumerate(own_vectors())
    ]
    given += [
        {"format": name, "reply": reply, "reasons": False, "repair": True}
        for name, reply in nearly_right()
    ]
    given += [
        {"format": name, "reply": reply, "reasons": draw.random() < 0.2}
        | {"repair": draw.random() < 0.4, "tools": TOOLS if draw.random() < 0.5 else None}
        for name, reply in drawn(3000)
    ]
    for at, one in enumerate(given):
        if at % 4 == 0:
            one["pieces"] = pieces_of(one["reply"], draw)
        one["splits"] = at % 16 == 0 and len(one["reply"]) < 200
    return [(one, python(one)) for one in given]


def differences(node, given, **options) -> list:
    """Where the page says something else: in the parse, in the events, or at some split."""
    replies = [one for one, _ in given]
    found = node.run("calls.mjs", {"replies": replies, "templates": []}, **options)
    if found is None:
        return ["it fails"]
    told = iter(found["events"])
    wrong = list(found["wrong"])
    for (one, expected), whole in zip(given, found["parsed"], strict=True):
        odd = any("trailing comma" in m["reason"] for m in expected["whole"]["malformed"])
        if not odd and not same(whole, expected["whole"]):  # Python 3.13 has one reason more
            wrong.append((one, whole, expected["whole"]))
        if "pieces" in one and not alike(events := next(told), expected["events"], one["reply"]):
            wrong.append((one, events, expected["events"]))
    return wrong


def test_replies_are_read_alike_whole_and_in_pieces(plain_node):
    given = vectors()
    kinds = {one["format"] for one, _ in given}
    assert kinds == {*FORMATS, ""}
    assert differences(plain_node, given) == []


@pytest.mark.parametrize(
    ("name", "file", "text", "replacement"),
    [
        ("mistral", "tags.js", "tag.end === text.length || !mayBeNamed(text, tag)", "true"),
        ("phi4", "scanning.js", "return tag ? begin + tag.start : end", "return end"),
        ("granite", "jsoncall.js", "this.faults.push('a key occurs twice')", "void 0"),
        ("mistral", "jsoncall.js", "if (!value.isWellFormed())", "if (false)"),
        ("gemma4", "gemma.js", "if (found.has(key))", "if (false)"),
        ("llama3", "llama3.js", "|| namesAFunction(broken)", "|| true"),
        ("hermes", "hermes.js", "{ required: false }", "{ required: true }"),
        ("json", "jsonlist.js", "error.begin ?? begin", "error.begin"),
        ("deepseek", "mending.js", "this.did(COMMA)", "void 0"),
        ("mistral11", "mending.js", "if (!this.closed)", "if (false)"),
        ("functiongemma", "mending.js", "if (this.escape && RAW.test(found[1]))", "if (false)"),
        ("hermes", "mending.js", ".includes('\\\\/')", ".includes('\\\\0')"),
        ("qwen3coder", "reading.js", "const MARGIN = 32;", "const MARGIN = 0;"),
        ("llama3", "reading.js", "const END = '\\0';", "const END = '';"),
        ("functiongemma", "saying.js", "text.length - held(text, this.stops)", "text.length"),
        ("gemma4", "gemma_arguments.js", "this.inKey = char === ',' &&", "this.inKey = false &&"),
        ("llama3_function", "broken.js", "Math.max(error.position, past(text, at, escape))", "at"),
        (
            "mistral",
            "jsonlist.js",
            "=== '[' ? readOrPass(text, at, ",
            "=== '[' ? ((run) => run())(",
        ),
        ("functiongemma", "gemma.js", ", this.marks.escape);", ");"),
        ("qwen3coder", "qwen3coder.js", "past(reply, at) : at", "at : at"),
    ],
)
def test_a_parser_that_is_broken_is_found_out(
    plain_node, broken_web, name, file, text, replacement
):
    web = broken_web({file: (text, replacement)})
    given = [({**one, "splits": False}, told) for one, told in vectors() if one["format"] == name]
    assert differences(plain_node, given, web=web, fails=True) != []


def test_formats_are_recognised_alike(plain_node):
    templates = [path.read_text("utf-8") for path in sorted(CHAT.parent.glob("data/templates/*"))]
    demo = ChatTemplate.open(Path(__file__).parents[2] / "src/lorakit/demo/base").source(tools=True)
    texts = [demo, *templates, "", "<tool_call> arguments <function="]
    found = plain_node.run("calls.mjs", {"replies": [], "templates": texts})["formats"]
    expected = [form.name if (form := detect_format(text)) else None for text in texts]
    assert found == expected
    assert {*FORMATS, None} - {"gemma4"} <= set(expected)


LONG = [  # (format, what is said again and again)
    ("functiongemma", "<start_function_call>call:a{b:<escape>"),
    ("functiongemma", "<start_function_call>call:a{b:[[[["),
    ("functiongemma", "<start_function_call>call:a{b:1}<end_function_call>"),
    ("hermes", '<tool_call>{"a'),
    ("hermes", "<tool_call>[</think>"),
    ("hermes", "<tool_call>{'a': '"),
    ("hermes", "`<think>`"),
    ("hermes", " \n"),
    ("llama3", '{"name":"f","parameters":{}};'),
    ("llama3", "<|python_tag|>"),
    ("qwen3coder", "<tool_call>\n<function=f>\n<parameter=a>\n"),
    ("qwen3coder", "<function=f>\n<parameter=a>\n[1</parameter>\n"),
    ("mistral", "[TOOL_CALLS][{"),
    ("mistral", '[TOOL_CALLS][{"name": "f"}, '),
    ("json", '{"name": "f", "arguments": {}},'),
]


def test_a_long_reply_costs_its_length(plain_node):
    def long(name: str, unit: str, count: int) -> dict:
        whole = unit.endswith(("}", ">", ";", "r>\n"))
        pieces = {} if whole else {"pieces": [unit * (count // 50)] * 50}
        return {"format": name, "reply": unit * count, "reasons": False, **pieces}

    replies = [long(*one, count) for one in LONG for count in (1_000, 10_000)]
    ms = plain_node.run("calls.mjs", {"replies": replies, "templates": []})["ms"]
    costs = {one: (ms[2 * at], ms[2 * at + 1]) for at, one in enumerate(LONG)}
    assert {one: cost for one, cost in costs.items() if cost[1] > 40 * max(cost[0], 3)} == {}


def test_numbers_beyond_a_float64_are_rounded_as_json_parse_does(plain_node):
    reply = GEMMA.format("f{a:9007199254740993,b:1e-400}")
    given = {"replies": [{"format": "functiongemma", "reply": reply}], "templates": []}
    (found,) = plain_node.run("calls.mjs", given)["parsed"]
    assert json.dumps(found["calls"][0]["arguments"]) == '{"a": 9007199254740992, "b": 0}'
