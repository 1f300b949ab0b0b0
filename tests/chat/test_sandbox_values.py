"""What the sandbox's own operations give is what Python and Jinja give, or both refuse."""

import json
import math
import operator

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorakit.chat.sandbox import BoundedEnvironment, budgeted, formatting, operators, writing

texts = st.text(alphabet="abAB é<&'\"\n\t\\%{}ß😀\u2028\x1f,.1", max_size=12)
scalars = st.none() | st.booleans() | st.integers(-99, 99) | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(texts | st.integers(0, 5), inner, max_size=4)
    ),
    max_leaves=12,
)


def outcome(function, *args):
    """A value with its type, or that there is none."""
    try:
        with budgeted():
            found = function(*args)
    except Exception:
        return "refused"
    return (type(found).__name__, repr(found))


@given(value=values)
def test_text_is_pythons(value):
    with budgeted():
        assert writing.to_text(value) == str(value)
        assert writing.to_repr(value) == repr(value)


@given(
    value=values,
    ensure_ascii=st.booleans(),
    indent=st.none() | st.integers(-1, 4) | st.sampled_from(["", "\t", "ab"]),
    separators=st.none() | st.sampled_from([(",", ":"), ["; ", " = "]]),
    sort_keys=st.booleans(),
)
def test_json_is_pythons(value, ensure_ascii, indent, separators, sort_keys):
    def ours(value):
        return writing.JsonWriter(ensure_ascii, indent, separators, sort_keys).write(value)

    def theirs(value):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    assert outcome(ours, value) == outcome(theirs, value)


def test_long_texts_are_escaped_whole():
    text = 'a"é😀\n' * 40_000
    with budgeted():
        assert writing.JsonWriter().write(text) == json.dumps(text, ensure_ascii=False)
        assert writing.JsonWriter(True).write([text]) == json.dumps([text])


@given(left=values, right=values)
def test_comparisons_are_pythons(left, right):
    assert outcome(operators.equal, left, right) == outcome(operator.eq, left, right)
    assert outcome(operators.equal, left, left) == outcome(operator.eq, left, left)
    for name, function in (("lt", operator.lt), ("gteq", operator.ge)):
        assert outcome(operators.ordered, name, left, right) == outcome(function, left, right)
    if not isinstance(right, dict):  # where keys must be plain
        expected = outcome(operator.contains, right, left)
        assert outcome(operators.contains, right, left) == expected


@given(left=values, right=values, name=st.sampled_from(["+", "-", "*", "/", "//", "%"]))
def test_arithmetic_is_pythons(left, right, name):
    if name == "*" and any(isinstance(side, str | list | tuple) for side in (left, right)):
        left, right = left, 3 if isinstance(left, str | list | tuple) else right
    ours = outcome(operators.binary, name, left, right)
    if ours != "refused" or not isinstance(left, str):  # of `%`, a part is refused
        theirs = outcome(operators._ARITHMETIC[name], left, right)
        assert ours == theirs or (name == "%" and isinstance(left, str))


FORMATS = ["%s", "%d", "%5d|", "%-5s|", "%05.1f", "%x", "%r", "%%", "%c", "%+d", "a%sb%s", "%.2s"]


@pytest.mark.parametrize("pattern", [*FORMATS, "%(a)s %(b)s", "%", "%(a)", "%y"])
@given(value=scalars | st.lists(scalars, max_size=2).map(tuple))
@settings(max_examples=20)
def test_percent_is_pythons(pattern, value):
    given = {"a": value, "b": 1} if "(" in pattern else value
    assert outcome(formatting.percent, pattern, given) == outcome(lambda: pattern % given)


@pytest.mark.parametrize(
    "pattern",
    ["{}", "{}{}", "{0}{0}", "{a}", "{{}}", "{:>5}", "{:.1f}", "{!r}", "{!s:<4}|", "{:,}"],
)
@given(value=scalars)
@settings(max_examples=20)
def test_braces_are_pythons(pattern, value):
    def ours():
        return formatting.braces(pattern, (value, 2), {"a": value})

    assert outcome(ours) == outcome(lambda: pattern.format(value, 2, a=value))


