"""Hostile templates: each ends soon, in little memory, with one of our errors."""

import pytest

from lorakit.chat.sandbox import budget as sandbox
from lorakit.chat.template import ChatTemplate
from lorakit.errors import FormatError, LorakitError

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


def render(text: str) -> str:
    return ChatTemplate(sources={"default": text}).render(MESSAGES)


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_template_ends_soon(name, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_WORK", 200_000)
    with pytest.raises(LorakitError) as caught:
        render(BOMBS[name])
    if "exceeded its limits" in caught.value.message:
        assert isinstance(caught.value, FormatError)
        assert "hostile" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["{{ 9 ** 9 ** 9 }}", "{{ ('<a' * 5000000) | striptags | length }}"]
)
def test_what_is_large_but_bounded_runs(text):
    assert len(render(text)) < 100


def test_the_limits_as_shipped_end_in_seconds():
    with pytest.raises(FormatError, match="exceeded its limits"):
        render(BOMBS["nested loops"])


def test_what_the_sandbox_hides_is_empty():
    assert render("{{ ''|attr('__class__') }}{{ [].__len__ is defined }}") == "False"


def test_a_long_honest_conversation_renders():
    loop = (
        "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content | trim }}"
        "{% if loop.index0 == messages | length - 1 %}!{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200}] * 2000
    text = ChatTemplate(sources={"default": loop}).render(messages)
    assert text.endswith("word!")
    assert len(text) == 2000 * (6 + 999) + 1


def test_a_budget_belongs_to_one_render():
    template = ChatTemplate(
        sources={"default": "{% for a in range(99999) %}{% set b = a %}{% endfor %}done"}
    )
    for _ in range(60):
        assert template.render(MESSAGES) == "done"
