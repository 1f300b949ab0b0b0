"""Following grammars token by token: masks, forced tokens, ends, drafts, limits; each trap."""

import threading

import numpy as np
import pytest
from byte_tokens import BYTES, CONTROL, END, TOKENS, ByteTokens, fits, followed
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.chat.constraints import matching
from lorakit.chat.constraints.expressions import whole
from lorakit.chat.constraints.gbnf import is_gbnf, lark_of
from lorakit.chat.constraints.lark import expression, json_rule, literal
from lorakit.chat.constraints.matching import Compiled, native_matcher
from lorakit.chat.constraints.own_lark import checked_lark
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.chat.constraints.walking import walk
from lorakit.errors import EngineError, ParameterError

GRAMMARS = {
    "words": 'start: "the " ("tool" | "table") /[0-9]+/',
    "control": "start: <[265]> /[a-z<>]{0,4}/ <[266]>?",
    "the end": "start: /[ab]/ <[264]> /[ab]/",
    "json": f"start: {json_rule(walk({'properties': {'ab': {'type': 'integer'}, 'x': {}}}, 's'))}",
    "text": "start: /(?s:.*)/",
}


UNFORCED = '\n%llguidance {"no_forcing": true}'


def naive(grammar, prefix):
    """The tokens that a fresh matcher takes after a prefix, tried one by one."""
    allowed = set()
    compiled = Compiled(BYTES, f"{grammar}{UNFORCED}")
    for token in range(TOKENS.vocabulary):
        matcher = compiled.matcher([TOKENS.end])
        for each in prefix:
            matcher.accept(each)
        try:
            matcher.accept(token)
        except EngineError:
            continue
        allowed.add(token)
    return allowed


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_masks_are_what_each_token_alone_says(grammar):
    rng = np.random.default_rng(5)
    matcher = Compiled(BYTES, f"{grammar}{UNFORCED}").matcher([TOKENS.end])
    prefix = []
    for _ in range(6):
        expected = naive(grammar, prefix)
        found = matcher.allowed(TOKENS.vocabulary)
        assert set(found.tolist()) == expected
        assert found.dtype == np.int64
        assert matcher.allowed(len(expected) - 1) is None
        masked = matcher.mask(np.zeros(300, np.float32))  # more columns than tokens
        assert set(np.flatnonzero(np.isfinite(masked)).tolist()) == expected
        assert len(matcher.mask(np.zeros(100, np.float32))) == 100
        assert {t for t in range(-1, 300) if matcher.allows(t)} == expected
        choice = int(rng.choice(sorted(expected - {TOKENS.end}) or [TOKENS.end]))
        matcher.accept(choice)
        prefix.append(choice)
        if matcher.ended:
            break


@pytest.mark.parametrize(
    "grammar",
    ["start: start", "start: a\na: b\nb: a", "start: /[a&&b]/", 'start: A\nA: "a" & "b"'],
)
def test_a_grammar_that_no_text_fits_is_refused_before_an_answer(grammar):
    with pytest.raises(ParameterError, match="no text fits it"):
        Compiled(BYTES, grammar)


def test_one_that_empty_text_fits_is_taken():
    assert Compiled(BYTES, 'start: ""').matcher([TOKENS.end]).allowed(9).tolist() == [TOKENS.end]


def test_forced_tokens_are_those_of_the_tokenizer():
    matcher = Compiled(BYTES, 'start: "the tool" /[0-9]/ "ab"').matcher([TOKENS.end])
    forced = list(matcher.forced())
    assert forced == TOKENS.encode("the tool", special=False)[: len(forced)]
    assert len(forced) >= 2
    assert list(matcher.forced()) == forced  # asking does not advance
    for token in TOKENS.encode("the tool", special=False):
        matcher.accept(token)
    assert matcher.forced() == ()


def test_what_is_forced_is_all_that_is_allowed():
    """So that a mask that was prepared says the same as one that was not."""
    matcher = Compiled(BYTES, 'start: "the tool"').matcher([TOKENS.end])
    assert matcher.allowed(300).tolist() == [matcher.forced()[0]]
    assert [token for token in range(300) if matcher.allows(token)] == [matcher.forced()[0]]
    matcher.accept(ord("t"))  # another way to write it is still right
    assert matcher.forced()


def test_nothing_is_forced_where_the_answer_may_end():
    matcher, *_ = followed('start: "ab" "the"?', "ab")
    assert matcher.forced() == ()
    assert not matcher.ended
    assert set(matcher.allowed(9)) == {ord("t"), TOKENS.texts.index(b"the"), TOKENS.end}


def test_an_end_token_may_come_where_the_grammar_accepts():
    compiled = Compiled(BYTES, "start: /[a-c]+/")
    matcher = compiled.matcher([TOKENS.end, ord("z")])
    assert not matcher.allows(TOKENS.end)
    matcher.accept(ord("a"))
    assert matcher.allows(TOKENS.end)
    assert matcher.allows(ord("z"))  # another token that ends this answer
    matcher.accept(ord("z"))
    assert matcher.ended
    with pytest.raises(EngineError, match="after its end"):
        matcher.accept(ord("a"))
    free = compiled.matcher(())  # ignore_eos: no end token is chosen
    free.accept(ord("a"))
    assert set(free.allowed(20)) == {*b"abc", TOKENS.texts.index(b"ab")}


