"""Hostile templates: each ends by counts, in little memory, with one of our errors."""

import gc
import tracemalloc

import bounded
import pytest

from lorakit.chat.template import ChatTemplate
from lorakit.errors import FormatError, ParameterError

pytestmark = pytest.mark.timeout(600)  # a child renders many templates, on any machine
MESSAGES = [{"role": "user", "content": "x"}]
GROW = (
    "{% set ns = namespace(x='aaaaaaaaaaaaaaaa', y='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
)
DOUBLE = GROW + "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
LONG = "x" * 50_000

BOMBS = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "filtered loops": (
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}"
    ),
    "summed ranges": "{% for a in range(99999) %}{% if range(99999)|sum %}{% endif %}{% endfor %}",
    "large range": "{{ range(1000000000) | list }}",
    "macro tree": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}"
    ),
    "call blocks": (
        "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call f() %}" * 30
        + "{% endcall %}" * 30
    ),
    "recursive loop": (
        "{% for a in [1, 1] recursive %}{{ loop([1, 1]) if loop.depth < 40 }}{% endfor %}"
    ),
    "literal output": "{% for a in range(99999) %}" + LONG + "{% endfor %}",
    "literal set": "{% for a in range(99999) %}{% set z %}" + LONG + "{% endset %}{% endfor %}",
    "string times": "{{ 'a' * 10000000000 }}",
    "list times": "{{ [1] * 10000000000 }}",
    "times string": "{{ 10000000000 * 'a' }}",
    "concatenate": GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "add": GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "add lists": GROW + "{% set ns.x = ns.x | list + ns.x | list %}{% endfor %}",
    "replace": GROW + "{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}",
    "replace filter": GROW + "{% set ns.x = ns.x | replace('a', 'aaaaaaaa') %}{% endfor %}",
    "join": "{{ ('a' * 1000000).join(range(99999) | map('string')) }}",
    "join filter": "{{ range(99999) | join('a' * 1000000) }}",
    "set block": GROW + "{% set z %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = z %}{% endfor %}",
    "shared parts printed": DOUBLE + "{{ ns.x }}",
    "shared parts as json": DOUBLE + "{{ ns.x | tojson }}",
    "shared parts compared": DOUBLE + "{{ ns.x == ns.y }}",
    "shared parts sought": DOUBLE + "{{ ns.x in [ns.y] }}",
    "shared parts sorted": DOUBLE + "{{ [ns.x, ns.y] | sort }}",
    "shared parts tested": DOUBLE + "{{ ns.x is eq(ns.y) }}",
    "shared parts counted": DOUBLE + "{{ [ns.x].count(ns.y) }}",
    "shared parts formatted": DOUBLE + "{{ '%s' % [ns.x] }}",
    "squares": (
        "{% set ns = namespace(x=3) %}"
        "{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}"
    ),
    "power": "{{ 3 ** 1000000000 }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format nested width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "strftime": "{{ strftime_now('%1000000000d') }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "expandtabs": "{{ ('\t' * 100000).expandtabs(99999) }}",
    "indent": "{{ ('a\n' * 1000000) | indent(99999) }}",
    "json indent": "{{ [1] | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000, 'x') | list }}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "classes": "{{ ''.__class__.__mro__ }}",
    "classes by item": "{{ ''['__class__']['__mro__'] }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "format attribute": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "change input": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "extends": "{% extends 'x' %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}

TUPLES = (
    "{% set ns = namespace(x=('a',), y=('a',)) %}{% for i in range(60) %}"
    "{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}"
)
OBJECTS = (
    "{% set ns = namespace(x={'a': 1}, y={'a': 1}) %}{% for i in range(60) %}"
    "{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% set ns.y = {'a': ns.y, 'b': ns.y} %}{% endfor %}"
)
DEEP = (
    "{% set ns = namespace(x=1, t=1) %}{% for i in range(99999) %}"
    "{% set ns.x = [ns.x] %}{% set ns.t = (ns.t,) %}{% endfor %}"
)


def kept(value: str) -> str:
    """A loop that keeps every value that it makes."""
    return (
        "{% set ns = namespace(l=[], n=2**2000) %}{% for i in range(9999) %}{% for j in range(999)"
        " %}{% set ns.l = [ns.l, " + value + "] %}{% set ns.n = ns.n - 1 %}{% endfor %}{% endfor %}"
    )


KEPT = (
    "text.upper()", "wide[1:]", "words | list", "text.split('a')", "dict(mapping)", "wide | list",
    "text.upper", "loop", "ns.n", "ns.foo", "text.encode", "mapping.items()", "range(j)",
    "[j] | map('string')", "j | float", "ns[text]", "[ns.l, ns.l] * 99", "namespace(a=1)",
)  # fmt: skip

MORE = {
    **{f"kept {value}": kept(value) for value in KEPT},
    **{
        f"shared {name}": TUPLES + "{{ " + text + " }}"
        for name, text in {
            "as a key": "{ns.x: 1}",
            "as a key sought": "ns.x in {'a': 1}",
            "got": "{}.get(ns.x)",
            "as an item": "{}[ns.x]",
            "in an error": "[1][ns.x].foo",
            "made unique": "[ns.x] | unique | list",
            "as a filter's name": "[1] | map(ns.x) | list",
            "as a test's name": "[1] | select(ns.x) | list",
            "as an attribute": "[1] | map(attribute=ns.x) | list",
            "as a method of rounding": "1 | round(0, ns.x)",
            "filtered by name": "ns.x is filter",
            "ordered": "ns.x < ns.y",
            "sorted": "[ns.x, ns.y] | sort",
            "largest": "[ns.x, ns.y] | max",
            "sorted as values": "{'a': ns.x, 'b': ns.y} | dictsort(by='value')",
            "as text": "ns.x | string | length",
            "joined": "[ns.x] | join | length",
            "concatenated": "(ns.x ~ '') | length",
            "in a pattern": "('%r' % [ns.x]) | length",
            "in braces": "'{!r}'.format(ns.x) | length",
            "in capitals": "ns.x | upper | length",
            "indented": "ns.x | indent | length",
            "as a refusal": "raise_exception(ns.x)",
            "as a time": "strftime_now(ns.x)",
            "made safe": "ns.x | safe | length",
        }.items()
    },
    "shared objects compared": OBJECTS + "{{ ns.x == ns.y }}",
    "shared views compared": OBJECTS + "{{ ns.x.items() == ns.y.items() }}",
    "shared objects sought": OBJECTS + "{{ ns.x.a in ns.y.values() }}",
    "shared objects as json": OBJECTS + "{{ ns.x | tojson(indent=2) | length }}",
    "shared objects changed": OBJECTS
    + "{% for i in [1, 2] %}{{ loop.changed(ns.x if i == 1 else ns.y) }}{% endfor %}",
    "deep printed": DEEP + "{{ ns.x }}",
    "deep as json": DEEP + "{{ ns.x | tojson }}",
    "deep compared": DEEP + "{{ ns.x == [ns.x] }}",
    "deep hashed": DEEP + "{{ {ns.t: 1} }}",
    "deep sorted": DEEP + "{{ [ns.t, (ns.t,)] | sort }}",
    "integers of one hash": "{{ range(0, 99999 * (2**61-1), 2**61-1) | unique | list | length }}",
    "searched from the end": (
        "{% for i in range(99999) %}"
        "{{ ('a' * 4000000).rfind('a' + 'b' + 'a' * 2000000) }}{% endfor %}"
    ),
    "split from the end": "{{ ('a' * 8000000).rsplit('ab' + 'a' * 1000000) | length }}",
    "found nowhere": "{% for i in range(99999) %}{{ ('a'*2400).find('a'*1200 ~ 'b') }}{% endfor %}",
    "split by words": "{{ ('a ' * 8000000).split() | length }}",
    "lines": "{% for i in range(999) %}{{ ('\\n' * 4000000).splitlines() | length }}{% endfor %}",
    "spread": (
        "{% macro f() %}{{ varargs | length }}{{ kwargs | length }}{% endmacro %}"
        "{% for i in range(99999) %}{% set x = f(*words, **mapping) %}{% endfor %}"
    ),
    "macro default": (
        "{% macro f(a='x' * 10000000) %}{{ a | length }}{% endmacro %}"
        "{% for i in range(99999) %}{{ f() }}{% endfor %}"
    ),
    "kept macros": kept("f").replace("{% for j", "{% macro f() %}{% endmacro %}{% for j"),
    "many assignments": (
        "{% for i in range(99999) %}{% for j in range(99999) %}"
        + "{% set a = i %}" * 2000
        + "{% endfor %}{% endfor %}"
    ),
    "one wide character": "{% for i in range(14) %}{{ text }}{% endfor %}\U0001f600" * 9,
    "hidden filter": "{{ [-100000000] | map(' tick') | list }}",
    "digits": "{{ ('9' * 1000000) | int }}",
    "rounding": "{{ 5 | round(-1000000000) }}",
    "complex": "{{ (-8) ** 0.5 }}",
    "format spec": "{{ '{:.9999f}'.format(1.0) }}",
    "format item": "{{ '{0[0]}'.format(messages) }}",
    "percent many": "{{ ('%(a)999s' * 60000 % {'a': 1}) | length }}",
    "path": "{{ objects | map(attribute='" + "a." * 50000 + "a') | list }}",
    "generator's frame": "{{ (words | map('upper')).gi_frame.f_globals }}",
    "loop sought in": "{% for a in words %}{{ 'x' in loop }}{% endfor %}",
    "views as sets": "{{ ({1: 2}.keys() - [1]) | list }}",
    "namespace printed": "{{ namespace(a=1) }}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "autoescape": "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "private attribute": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    **{
        f"refused {text}": "{{ " + text + " }}"
        for text in (
            "cycler('a').next()", "joiner()()", "'a'.encode().x", "'a'.translate({})",
            "'{a}'.format_map({'a': 1})", "{}.pop(1)", "''|attr('x')", "'a'|center(9)",
            "text|wordwrap(1)", "text|urlize", "words|pprint", "mapping|xmlattr", "[1]|batch(2)",
            "objects|groupby('a')", "(1).to_bytes(9, 'big')", "self.x()", "super()",
            "'a'.upper.__func__.x", "range.function.x", "words|random", "text|striptags",
        )
    },
}  # fmt: skip

SOURCES = {
    "large literal": "{{ 0x" + "f" * 200_000 + " }}",
    "long literal": "{{ " + "9" * 200_000 + " }}",
    "tokens": "{{ a }}" * 100_000,
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "attributes": "{{ a" + ".b" * 5000 + " }}",
    "filters": "{{ a" + "|upper" * 5000 + " }}",
    "sums": "{{ 1" + "+1" * 5000 + " }}",
    "branches": "{% if 1 %}" * 1500 + "{% endif %}" * 1500,
    "macros": "{% macro f() %}" * 500 + "{% endmacro %}" * 500,
    "names times blocks": "".join(f"{{% set a{i}=1 %}}" for i in range(2000))
    + "{% if a %}{% endif %}" * 900,
    "include": "{% include 'x' %}",
}


def render(text: str) -> str:
    return ChatTemplate(sources={"default": text}).render(MESSAGES)


@pytest.fixture(scope="module")
def ended():
    """How each bomb ended in a process of bounded memory, with a part of the steps."""
    return bounded.run({**BOMBS, **MORE, **SOURCES}, work=200_000)


@pytest.mark.parametrize("name", [*BOMBS, *MORE, *SOURCES])
def test_a_hostile_template_is_stopped_by_counts_in_little_memory(ended, name):
    assert ended[name]["end"] in ("counts", "refused"), ended[name]


DEAREST = ("macro tree", "summed ranges", "recursive loop", "shared parts compared", "deep sorted")
LARGEST = ("ns[text]", "namespace(a=1)", "dict(mapping)", "wide | list", "text.split('a')", "loop")


def test_the_dearest_and_largest_end_by_counts_at_the_limits_as_shipped():
    names = [*DEAREST, *(f"kept {value}" for value in LARGEST), "one wide character"]
    known = {**BOMBS, **MORE}
    for name, end in bounded.run({name: known[name] for name in names}).items():
        assert end["end"] == "counts", (name, end)


@pytest.mark.parametrize("value", KEPT)
def test_what_is_kept_is_stopped_for_its_number_or_its_bytes(ended, value):
    message = ended[f"kept {value}"]["message"]
    assert "steps of work" in message or "MiB of values" in message


BROKEN = {
    "upper": "{% for i in range(99999) %}{% set x = text.upper() %}{% endfor %}",
    "equality": DOUBLE + "{{ ns.x == ns.y }}",
    "sort": DOUBLE + "{{ [ns.x, ns.y] | sort }}",
    "repetition": "{{ ('a' * 2000000000) | length }}",
    "text": DOUBLE + "{{ ns.x | string | length }}",
    "bytes": kept("dict(mapping)"),
}


@pytest.fixture(scope="module")
def whole():
    return bounded.run(BROKEN)


@pytest.mark.parametrize("change", BROKEN)
def test_an_operation_that_draws_nothing_would_be_caught(whole, change):
    template = {change: BROKEN[change]}
    patience = 60.0 if change == "bytes" else 2.0  # that one must come to its end
    broken = bounded.run(template, unguarded=[change], cpu=1.0, kill=patience)
    assert whole[change]["end"] == "counts"
    if change == "bytes":  # the steps still end it, later
        assert broken[change]["peak"] > 1.5 * bounded.run(template)[change]["peak"]
    else:
        assert broken[change]["end"] in ("seconds", "memory", "killed", "rendered")


def test_the_limits_end_in_one_of_our_errors_with_a_hint():
    with pytest.raises(FormatError, match="exceeded its limits") as caught:
        render(BOMBS["nested loops"])
    assert "hostile" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{ 'a'.encode() }}", "the attribute encode of a str"),
        ("{{ 'a' | center }}", "the filter center"),
        ("{{ cycler(1) }}", "the global cycler"),
        ("{{ namespace() }}", "the text of a "),
        ("{% include 'x' %}", "include (line 1)"),
        ("{{ '{0.x}'.format(1) }}", "the format field '{0.x}'"),
    ],
)
def test_what_is_not_listed_is_named(text, named):
    with pytest.raises(FormatError) as caught:
        render(text)
    assert f"{named}" in caught.value.message
    assert "is not among what a chat template may use" in caught.value.message


