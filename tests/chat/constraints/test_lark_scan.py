"""Grammars in Lark are taken apart in linear time, and nothing in them hides from the bounds."""

import contextlib
import time

import pytest

from lorakit.chat.constraints.combining import either
from lorakit.chat.constraints.lark_scan import regex_size, rules_of, sizes_of, tokens_of
from lorakit.chat.constraints.nodes import Text
from lorakit.chat.constraints.own_lark import MAX_TEXT, checked_lark
from lorakit.errors import ParameterError

DEEP = 2000


def deep(first, rule, last):
    return "\n".join([first, *(rule.format(i, i + 1) for i in range(DEEP)), last.format(DEEP)])


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (deep("start: [a0]", 'a{0}: "x" [a{1}]', 'a{0}: "x"'), "rules lead to each other"),
        (deep("start: a0::0x0", 'a{0}::_: "x" a{1}::_', 'a{0}::_: "x"'), "rules lead"),
        (deep("start: a0", 'a{0}[stop="]", capture="x"]: "x" a{1}', 'a{0}: "x"'), "rules lead"),
        ('start: "a" [ %json {"type": "string", "fooo": 1} ]', "'fooo' cannot be enforced"),
        ("start: A\nA: /((a{1000}){1000}){1000}/", "A is more than 20000"),
        ("start: A\nA: B{300}\nB: C{300}\nC: /x/", "A is more than 20000"),
        ("start: /((a{1000}){1000}){1000}/", "more than 200000"),
        (deep("start: A0", "A{0}: A{1} A{1}", 'A{0}: "x"'), "more than"),
        (deep("start: a0", 'a{0}.1: "x" a{1}', 'a{0}: "x"'), "rules lead"),
        (deep("start: a0", 'a{0}: %regex {{"a": "b"}} a{1}', 'a{0}: "x"'), "rules lead"),
        ('start: "a" b\nb[max_tokens=5]: /.*/', "max_tokens of the rule b"),
        ('start: "a', "never ends"),
        ("start: /a", "never ends"),
    ],
)
def test_what_is_out_of_bounds_is_refused(grammar, why):
    with pytest.raises(ParameterError) as error:
        checked_lark(grammar)
    assert why in str(error.value)


@pytest.mark.parametrize("piece", ["\\/", '"\\', "[", "{ ", "\\x{", "::a", '"" ', "/(a{", "%a"])
@pytest.mark.parametrize("before", ["", "/", '"', "a: /"])
def test_time_is_linear(before, piece):
    text = f"start: {before}{piece * (MAX_TEXT // 4 // len(piece))}"
    start = time.process_time()
    with contextlib.suppress(ParameterError):
        checked_lark(text)
    assert time.process_time() - start < 1.5  # a second try at each position: 15 s


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("[a-z]{3}", 3),
        ("(?:ab|c){4,5}", 5 * 6),
        ("(a{10}){10}", 100),
        ("[](]{5}", 5),
        (r"\x{41}{7}", 7),
        (r"\({3}", 3),
    ],
)
def test_size_of_an_expression(pattern, size):
    assert size <= regex_size(pattern) <= size + 3


def test_what_a_grammar_may_hold_is_left_as_it_is():
    text = (
        'start: "x" b+ [C] // "\nb[capture="x:y", stop="]"]: /.*/ # /\n'
        'C.2: /[^]a]{3,}\\/x/i | ("a"|"\\"b"i){2} & ~D\nD: %regex {"substring_chars": "ab"}'
    )
    assert checked_lark(text) == text
    rules = rules_of(tokens_of(text))
    assert [rule.name for rule in rules] == ["", "start", "b", "C", "D"]
    assert "capture" in rules[2].attributes
    assert sizes_of(rules)["b"] == 2


def test_alternatives_are_told_apart_in_linear_time():
    nodes = [Text(least=i, most=1000 + j) for i in range(60) for j in range(60)]
    start = time.process_time()
    assert len(either([*nodes, *nodes]).options) == 3600
    assert time.process_time() - start < 1.5  # each beside each: 10 s
