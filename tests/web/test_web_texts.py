"""JSON, patterns, names and floats by themselves: the page takes them as Python does."""

import base64
import json
import random
import struct

import fed
import numpy as np
import pytest

from folders import DATA
from lorakit.files.bounded import parse_json
from lorakit.formats.pattern_parser import PatternError
from lorakit.formats.patterns import PatternTable, Regex
from lorakit.formats.peft.config import Resolver, parse

fuzz = fed.module("fuzz", "hostile")
patterns = fed.module("test_patterns")
peft = fed.module("test_peft")

SAMPLES = [
    "NaN", "-Infinity", "[1,2.0,-0,-0.0,1e5,1E-400,1e999]", '{"a":1,"a":2}',
    '{"__proto__":{"x":1}}',
    '{"2":1,"1":2}', '"\\ud83d\\ude00 \\ud83d \\u00e9\\/"', "01", "1.", ".5", "+1", "-", "1e",
    '"\t"',
    "[1,]", "{,}", '{"a"}', "nul", "nan", "\ufeff[]", "\ufeff\ufeff[]", "[]\u00a0", " [ ] ", "",
    '"',
    "[" * 200 + "]" * 200, "[" * 100_000, "9" * 4300, "-" + "9" * 4300, "9" * 4301,
    "1234567890123456789012345678901234567890", '"\\x41"', '"\\u12"', "[[],{},[{}]]", "tru e",
]  # fmt: skip


def spelled(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{spelled(k)}:{spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return "s" + value.encode("utf-16-le", "surrogatepass").hex()
    if isinstance(value, float):
        return "fnan" if value != value else "f" + struct.pack(">d", value).hex()
    return f"i{value}"


def test_json_means_the_same(plain_node):
    draw = random.Random(7)
    texts = [sample.encode() for sample in SAMPLES]
    texts += [b'"\xff"', b'"\xed\xa0\x80"', json.dumps({"a": 1}).encode("utf-16")]
    good = [path.read_bytes() for path in DATA.glob("truth/*/llama/*/adapter_config.json")]
    texts += [fuzz.mutate(draw.choice(good), draw.choice(texts), draw) for _ in range(1500)]
    expected = []
    for text in texts:
        try:
            expected.append(spelled(parse_json(text)))
        except ValueError:
            expected.append("JsonError")
    given = [base64.b64encode(text).decode() for text in texts]
    found = plain_node.run("adapters.mjs", {"texts": given})["texts"]
    assert [(t[:200], f, e) for t, f, e in zip(texts, found, expected, strict=True) if f != e] == []
    assert 0.05 < sum(e != "JsonError" for e in expected) / len(texts) < 0.95


def marked(test, name: str) -> list:
    return next(m for m in test.pytestmark if m.name == "parametrize" and m.args[0] == name).args[1]


def test_patterns_match_what_python_matches(plain_node):
    draw = random.Random(11)
    alphabet = "abcqkxyz_proj.lmde013-]{} \né²日\u00a0"
    words = ["q_proj", "layers.1.mlp", "aaab", "abcd", "ac", "xxy", "model.layers.3.q_proj"]
    texts = words + ["".join(draw.choices(alphabet, k=draw.randrange(12))) for _ in range(120)]
    tried = [
        *patterns.PATTERNS,
        *marked(patterns.test_patterns_that_explode_elsewhere_are_quick, "pattern"),
        *marked(patterns.test_what_is_not_a_pattern_or_too_large_is_refused, "pattern"),
        r"\Q", r"[\q]", r"\é", "[é-ü]", "(?P<é>a)", "(?P<1>a)", "(?P<a", "a{1,2}{3}", "(a|)",
        r"[\d-z]",
    ]  # fmt: skip
    pieces = [*"ab.()|[]^$?+-", ".*", "{2}", r"\d", r"\b"]
    tried += ["".join(draw.choices(pieces, k=draw.randint(1, 8))) for _ in range(800)]
    given = [{"pattern": pattern, "texts": texts} for pattern in tried]
    keys = [*"ab.^", *peft.SHORT[:2], "attn.q_proj", "^model.a", "^a.b", "a_b", ".*b", "(a|b)$", ""]
    tables = [draw.sample(keys, draw.randint(0, 5)) for _ in range(200)]
    names = [
        "q_proj",
        "x.q_proj",
        "xq_proj",
        "self_attn.q_proj",
        "model.a",
        "a.b",
        "a_b",
        "b",
        "attn.q_projs",
    ]
    given += [{"keys": table, "texts": names} for table in tables]
    found = plain_node.run("adapters.mjs", {"patterns": given})["patterns"]
    expected = [matched(one) for one in given]
    assert [(g, f, e) for g, f, e in zip(given, found, expected, strict=True) if f != e] == []
    assert expected.count("PatternError") > 50


def matched(given: dict) -> list | str:
    try:
        if "keys" in given:
            table = PatternTable(given["keys"])
            return [table.first(text) for text in given["texts"]]
        regex = Regex.compile(given["pattern"])
        return [regex.fullmatch(text) for text in given["texts"]]
    except PatternError:
        return "PatternError"


LOOKS = [
    {"pattern": pattern, "texts": ["ab", "abc", "ac", "aab", "a", "b"]}
    for pattern in ("a(?=b).*", "a(?!b).*", "(?!.*c)a.*", "a(?=(?!bc)b).*", "(?:a(?=a|b))+b")
]


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("", ""),
        ("!== this.look.negative", "!== false"),
        ("const inner = positions(this.inner, chars);", "const inner = positions([], chars);"),
        ("\\n${ahead}\\n${inner[at].key}", ""),
        ("\\n${states}\\n${holds[at].key}", "\\n${states}"),
    ],
)
def test_look_aheads_hold_where_python_says(plain_node, broken_web, text, replacement):
    web = {"web": broken_web({"patterns.js": (text, replacement)})} if text else {}
    found = plain_node.run("adapters.mjs", {"patterns": LOOKS}, **web)["patterns"]
    assert (found == [matched(one) for one in LOOKS]) is (not text)


