"""The page's tool-call parsers give what Python's give: on Python's own vectors, and on more."""

import importlib
import json
import math
import random
import sys
from pathlib import Path

import pytest

from lorakit.chat.calls import NO_CALLS
from lorakit.chat.scanning import take_apart
from lorakit.chat.template import ChatTemplate
from lorakit.chat.tools import FORMATS, detect_format, get_format

TESTS = Path(__file__).parents[1] / "chat"
sys.path[:0] = map(str, (TESTS, TESTS / "formats"))
functiongemma, hermes, llama3, json_formats, qwen3coder, scanning = (
    importlib.import_module(f"test_{name}")
    for name in ("functiongemma", "hermes", "llama3", "json_formats", "qwen3coder", "scanning")
)
GEMMA = "<start_function_call>call:{}<end_function_call>"
MARKS = {
    "functiongemma": ("<start_function_call>", "<end_function_call>", "<escape>", "<end_of_turn>"),
    "gemma4": ("<|tool_call>", "<tool_call|>", '<|"|>', "<turn|>"),
    "hermes": ("<tool_call>", "</tool_call>", '"', "<|im_end|>"),
    "llama3": ("<|python_tag|>", ";", '"', "<|eom_id|>"),
    "qwen3coder": ("<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>",
                   "</parameter>", "<|im_end|>"),
    "llama3_function": ("<function=f>", "</function>", "<|eom_id|>", '"'),
    "mistral": ("[TOOL_CALLS]", "[TOOL_CALLS] [", "[ARGS]", "</s>"),
    "mistral11": ("[TOOL_CALLS]f", "[ARGS]", "[CALL_ID]", "</s>"),
    "phi4": ("<|tool_call|>", "<|/tool_call|>", "functools[", "<|end|>"),
    "deepseek": ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>function",
                 "<｜tool▁sep｜>f", "<｜tool▁call▁end｜>", "\n```json\n", "\n```"),
    "granite": ("<|tool_call|>", "<tool_call>", "</tool_call>", "<|end_of_text|>"),
    "json": ("```json\n", "\n```", ";", '"'),
}  # fmt: skip
PIECES = [
    "call:", "f", "{", "}", "[", "]", ":", ",", "1", "-0.5", "01", "true", "None", "NaN", "null",
    " ", "\n", "\\", "\\u00e9", "\\ud83d", '{"name":', '"f"', ',"arguments":', ',"parameters":',
    "{}", '{"a":1}', "words", "日本", "😀", "<think>", "</think>", "`", "`<think>`", "[THINK]",
    "\x1c", "\ufeff",
    "__proto__", '"__proto__":1', "a:", "x{", '{"a":1,"a":2}', "1e999", "Infinity", '{"city": 1}',
]  # fmt: skip


def vectors(module, test: str) -> list[tuple]:
    """The parameters of a test of Python's parsers."""
    (mark,) = (m for m in getattr(module, test).pytestmark if m.name == "parametrize")
    return [value if isinstance(value, tuple) else (value,) for value in mark.args[1]]


def own_vectors() -> list[tuple[str, str]]:
    """(format, reply) of the Python parsers' tests."""
    found = [
        *(("functiongemma", GEMMA.format(body))
          for test in ("test_published_variants_are_read", "test_faults_are_reported_with_a_reason")
          for body, _ in vectors(functiongemma, test)),
        *(("hermes", reply) for reply, _ in vectors(hermes, "test_variants_are_read")),
        *(("hermes", "before " + hermes.call(body))
          for body, _ in vectors(hermes, "test_faults_are_reported_with_a_reason")),
        *(("llama3", reply) for (reply,) in vectors(llama3, "test_what_is_no_call_stays_text")),
        *(("llama3", reply) for test in ("test_calls_are_found", "test_faults_are_reported")
          for reply, _ in vectors(llama3, test)),
        *(("hermes", f"The tag {q}<think>{q} begins it, {q}</think>{q} ends it.") for q in "`\"'"),
        *((name, reply)
          for test in ("test_variants_are_read", "test_faults_are_reported_with_a_reason")
          for name, reply, *_ in vectors(json_formats, test)),
        *(("qwen3coder", reply)
          for reply, _ in vectors(qwen3coder, "test_faults_are_reported_with_a_reason")),
        *(("qwen3coder", qwen3coder.call(**{key: text}))
          for key, text, *_ in vectors(qwen3coder, "test_a_value_is_what_its_type_says")),
        *vectors(scanning, "test_half_a_surrogate_pair_makes_a_call_malformed"),
    ]  # fmt: skip
    for name in FORMATS:
        bad, good = (scanning.written(name, c) for c in (scanning.BAD, scanning.GOOD))
        found += [
            (name, f"{opening}Shall I {bad}? No.{closing}{good}")
            for opening, closing in scanning.TAGS
        ]
        shapes = (
            mark for mark in scanning.test_reasoning_in_every_shape_hides_its_calls.pytestmark
        )
        found += [
            (name, shape.format(bad=bad))
            for mark in shapes if mark.args[0] == "shape" for shape in mark.args[1]
        ]  # fmt: skip
    return found