def test_it_ends_where_nothing_may_follow():
    matcher, *_ = followed('start: "ab"', "ab")
    assert matcher.ended
    assert matcher.forced() == ()
    assert matcher.fitting([1, 2]) == 0
    matcher.accept(TOKENS.end)  # a runtime that does not ask
    assert matcher.ended


def test_what_is_not_allowed_raises_and_harms_nobody_else():
    compiled = Compiled(BYTES, 'start: "ab"')
    one, other = compiled.matcher([TOKENS.end]), compiled.matcher([TOKENS.end])
    for token in (ord("x"), -1, 5000, TOKENS.end):
        with pytest.raises(EngineError):
            one.accept(token)
    one.accept(ord("a"))  # its state is as before
    other.accept(TOKENS.texts.index(b"ab"))
    assert other.ended
    assert not one.ended


def test_drafts_are_cut_where_they_no_longer_fit():
    matcher = Compiled(BYTES, 'start: "tool" /[0-9]+/').matcher([TOKENS.end])
    draft = [*b"tool12", TOKENS.end, ord("3")]
    assert matcher.fitting(draft) == 6
    assert matcher.fitting([*b"tox"]) == 2
    assert matcher.fitting([]) == 0


@pytest.mark.parametrize("draft", ["", "tool1", "tooth", "the"])
def test_prepared_masks_are_those_that_are_computed_later(draft):
    compiled = Compiled(BYTES, 'start: "to" ("ol" | "oth") /[0-9]*/')
    plain, prepared = compiled.matcher([TOKENS.end]), compiled.matcher([TOKENS.end])
    prepared.prepare([*draft.encode()])
    for token in b"tool1":
        assert np.array_equal(prepared.allowed(300), plain.allowed(300))
        prepared.accept(token)
        plain.accept(token)
        if token == ord("l"):
            prepared.prepare()
    assert np.array_equal(prepared.allowed(300), plain.allowed(300))


def test_masks_are_prepared_beside_the_caller(monkeypatch):
    threads = []
    compute = matching.Matcher._compute
    monkeypatch.setattr(
        matching.Matcher,
        "_compute",
        lambda self, draft: (threads.append(threading.current_thread()), compute(self, draft))[1],
    )
    matcher = Compiled(BYTES, GRAMMARS["json"]).matcher([TOKENS.end])
    matcher.prepare()
    assert matcher.allows(ord("{"))
    assert threads[0] is not threading.current_thread()


def test_control_tokens_alone_are_special():
    """An added token such as <b> is text: it may stand in a string."""
    assert fits("start: /(?s:.*)/", "x <b> y")
    assert not fits("start: /(?s:.*)/", f"x {CONTROL[1]} y")
    plain = ByteTokens(control=(END,))
    assert fits("start: /(?s:.*)/", f"x {CONTROL[1]} y", plain, Vocabulary(plain, [plain.end]))


def test_the_end_is_told_and_never_guessed():
    other = Vocabulary(TOKENS, [ord("!")])
    matcher = Compiled(other, 'start: "ab"+').matcher([ord("!")])
    matcher.accept(TOKENS.texts.index(b"ab"))
    assert matcher.allows(ord("!"))
    assert not matcher.allows(TOKENS.end)


def test_a_model_without_end_tokens_ends_where_nothing_may_follow():
    bare = Vocabulary(TOKENS, [])
    assert bare.size == TOKENS.vocabulary + 1  # one more than the model has columns
    matcher = Compiled(bare, 'start: "a"').matcher([])
    assert np.isfinite(matcher.mask(np.zeros(TOKENS.vocabulary, np.float32))).sum() == 1
    matcher.accept(ord("a"))
    assert matcher.ended


class Spaced(ByteTokens):
    """Puts a space before every text, as some SentencePiece tokenizers do."""

    def encode(self, text, *, special):
        return super().encode(f" {text}", special=special)


class Odd(ByteTokens):
    """Writes another text than it is given."""

    def encode(self, text, *, special):
        return super().encode(text.upper(), special=special)


def test_a_tokenizer_that_puts_a_space_before_a_text_forces_none():
    spaced = Vocabulary(Spaced(), [TOKENS.end])
    assert spaced.forces
    forced = Compiled(spaced, 'start: "the tool" /[0-9]/').matcher([TOKENS.end]).forced()
    assert forced[0] == TOKENS.texts.index(b"the")


def test_a_tokenizer_that_fails_the_trial_forces_nothing():
    odd = Vocabulary(Odd(), [TOKENS.end])
    assert not odd.forces
    matcher = Compiled(odd, 'start: "the tool" /[0-9]/').matcher([TOKENS.end])
    assert matcher.forced() == ()
    assert matcher.allows(ord("t"))


