"""GBNF in Lark: what is read, what it means, and what is refused before anything is built."""

import random

import pytest
from byte_tokens import BYTES, fits

from lorakit.chat.constraints.gbnf import MAX_NESTING, MAX_TEXT, is_gbnf, lark_of
from lorakit.chat.constraints.gbnf_limits import MAX_LEFT, MAX_WAYS
from lorakit.chat.constraints.matching import native_matcher
from lorakit.errors import ParameterError

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}  # after everything
"""
FINE = {
    "JSON": JSON,
    "a choice": 'root ::= "yes" | "no"',
    "several lines": 'root ::= ( "a"\n | "b"\n ) # ends\n\n\nb ::= [a-z-]+ . "\\u00e9" [^\\]]\r\n',
    "repetitions": 'root ::= "a"{3} "b"{2,} "c"{0,5} "d"? "e"* "f"+ ("g" "h"){1,100000000}',
    "what may be empty, repeated": 'root ::= (ws* "a")* ws*\nws ::= [ ]*',
    "recursion after a character": 'root ::= "(" root ")" | "x"',
    "recursion at the end": 'root ::= "a" root | "b" | ',
    "tokens by number": "root ::= <[5]> !<[6]>",
    "deep, and within bounds": "root ::= " + "(" * MAX_NESTING + '"a"' + ")" * MAX_NESTING,
    "many ways": "root ::= " + " | ".join(f'"w{at}"' for at in range(4000)),
    "a long text": 'root ::= "' + "a" * 100_000 + '"',
    "comments alone": "# nothing\nroot ::= [a]",
}
CHAIN = "root ::= r0\n{}r{} ::= [a]"


def chain(count):
    return CHAIN.format("".join(f"r{at} ::= r{at + 1} [x]\n" for at in range(count)), count)


WRONG = {
    "nested": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000,
    "nested, a little": "root ::= " + "(" * (MAX_NESTING + 1) + '"a"' + ")" * (MAX_NESTING + 1),
    "nested and not closed": "root ::= " + "(" * 30_000,
    "rules in each other": chain(30_000),
    "rules in each other, a little": chain(MAX_LEFT),
    "a long text": 'root ::= "' + "a" * MAX_TEXT + '"',
    "a long literal, repeated": 'root ::= "' + "a" * 100_000 + '"{2000}',
    "a long literal, perhaps repeated": 'root ::= "' + "a" * 100_000 + '"{0,2000}',
    "fewer than least": 'root ::= "a"{5,2}',
    "very often": 'root ::= "a"{100000000}',
    "a number of many digits": 'root ::= "a"{' + "9" * 5000 + "}",
    "many alternatives": "root ::= " + " | ".join(f'"w{at}"' for at in range(MAX_WAYS + 1)),
    "twice as many ways at each rule": "".join(
        f"r{at} ::= r{at + 1} [x] | r{at + 1} [y]\n" for at in range(60)
    ) + "r60 ::= [a]\nroot ::= [a] r0",
    "left recursion": 'root ::= root "a" | "b"',
    "left recursion through two": 'root ::= b "a" | "c"\nb ::= root "d"',
    "left recursion after what may be empty": 'root ::= e root "x" | "y"\ne ::= f\nf ::= "z" | ',
    "a NUL": 'root ::= "yes"\0 garbage',
    "a lone surrogate": 'root ::= "\ud83d"',
    "an escaped surrogate": r'root ::= "\ud83d"',
    "a class of surrogates": r"root ::= [\ud800-\udfff]",
    "no code point": r'root ::= "\U00110000"',
    "an escaped NUL": r'root ::= "a\x00b"',
    "no root": 'start ::= "a"',
    "a rule that is not there": "root ::= other",
    "an open literal": 'root ::= "a',
    "an open class": "root ::= [a",
    "an unknown escape": 'root ::= "\\q"',
    "a repetition of nothing": "root ::= *",
    "no number": 'root ::= "a"{x}',
    "nothing": "",
    "not a rule": "hello",
}  # fmt: skip


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_valid_grammars_are_accepted(text):
    assert is_gbnf(text)
    assert native_matcher(BYTES.native, lark_of(text)) is not None


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_harmful_grammars_are_refused(text):
    with pytest.raises(ParameterError) as caught:
        lark_of(text)
    assert caught.value.items
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", [None, b'root ::= "a"', 5])
def test_a_grammar_must_be_text(text):
    with pytest.raises(ParameterError, match="must be text"):
        lark_of(text)


MEANT = (
    (JSON, '{"a": [1, true, "x\\n"]}\n', True),
    (JSON, '{"a": tru}', False),
    ('root ::= ("a" | "ab") "bc"', "abc", True),  # not a word of the longest that fits
    ('root ::= ("a" | "ab") "bc" root?', "abcabbc", True),
    ("root ::= [a-c^]+ [^a-c]", "ab^x", True),
    ("root ::= [a-c^]+ [^a-c]", "abc", False),
    ('root ::= "\\u00e9" .', "é\n", True),
    ('root ::= "a"{2,3}', "a", False),
    ('root ::= "a"{2,3}', "aaa", True),
    ('root ::= "a"{0} "b"', "b", True),
    ("root ::= [a\\-z-]+", "a-z", True),
    ('root ::= "ab"*', "abab", True),
    ('root ::= "ab"*', "aba", False),
    ('root ::= B | c-d\nB ::= "x" # upper\nc-d ::= "y" | root "."', "y", None),
)


@pytest.mark.parametrize(("grammar", "text", "expected"), MEANT)
def test_a_grammar_means_the_same(grammar, text, expected):
    if expected is None:  # it begins with itself
        with pytest.raises(ParameterError, match="begins with itself"):
            lark_of(grammar)
    else:
        assert fits(lark_of(grammar), text) is expected


def test_words_of_several_characters_would_lose_texts():
    """The broken variant of one character at a time: the longest word that fits is taken."""
    assert not fits('start: ("a" | "ab") "bc" start?', "abc")


PIECES = [
    "(", ")", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}", "{1,}", "{2000}", "{0,2000}", '"a"',
    '"bc"', "[a-z]", "[^x]", ".", "root", "b", "c", " ", "\nb ::= ", "\nc ::= ", "\n", "# d\n",
    "<[3]>", '"\\x41"', "{5,2}", '""', "[]",
]  # fmt: skip


def random_grammars(count):
    rng = random.Random(7)
    for _ in range(count):
        body = " ".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 25)))
        yield f'root ::= "s" {body}\nb ::= "p" | c\nc ::= [q]? '


def test_accepted_grammars_are_read():
    """llguidance takes what is written of them, and refuses nothing but what is too large."""
    let = read = 0
    for text in random_grammars(300):
        try:
            written = lark_of(text)
        except ParameterError:
            continue
        let += 1
        try:
            native_matcher(BYTES.native, written)
            read += 1
        except ParameterError:
            continue
    assert let > 20
    assert read > 0.9 * let
