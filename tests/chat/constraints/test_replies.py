"""Grammars of whole replies: words, calls, reasoning, with tags as control tokens and as text."""

import pytest
from byte_tokens import CLOSE, END, OPEN, THINK, THOUGHT, ByteTokens, fits, followed

from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.constraints.lark import json_rule, literal
from lorakit.chat.constraints.nodes import CallGrammar
from lorakit.chat.constraints.replies import (
    Thinking,
    ToolUse,
    answer_grammar,
    mark_or_text,
    reply_grammar,
)
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.errors import ParameterError

FUNCTIONS = functions_of([
    {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    {"name": "g"},
])  # fmt: skip
CALL = f'{OPEN}f{{"a": 1}}{CLOSE}'
OTHER = f"{OPEN}g{{}}{CLOSE}"
LED = '{"name": "f", "arguments": {"a": 1}}'


def rules(before, after):
    lines = [
        f"call_{i}: {before(each.name)} {json_rule(each.arguments)} {after}"
        for i, each in enumerate(FUNCTIONS)
    ]
    return "\n".join(["call_one: call_0 | call_1", *lines])


class Tagged:
    """Calls between tags."""

    name = "tagged"
    openings = (OPEN, "<other>")

    def grammar(self, functions, mark):
        one = f"{mark(OPEN)} call_one {mark(CLOSE)}"
        return CallGrammar(opening=OPEN, first=one, more=one, rules=rules(literal, ""))


class Alone:
    """Calls that are all of a reply."""

    name = "alone"
    openings = ()

    def grammar(self, functions, mark):
        def before(name):
            return literal(f'{{"name": "{name}", "arguments": ')

        return CallGrammar(
            opening='{"name": ', first="call_one", more='"; " call_one',
            rules=rules(before, literal("}")), alone=True,
        )  # fmt: skip


SETS = {control: ByteTokens(control) for control in ((END,), (END, OPEN, CLOSE, THINK, THOUGHT))}
KNOWN = {control: Vocabulary(tokens, [tokens.end]) for control, tokens in SETS.items()}


def takes(control, form, text, mode, *, thinking=None, parallel=True):
    vocabulary, tokens = KNOWN[control], SETS[control]
    use = ToolUse(functions=FUNCTIONS, mode=mode, parallel=parallel)
    grammar = reply_grammar(form, use, mark=mark_or_text(vocabulary.mark), thinking=thinking)
    return fits(grammar, text, tokens, vocabulary)


REPLIES = (  # text; whether it is one where a call is required, under auto, and where none may be
    (CALL, True, True, False),
    (CALL + OTHER, True, True, False),
    ("", False, True, True),
    ("hello < there", False, True, True),
    (f"hello {OTHER}", False, True, False),
    (f'{OPEN}f{{"a": "x"}}{CLOSE}', False, False, False),
    (f"{OPEN}h{{}}{CLOSE}", False, False, False),
    (f"hello {OPEN}", False, False, False),
    (f"{CALL} bye", False, False, False),
    ("a <other> b", False, False, False),
    ("x <cal", False, True, True),
)


@pytest.mark.parametrize("control", SETS, ids=["text", "control"])
@pytest.mark.parametrize(("text", "required", "auto", "none"), REPLIES)
def test_calls_between_tags(control, text, required, auto, none):
    assert takes(control, Tagged(), text, "required") is required
    assert takes(control, Tagged(), text, "auto") is auto
    assert takes(control, Tagged(), text, "none") is none


@pytest.mark.parametrize("control", SETS, ids=["text", "control"])
def test_one_call_ends_the_reply_where_there_may_be_no_other(control):
    assert takes(control, Tagged(), CALL, "required", parallel=False)
    assert not takes(control, Tagged(), CALL + OTHER, "required", parallel=False)
    vocabulary, tokens = KNOWN[control], SETS[control]
    use = ToolUse(functions=FUNCTIONS, mode="required", parallel=False)
    grammar = reply_grammar(Tagged(), use, mark=mark_or_text(vocabulary.mark))
    matcher, *_ = followed(grammar, CALL, tokens, vocabulary)
    assert matcher.ended  # the forced end is never computed


THINKING = Thinking(opening=THINK, closing=THOUGHT)
BEGUN = Thinking(opening=THINK, closing=THOUGHT, begun=True)


@pytest.mark.parametrize("control", SETS, ids=["text", "control"])
@pytest.mark.parametrize(
    ("text", "thinking", "required", "auto"),
    [
        (f"{THINK}hm{THOUGHT}\n\n{CALL}", THINKING, True, True),
        (CALL, THINKING, True, True),
        (f"{THINK}hm{THOUGHT}ok", THINKING, False, True),
        (f"{THINK}hm", THINKING, False, True),
        ("ok", THINKING, False, True),
        (f"hm{THOUGHT}\n{CALL}", BEGUN, True, True),
        (f"hm{THOUGHT}ok", BEGUN, False, True),
        ("hm", BEGUN, False, True),
    ],
)
def test_reasoning_comes_first(control, text, thinking, required, auto):
    assert takes(control, Tagged(), text, "required", thinking=thinking) is required
    assert takes(control, Tagged(), text, "auto", thinking=thinking) is auto
    if CALL not in text:
        assert takes(control, Tagged(), text, "none", thinking=thinking) is auto


@pytest.mark.parametrize(
    ("text", "required", "auto", "none"),
    [
        (LED, True, True, False),
        (f"{LED}; {LED}", True, True, False),
        ("hello", False, True, True),
        ('{"a": 1}', False, True, True),
        (f"say {LED}", False, True, True),
        ('{ "name" : "f"}', False, False, False),
        ('```json\n[{"name": "q"', False, False, False),
        ('{"name": "h", "arguments": {}}', False, False, False),
    ],
)
def test_calls_that_are_all_of_a_reply(text, required, auto, none):
    assert takes((END,), Alone(), text, "required") is required
    assert takes((END,), Alone(), text, "auto") is auto
    assert takes((END,), Alone(), text, "none") is none


@pytest.mark.parametrize("control", SETS, ids=["text", "control"])
def test_an_answer_follows_the_reasoning_that_the_prompt_opened(control):
    vocabulary, tokens = KNOWN[control], SETS[control]
    mark = mark_or_text(vocabulary.mark)
    plain = answer_grammar('"yes" | "no"', mark=mark, thinking=THINKING)
    assert fits(plain, "yes", tokens, vocabulary)
    assert not fits(plain, f"{THINK}a{THOUGHT}yes", tokens, vocabulary)
    begun = answer_grammar('"yes" | "no"', mark=mark, thinking=BEGUN)
    assert fits(begun, f"hm{THOUGHT}\nno", tokens, vocabulary)
    assert not fits(begun, "no", tokens, vocabulary)


def test_a_format_that_does_not_begin_with_its_opening_is_refused():
    class Odd(Tagged):
        def grammar(self, functions, mark):
            return CallGrammar(opening="<<", first="call_one", rules=rules(literal, ""))

    with pytest.raises(ParameterError, match="do not begin with"):
        takes((END,), Odd(), "", "auto")