def test_a_grammar_that_grows_too_ambiguous_ends_its_own_answer():
    grammar = "start: " + '"a"? ' * 3000
    matcher = Compiled(BYTES, grammar).matcher([TOKENS.end])
    with pytest.raises(EngineError, match="cannot be followed any further"):
        [matcher.accept(ord("a")) or matcher.allowed(300) for _ in range(3)]
    with pytest.raises(EngineError):  # it stays broken
        _ = matcher.ended
    assert fits('start: "ab"', "ab")


class PanicException(BaseException):  # as Rust's is called
    pass


def test_a_panic_of_the_library_ends_one_answer(monkeypatch):
    def panic(*_):
        raise PanicException("index out of bounds")

    matcher = Compiled(BYTES, "start: /[a-c]+/").matcher([TOKENS.end])
    monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", panic)
    matcher.prepare()
    with pytest.raises(EngineError, match="the constraint failed: index out of bounds"):
        matcher.allowed(300)


def test_nothing_is_printed(capfd):
    with pytest.raises(ParameterError):
        native_matcher(BYTES.native, "start: (((")
    with pytest.raises(EngineError):
        Compiled(BYTES, 'start: "a"').matcher([]).accept(3)
    assert capfd.readouterr() == ("", "")


BAD = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from([
        "start: ", "root ::= ", "start", "\n", "A: ", "(", ")", "{2}", "{0,", "*", "|", '"a"',
        "/x/",
        "/[/", "%json {", "}", '"type": "integer"', "<[3]>", "<x>", "[lazy]", "%regex {", "~", "&",
        "%ignore /x/", "//", "::=", "[a-z]", "\\", "(?=", "$", "^", "%llguidance {}",
    ]), max_size=12).map("".join),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(BAD)
def test_random_grammars_are_taken_or_refused(text):
    for read in (lambda: (lark_of if is_gbnf(text) else checked_lark)(text),
                 lambda: f"start: {expression(whole(text))}"):  # fmt: skip
        try:
            Compiled(BYTES, read()).matcher([TOKENS.end]).allowed(300)
        except (ParameterError, EngineError):
            continue


@pytest.mark.parametrize(
    "text",
    [
        "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(5000)) + 'r5000: "a"',
        'start: %json {"$ref": "#/$defs/d0", "$defs": {'
        + ",".join(f'"d{i}": {{"items": {{"$ref": "#/$defs/d{i + 1}"}}}}' for i in range(5000))
        + ', "d5000": {}}}',
        "start: " + "(" * 30_000,
        "start: %json " + "[" * 30_000,
        'start: %json {"type": "integer", "unknown": 1}',
        'start: "a" ' + "x" * (1 << 19),
        "start: A\nA: A",
    ],
    ids=["deep rules", "deep schemas", "groups", "lists", "a keyword", "long", "itself"],
)
def test_grammars_that_would_end_the_process_are_refused(text):
    with pytest.raises(ParameterError):
        native_matcher(BYTES.native, checked_lark(text))


def test_schemas_within_a_grammar_are_walked():
    grammar = checked_lark(
        'start: "x" %json {"type": "integer", "maximum": 5, "minimum": 0} // %json {'
    )
    assert fits(grammar, "x3")
    assert not fits(grammar, "x7")


EXPRESSIONS = (
    ("[0-9]{3}-(a|b)", "123-b", "12-b"),
    ("^(yes|no)$", "yes", "yesno"),
    (r"\d+\.\w*/\s", "1.a/ ", "x.a/ "),
    (r"[^\]\-a]+", "b^", "a"),
    (r"[\w.]+@[a-z]+?", "a.b@c", "@c"),
    (r"\u00e9\x41.", "éA?", "éA\n"),
    ("(?:ab|c)*(?P<n>d)?", "abcd", "da"),
    ("", "", "a"),
)


@pytest.mark.parametrize(("pattern", "right", "wrong"), EXPRESSIONS)
def test_expressions_fit_as_a_whole(pattern, right, wrong):
    grammar = f"start: {expression(whole(pattern))}"
    assert fits(grammar, right)
    assert not fits(grammar, wrong)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (
            "a(?=b)",
            "look-around, flags and other groups of (?...) are not",
        ),
        (r"(a)\1", r"the escape \1 is not supported, at position 3"),
        (r"\bword", r"the escape \b is not supported, at position 0"),
        ("(((a{1000}){1000}))", "more than 20000 characters with repetitions expanded"),
        ("a**", "two repetitions"),
        ("a{3,1}", "at least 3 and at most 1"),
        ("(" * 60 + "a" + ")" * 60, "more than 50 groups"),
        ("[a", "the class never ends, at position 0"),
        ("a)", "no group is open, at position 1"),
        ("(a", "the group never ends, at position 0"),
        ("a^b", "^ is enforced at the ends only, at position 1"),
        ("[z-a]", "a range"),
        ("\ud800", "half of a surrogate pair"),
        ("a" * 60_000, "more than 50000 characters"),
    ],
)
def test_expressions_that_cannot_be_enforced_are_refused_with_their_place(pattern, why):
    with pytest.raises(ParameterError) as error:
        whole(pattern)
    assert why in error.value.items[0]


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=8))
def test_literals_are_the_text_alone(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert fits(f"start: {literal(text)}", text)
    assert not fits(f"start: {literal(text)}", f"{text}x")