USES = [
    "{{ v.split(a) }}|{{ v.split() }}|{{ v.rsplit(a, 1) }}|{{ v.splitlines() }}",
    "{{ v.strip(a) }}|{{ v.lstrip() }}|{{ v.rstrip(a) }}|{{ v.partition(a) }}|{{ v.rfind(a) }}",
    "{{ v.replace(a, 'xy', 1) }}|{{ v.replace('', a) }}|{{ v.title() }}|{{ v.swapcase() }}",
    "{{ v.count(a) }}|{{ v.startswith((a, 'b')) }}|{{ v.removeprefix(a) }}|{{ a.join([v, v]) }}",
    "{{ v|upper }}|{{ v|title }}|{{ v|trim }}|{{ v|capitalize }}|{{ v|reverse|list }}",
    "{{ v|indent }}|{{ v|indent(2, true, true) }}|{{ v|indent(a) }}|{{ v|replace(a, 'q') }}",
    "{{ v|e }}|{{ v|safe ~ '<' }}|{{ (v|safe) + '<' + a }}|{{ v|escape|upper }}|{{ v|string }}",
    "{{ v|int }}|{{ v|float }}|{{ v|int(7, 16) }}|{{ v|length }}|{{ v|first }}|{{ v|last }}",
    "{{ v[1:] }}|{{ v[::-1] }}|{{ v[-1] }}|{{ v[:2] }}|{{ v[99] is defined }}",
    "{{ l|sort }}|{{ l|sort(true, true) }}|{{ l|unique|list }}|{{ l|min }}|{{ l|max }}",
    "{{ l|join(a) }}|{{ l|map('upper')|list }}|{{ l|select('equalto', v)|list }}|{{ v in l }}",
    "{{ o|map(attribute='n')|list }}|{{ o|sort(attribute='n', reverse=true) }}",
    "{{ o|selectattr('n', 'equalto', v)|list }}|{{ o|rejectattr('m')|list }}|{{ o|sum('k') }}",
    "{{ o|sort(attribute='k,n') }}|{{ o|map(attribute='z', default=a)|join }}",
    "{{ d|dictsort }}|{{ d|dictsort(true, 'value', true) }}|{{ d|items|list }}|{{ d.items() }}",
    "{{ d.get(v) }}|{{ d.get(v, a) }}|{{ d.keys()|list }}|{{ d.values()|list }}|{{ d == d }}",
    "{{ v is upper }}|{{ v is string }}|{{ l is iterable }}|{{ d is mapping }}|{{ d is sequence }}",
    "{{ 2.5|round }}|{{ 2.567|round(2, 'floor') }}|{{ (-3)|abs }}|{{ 7 is divisibleby 3 }}",
    "{% for x in l %}{{ loop.changed(x) }}{{ loop.cycle(1, 2) }}{{ loop.nextitem }}{% endfor %}",
    "{{ v < a }}|{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ (v, a) == (v, a) }}|{{ [v] + l }}|{{ v * 2 }}",
    "{{ '%s-%s' % (v, a) }}|{{ '{}'.format(v) }}|{{ '%s' | format(v) }}|{{ v ~ 1 ~ none }}",
    "{{ missing }}|{{ missing.x is defined }}|{{ missing or v }}|{{ missing|default(v) }}",
    "{{ missing.x }}", "{{ v.nope() }}", "{{ v + 1 }}", "{{ l.nope.nope }}", "{{ d[v][a] }}",
    "{% macro f(x, y=a) %}{{ x }}{{ y }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(v, 1, k=l) }}",
    "{% macro f() %}[{{ caller(v) }}]{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}",
    "{% set ns = namespace(a=1, **{'b': v}) %}{% set ns.a = l %}{{ ns.a }}{{ ns['b'] }}",
    "{% set x %}{{ v }}{% endset %}{{ x }}{% filter upper %}{{ v }}{% endfilter %}",
    "{% for k, x in d.items() if x != v %}{{ k }}{{ loop.index }}{% else %}none{% endfor %}",
    "{% for x in [1, [2]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{{ dict(d, q=1) }}|{{ dict([['a', 1]]) }}|{{ range(2, 9, 3)|list }}|{{ 5 in range(9) }}",
]  # fmt: skip


@pytest.mark.parametrize("text", USES)
@given(v=texts, a=texts, items=st.lists(texts, max_size=5), k=st.integers(-5, 5))
@settings(max_examples=15, deadline=None)
def test_templates_render_as_in_jinja(text, v, a, items, k):
    objects = [{"n": item, "k": index * k, "m": index % 2} for index, item in enumerate(items)]
    names = {"v": v, "a": a, "l": items, "o": objects}
    variables = {**names, "d": dict(zip(items, items[::-1], strict=True))}
    theirs = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    expected = outcome(lambda: theirs.from_string(text).render(variables))
    bounded = BoundedEnvironment()

    def ours():
        return bounded.render(bounded.from_string(text), variables)

    assert outcome(ours) == expected


def test_most_of_the_uses_above_render():
    """Where both sides refuse, nothing is compared."""
    variables = {"v": "a b", "a": "b", "l": ["x", "y"], "o": [{"n": "q", "k": 1}], "d": {"x": "y"}}
    theirs = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    found = [outcome(lambda t=text: theirs.from_string(t).render(variables)) for text in USES]
    assert found.count("refused") <= 8


def test_an_integer_or_float_that_is_not_a_number_is_one_in_json_too():
    with budgeted():
        assert writing.JsonWriter().write([math.inf, math.nan, True]) == "[Infinity, NaN, true]"
    assert jinja2.__version__ >= "3.1.6"