def drawn(count: int) -> list[tuple[str, str]]:
    """(format, reply) put together from what the formats are made of."""
    draw = random.Random(13)
    replies = []
    for _ in range(count):
        name = draw.choice(list(MARKS))
        call = scanning.written(name, draw.choice([scanning.BAD, scanning.GOOD]))
        pieces = [*MARKS[name] * 4, call, call, *PIECES]
        replies.append((name, "".join(draw.choices(pieces, k=draw.randint(0, 14)))))
        broken = list(call * 2)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(len(broken))] = draw.choice(["", '"', "}", "\\", "x", ",", "\n"])
        replies.append((name, "".join(broken)))
    return replies


def units(text: str) -> int:
    """Its length in JavaScript."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def python(name: str, reply: str, reasons: bool) -> dict:
    form = get_format(name) if name else None
    found = form.parse(reply, reasons=reasons) if form else take_apart(reply, NO_CALLS)
    return {
        "text": found.text,
        "calls": [{"name": c.name, "arguments": c.arguments} for c in found.tool_calls],
        "malformed": [
            {"text": m.text, "reason": m.reason, "position": units(reply[: m.position])}
            for m in found.malformed
        ],
        "reasoning": found.reasoning,
    }


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


def differences(node, replies, **options) -> list:
    given = [
        {"format": name, "reply": reply, "reasons": reasons}
        for name, reply in replies
        for reasons in (False, True)
    ]
    found = node.run("calls.mjs", {"replies": given, "templates": []}, **options)["parsed"]
    expected = [python(g["format"], g["reply"], g["reasons"]) for g in given]
    assert len(found) == len(expected)
    return [
        (g, f, e) for g, f, e in zip(given, found, expected, strict=True)
        if not same(f, e) and not any("trailing comma" in m["reason"] for m in e["malformed"])
    ]  # fmt: skip  # Python 3.13 has one reason more


def test_pythons_own_vectors(plain_node):
    replies = own_vectors()
    assert len(replies) > 150
    assert {name for name, _ in replies} == set(FORMATS)
    assert differences(plain_node, replies) == []


def test_what_is_drawn_is_parsed_alike(plain_node):
    replies = drawn(3000)
    parsed = [python(name, reply, False) for name, reply in replies]
    assert sum(bool(p["calls"]) for p in parsed) > 500
    assert sum(bool(p["malformed"]) for p in parsed) > 500
    assert differences(plain_node, replies) == []


@pytest.mark.parametrize(
    ("file", "text", "replacement"),
    [
        ("scanning.js", "if (!quoted) return {", "if (true) return {"),
        ("scanning.js", "return tag < 0 ? end", "return true ? end"),
        ("jsoncall.js", "this.faults.push('a key occurs twice')", "void 0"),
        ("jsoncall.js", "if (!value.isWellFormed())", "if (false)"),
        ("gemma.js", "if (found.has(key))", "if (false)"),
        ("llama3.js", "|| namesAFunction(broken)", "|| true"),
        ("hermes.js", "{ required: false }", "{ required: true }"),
        ("jsonlist.js", "throw new BadCall('the list of calls is empty', at)", "void 0"),
        ("qwen3coder.js", "if (given.has(key))", "if (false)"),
        ("deepseek.js", "at = fenced ?", "at = false ?"),
    ],
)
def test_a_parser_that_is_broken_is_found_out(plain_node, broken_web, file, text, replacement):
    web = broken_web({file: (text, replacement)})
    assert differences(plain_node, own_vectors() + drawn(500), web=web)


def test_formats_are_recognised_alike(plain_node):
    templates = [path.read_text("utf-8") for path in sorted(TESTS.parent.glob("data/templates/*"))]
    demo = ChatTemplate.open(Path(__file__).parents[2] / "src/lorakit/demo/base").source(tools=True)
    texts = [demo, *templates, "", "<tool_call> arguments <function="]
    found = plain_node.run("calls.mjs", {"replies": [], "templates": texts})["formats"]
    expected = [form.name if (form := detect_format(text)) else None for text in texts]
    assert found == expected
    assert {"functiongemma", None} <= set(expected)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("functiongemma", "<start_function_call>call:a{b:<escape>"),
        ("functiongemma", "<start_function_call>call:a{b:[[[["),
        ("functiongemma", "<start_function_call>call:a{b:1}<end_function_call>"),
        ("hermes", '<tool_call>{"a'),
        ("hermes", "<tool_call>[</think>"),
        ("hermes", "`<think>`"),
        ("hermes", " \n"),
        ("llama3", '{"name":"f","parameters":{}};'),
        ("llama3", "<|python_tag|>"),
    ],
)
def test_a_long_reply_costs_its_length(plain_node, name, unit):
    def ms(count: int) -> float:
        replies = [{"format": name, "reply": unit * count, "reasons": False}]
        return plain_node.run("calls.mjs", {"replies": replies, "templates": []})["ms"]

    assert ms(40_000) < 40 * max(ms(4_000), 5)


def test_numbers_beyond_a_float64_are_rounded_as_json_parse_does(plain_node):
    reply = GEMMA.format("f{a:9007199254740993,b:1e-400}")
    given = {"replies": [{"format": "functiongemma", "reply": reply}], "templates": []}
    (found,) = plain_node.run("calls.mjs", given)["parsed"]
    assert json.dumps(found["calls"][0]["arguments"]) == '{"a": 9007199254740992, "b": 0}'
