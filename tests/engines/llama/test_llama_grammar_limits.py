"""Grammars that would crash llama.cpp are refused before it parses them."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from llama_cases import base_file

from lorakit.engines.llama import grammar, tokenizer
from lorakit.engines.llama.gbnf import MAX_LEFT, MAX_NESTING, MAX_TEXT, MAX_WAYS, check_grammar
from lorakit.engines.llama.tokenizer import LlamaTokenizer
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


@pytest.fixture(scope="module")
def vocabulary():
    return LlamaTokenizer(base_file("llama"))


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_valid_grammars_are_accepted(vocabulary, text):
    check_grammar(text)
    assert vocabulary.constraint(text) is not None


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_harmful_grammars_are_refused(vocabulary, text):
    with pytest.raises(ParameterError) as caught:
        vocabulary.constraint(text)
    assert caught.value.items
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", [None, b'root ::= "a"', 5])
def test_a_grammar_must_be_text(vocabulary, text):
    with pytest.raises(ParameterError, match="must be text"):
        vocabulary.constraint(text)


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


def test_accepted_grammars_never_crash():
    """In a child limited to 2 GiB and 60 CPU seconds; llama.cpp parses the accepted ones."""
    done = child("live_through")
    assert done.returncode == 0, done.stderr[-2000:]
    let, read = map(int, done.stdout.split())
    assert let > 100
    assert read > 0.9 * let


@pytest.mark.parametrize("name", ["nested", "fewer than least"])
def test_unchecked_they_crash(name):
    """The broken variant."""
    assert child("unchecked", name).returncode


def child(function, *arguments):
    if sys.platform == "win32":
        pytest.skip("limits are POSIX's")
    code = (
        f"import sys; from test_llama_grammar_limits import {function}; {function}(*sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def limit(memory=2 << 30):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def live_through():
    vocabulary, let, read = LlamaTokenizer(base_file("llama")), 0, 0
    limit()
    for text in random_grammars(1500):
        try:
            check_grammar(text)
        except ParameterError:
            continue
        let += 1
        try:
            vocabulary.constraint(text)
            read += 1
        except ParameterError:
            continue
    print(let, read)


def unchecked(name):
    vocabulary = LlamaTokenizer(base_file("llama"))
    limit(1 << 30)
    assert tokenizer.Grammar is grammar.Grammar
    grammar.check_grammar = lambda text: None
    vocabulary.constraint(WRONG[name])
