"""The automaton against Python's own engine, and on what that engine cannot survive."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.formats.pattern_parser import PatternError
from lorakit.formats.patterns import Budget, PatternTable, Regex

PATTERNS = [
    "",
    "a",
    ".*q_proj",
    "(q|k)_proj",
    r"layers\.[0-9]+\.mlp",
    "a{2,3}b?",
    "(a|ab)(c|bcd)?",
    "[^a-c]+x",
    "^a$",
    "(?:a|b)*?c",
    r"\d+\w*",
    "a||b",
    "(a*)*b",
    "(a?){3}a",
    "x{,2}y",
    "[]a]+",
    r"[a\-z]+",
    "a^b",
    "(^a|b)c$",
    "{a",
    "a{b}",
    "a{0}b",
    "(a|b){0,2}",
    r"\ba\b.*",
    r".*\bc",
    r"(?P<layer>\d)\.(a|b)",
    r"[\d.]+[\s\S]?",
    r"\A\.\Z",
    r"(.*\.)?(model\.layers\.(1|3)\..*_proj)$",
    "a(?=b)[ab]*",
    "(?!ab)*a.*",
    "((?!ab)[ab])*",
    "(?!a(?!b)).*",
    "(?:(?=a$)a|b(?!b))+",
    ".*(?!$)b",
    "(a(?!c)|b)*(?=c)c?",
    r"(?!.*\b[bx])(?=.{2,}).*",
    r"^(?!.*(?:lm|pro)).*(?:q_proj|k).*",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_matches_what_re_matches(pattern):
    ours, theirs = Regex.compile(pattern, Budget(10**9)), re.compile(pattern)

    @settings(max_examples=150, deadline=None)
    @given(st.text(alphabet="abcqkxyz_proj.lmde013-]{} \n", max_size=12) | st.text(max_size=4))
    def compare(text):
        assert ours.fullmatch(text) == (theirs.fullmatch(text) is not None)

    compare()
    for text in ("q_proj", "layers.1.mlp", "aaab", "abcd", "ac", "xxy", "model.layers.3.q_proj"):
        assert ours.fullmatch(text) == (theirs.fullmatch(text) is not None)


def test_a_pattern_of_a_trainer_in_the_wild():
    pattern = (
        r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp).*?(?:k_proj|v_proj|q_proj|up_proj))"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:k_proj|q_proj)))"
    )
    regex = Regex.compile(pattern)
    for prefix in ("model.layers", "model.language_model.layers", "amodel.layers"):
        for module in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
            for layer in range(60):
                name = f"{prefix}.{layer}.{module}"
                assert regex.fullmatch(name) == (re.fullmatch(pattern, name) is not None)


@pytest.mark.parametrize(
    "pattern",
    [r"((a+)+)+$", "(a*)*b", "(a|aa)+$", "(.*a){25}", "([a-z]+)*!", "((a*)*)*" * 200],
)
def test_patterns_that_explode_elsewhere_are_quick(pattern):
    regex = Regex.compile(pattern)
    regex.fullmatch("a" * 400 + "!")


@pytest.mark.parametrize(
    "pattern",
    [
        "(?i)a",
        "(?=a",
        "(?<!a)b",
        r"(a)\1",
        "(a",
        ")",
        "[a",
        "a**",
        "a*+",
        "*a",
        "a{3,1}",
        "a\\",
        "[z-a]",
        "((a{1000}){1000}){1000}",
        "(((){9999}){9999}){9999}",
        "(" * 100 + "a" + ")" * 100,
        "(" * 5000,
        "a" * 10_000,
    ],
)
def test_what_is_not_a_pattern_or_too_large_is_refused(pattern):
    with pytest.raises(PatternError):
        Regex.compile(pattern)


def test_the_work_of_one_file_is_bounded():
    with pytest.raises(PatternError, match="work"):
        PatternTable([f"m{i}.*" for i in range(50_000)])


def test_a_pattern_for_every_module_of_a_large_model_is_quick():
    names = [
        f"model.layers.{layer}.mlp.experts.{e}.up_proj" for layer in range(48) for e in range(128)
    ]
    table = PatternTable(names)
    assert [table.first(name) for name in names] == names


KEYS = st.sampled_from(
    [
        "q_proj",
        "attn.q_proj",
        "s.1.mlp",
        "^model.a",
        "^a.b",
        "a.b",
        "a_b",
        "b",
        "",
        ".",
        ".*b",
        "(a|b)$",
    ]
)
NAMES = st.sampled_from(
    ["q_proj", "x.q_proj", "xq_proj", "model.layers.1.mlp", "model.a", "a.b", "a_b", "x.a_b", "b"]
)


@given(keys=st.lists(KEYS, unique=True, max_size=4), name=NAMES)
def test_the_first_key_wins_by_the_rule_of_peft(keys, name):
    found = [key for key in keys if re.match(rf"(.*\.)?({key})$", name)]
    assert PatternTable(keys).first(name) == (found[0] if found else None)
