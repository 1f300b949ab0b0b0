"""Schemas with values that fit them, and random walks over the grammar of a format's calls.

Every byte is a token, so that a walk can go wherever the grammar lets any tokenizer go.
"""

import json
import random

import llguidance
import llguidance.numpy
import numpy as np
from hypothesis import strategies as st

from lorakit.chat.constraints.lark import literal

BYTES = llguidance.LLTokenizer("byte")
LONGEST = 1500  # bytes of a walk
ENDS = ("<escape>", '<|"|>', "\n</parameter>\n", '"', "]", "}", "\n", ",")
KEYS = ("a", "b", "Ab", "c d", "ä", "name")
# Neither the markers of a format nor a NUL, which no model writes.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<\0\x7f"), max_size=8)


def grammar_of(form, functions):
    """A reply that is calls alone, as one grammar; markers are text."""
    calls = form.grammar(functions, literal)
    more = f"({calls.more}){{0,1}}" if calls.more else ""
    return f"start: {calls.first} {more} {calls.last}\n{calls.rules}\n"


def matcher_of(grammar):
    matcher = llguidance.LLMatcher(
        BYTES, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0
    )
    assert not matcher.is_error(), f"{matcher.get_error()}\n{grammar}"
    return matcher


def accepts(grammar, text):
    matcher = matcher_of(grammar)
    written = list(text.encode())
    return matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting()


def walk(grammar, seed):
    """A text that the grammar allows, or None where it would get too long."""
    chance, matcher = random.Random(seed), matcher_of(grammar)
    mask = llguidance.numpy.allocate_token_bitmask(1, BYTES.vocab_size)
    written = bytearray()
    while len(written) < LONGEST:
        if matcher.is_accepting() and (matcher.is_stopped() or chance.random() < 0.5):
            return written.decode()
        step = _end_of_something(matcher, chance) or [_any_byte(matcher, mask, chance)]
        assert matcher.consume_tokens(step)
        written += bytes(step)
    return None


def _end_of_something(matcher, chance):
    """The bytes of a marker that may stand here, so that texts and lists come to an end."""
    if chance.random() < 0.6:
        return None
    for end in chance.sample(ENDS, len(ENDS)):
        step = list(end.encode())
        if matcher.validate_tokens(step) == len(step):
            return step
    return None


def _any_byte(matcher, mask, chance):
    llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:256]
    allowed = np.flatnonzero(bits)
    ascii_only = allowed[allowed < 128]
    return int(chance.choice(ascii_only if len(ascii_only) and chance.random() < 0.9 else allowed))


def _texts(draw):
    kind = draw(st.sampled_from(("any", "length", "pattern", "date", "enum")))
    if kind == "length":
        return {"type": "string", "minLength": 1, "maxLength": 5}, draw(
            TEXTS.filter(lambda text: 1 <= len(text) <= 5)
        )
    if kind == "pattern":
        return {"type": "string", "pattern": "^[a-z]{2}x?"}, draw(st.sampled_from(("ab", "zzx!")))
    if kind == "date":
        return {"type": "string", "format": "date"}, "2026-11-28"
    if kind == "enum":
        choices = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
        return {"enum": choices}, draw(st.sampled_from(choices))
    return {"type": "string"}, draw(TEXTS)


def _numbers(draw):
    if draw(st.booleans()):
        low = draw(st.integers(-20, 20))
        schema = {"type": "integer", "minimum": low, "maximum": low + 9}
        return schema, draw(st.integers(low, low + 9))
    if draw(st.booleans()):
        return {"type": "integer"}, draw(st.integers(-(10**12), 10**12))
    # None that Python writes with an exponent, which JSON of a constraint has not.
    return {"type": "number"}, draw(st.integers(-(10**9), 10**9).map(lambda n: n / 1000))


def _constants(draw):
    if draw(st.booleans()):
        return {"type": "boolean"}, draw(st.booleans())
    values = [None, 1, 2.5, "x", "true", True, ["y"], {"k": 1}]
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return {"enum": chosen}, draw(st.sampled_from(chosen))


def _arrays(draw, depth):
    items, value = draw(typed(depth + 1))
    least = draw(st.integers(0, 2))
    schema = {"type": "array", "items": items, "minItems": least}
    if draw(st.booleans()):
        schema["maxItems"] = least + 1
    if draw(st.booleans()):
        first, head = draw(typed(depth + 1))
        return {**schema, "prefixItems": [first]}, [head] + [value] * max(0, least - 1)
    return schema, [value] * least


def _objects(draw, depth):
    properties, value, required = {}, {}, []
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
        properties[key], inner = draw(typed(depth + 1))
        if draw(st.booleans()):
            required.append(key)
            value[key] = inner
        elif draw(st.booleans()):
            value[key] = inner
    schema = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = False
    if draw(st.booleans()):
        schema["additionalProperties"], inner = draw(typed(depth + 1))
        if draw(st.booleans()):
            value["zz"] = inner
    return schema, value


def _either(draw, depth):
    one, value = draw(typed(depth + 1))
    other, second = draw(typed(depth + 1))
    return {"anyOf": [one, other]}, draw(st.sampled_from((value, second)))


def _nothing_said(draw):
    values = st.none() | st.booleans() | st.integers(-99, 99) | TEXTS
    inner = st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(("k", "l")), values)
    return {}, draw(values | inner)


@st.composite
def typed(draw, depth=0):
    """A schema, and a value that fits it."""
    simple = (_texts, _numbers, _constants, _nothing_said)
    nested = (_arrays, _objects, _either) if depth < 2 else ()
    make = draw(st.sampled_from(simple + nested))
    return make(draw, depth) if make in nested else make(draw)


@st.composite
def declared(draw):
    """A tool, and arguments that fit it, with keys in the order of its declaration."""
    parameters, arguments = _objects(draw, 0)
    name = draw(st.sampled_from(("f", "get_weather", "a.b-c")))
    return {"name": name, "parameters": parameters}, arguments


def same(one, other):
    """Equal as JSON, where the order of keys says nothing and 1 is 1.0."""
    return _plain(one) == _plain(other)


def _plain(value):
    if isinstance(value, dict):
        return json.dumps({key: _plain(inner) for key, inner in sorted(value.items())})
    if isinstance(value, list):
        return json.dumps([_plain(inner) for inner in value])
    if isinstance(value, float) and value.is_integer():
        return json.dumps(int(value))
    return json.dumps(value)