def test_what_is_not_listed_is_not_there():
    assert render("{{ [].__len__ is defined }}{{ ''.encode is defined }}") == "FalseFalse"
    assert render("{{ cycler is defined }}{{ ''.__class__ }}") == "False"


def test_a_long_honest_conversation_renders():
    loop = (
        "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content | trim }}"
        "{% if loop.index0 == messages | length - 1 %}!{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200}] * 2000
    text = ChatTemplate(sources={"default": loop}).render(messages)
    assert text.endswith("word!")
    assert len(text) == 2000 * (6 + 999) + 1


def test_a_template_may_look_at_all_other_messages_for_each():
    loop = (
        "{% for m in messages %}{% set ns = namespace(n=0) %}{% for o in messages %}"
        "{% if o.role == m.role %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ ns.n }},"
        "{% endfor %}"
    )
    messages = [{"role": "user", "content": "x"}] * 300
    assert ChatTemplate(sources={"default": loop}).render(messages) == "300," * 300


def test_a_budget_belongs_to_one_render():
    template = ChatTemplate(
        sources={"default": "{% for a in range(99999) %}{% set b = a %}{% endfor %}done"}
    )
    for _ in range(20):
        assert template.render(MESSAGES) == "done"


def test_what_a_render_made_does_not_outlive_it():
    text = (
        "{% macro f() %}{% endmacro %}{% set ns = namespace(x='x' * 9000000) %}"
        "{% set ns.me = ns %}{% set big = ns.x ~ 'y' %}"
    )
    template = ChatTemplate(sources={"default": text})
    failing = ChatTemplate(sources={"default": text + "{{ messages.no.no }}"})
    gc.disable()
    try:
        template.render(MESSAGES)
        tracemalloc.start()
        for _ in range(5):
            template.render(MESSAGES)
            with pytest.raises(ParameterError) as caught:
                failing.render(MESSAGES)
            del caught
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()
        gc.enable()