def drawn_config(draw: random.Random) -> dict:
    options = {
        "target_modules": [
            *[draw.sample(peft.SHORT, draw.randint(1, 3)) for _ in range(3)],
            r".*\.(q|k)_proj", ".*", "lm_head", "all-linear", None,
        ],
        "exclude_modules": [[], draw.sample(peft.SHORT, 1), ".*1.*", "all-linear"],
        "modules_to_save": [[], draw.sample(["norm", "lm_head", "experts"], 2), "norm"],
        "layers_to_transform": [None, [], 1, draw.sample(range(12), 3)],
        "layers_pattern": [None, [], "layers", ["h", "layers"], "experts"],
        "rank_pattern": [{}, {draw.choice(peft.SHORT): 3, ".*1.*": 5}, {".*_proj": 2}],
        "alpha_pattern": [{}, {draw.choice(peft.SHORT): 0.3}, {"^lm_head": 7}],
        "use_rslora": [True, False, None],
        "lora_alpha": [16, 0.1, -3],
        "r": [8, 3],
    }  # fmt: skip
    return {name: draw.choice(values) for name, values in options.items() if draw.random() < 0.8}


def test_names_ranks_and_scales_are_those_of_python(plain_node):
    draw = random.Random(17)
    configs = [drawn_config(draw) for _ in range(600)]
    given = [{"text": json.dumps(config), "names": peft.MODULES} for config in configs]
    found = plain_node.run("adapters.mjs", {"configs": given})["configs"]
    for config, answers in zip(configs, found, strict=True):
        resolver = Resolver(parse(config, where="here"))
        expected = [
            [resolver.targeted(n), resolver.rank(n), resolver.scale(n)] for n in peft.MODULES
        ]
        assert answers == expected, config


def test_float16_rounds_as_numpy_rounds(plain_node):
    rng = np.random.default_rng(0)
    near = (rng.integers(96, 145, 20_000, np.uint32) << 23) | (
        rng.integers(0, 1 << 11, 20_000, np.uint32) << 12
    )
    words = np.concatenate([rng.integers(0, 1 << 32, 40_000, np.uint32), near, near + 1, near - 1])
    values = words.astype("<u4").view("<f4")
    values = values[~np.isnan(values)]
    given = base64.b64encode(values.tobytes()).decode()
    halves, back = map(
        base64.b64decode, plain_node.run("adapters.mjs", {"floats": given})["floats"]
    )
    with np.errstate(over="ignore"):
        expected = values.astype("<f2")
    assert halves == expected.tobytes()
    assert back == expected.astype("<f4").tobytes()
