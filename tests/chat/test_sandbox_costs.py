"""What each entry of the allow-list costs: a loop of its dearest use is ended by counts.

The tables are compared with the allow-list itself, so that an entry without a cost test fails.
"""

import bounded
import pytest

from lorakit.chat.sandbox.checks import LISTED as TESTS
from lorakit.chat.sandbox.environment import GLOBALS
from lorakit.chat.sandbox.filters import LISTED as FILTERS
from lorakit.chat.sandbox.methods import LOOP_VALUES, METHODS, owner_name
from lorakit.chat.sandbox.rewrite import HIDDEN

pytestmark = pytest.mark.timeout(600)  # a child renders many templates, on any machine
SHARED = (
    "{% set ns = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)

ALIKE = (  # methods of texts that are used in the same way
    "capitalize isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper lower lstrip "
    "rstrip split splitlines strip swapcase title upper"
)
METHOD_USES = {
    **{("str", name): f"wide.{name}()" for name in ALIKE.split()},
    ("str", "count"): "text.count('aB')",
    ("str", "endswith"): "text.endswith(text)",
    ("str", "find"): "text.find('zz')",
    ("str", "format"): "'{}{}'.format(text, text)",
    ("str", "index"): "text.index('c')",
    ("str", "join"): "text.join(words)",
    ("str", "partition"): "text.partition('zz')",
    ("str", "removeprefix"): "text.removeprefix('aB')",
    ("str", "removesuffix"): "text.removesuffix('c')",
    ("str", "replace"): "text.replace('a', 'bb')",
    ("str", "rfind"): "text.rfind('zz')",
    ("str", "rpartition"): "text.rpartition('zz')",
    ("str", "rsplit"): "text.rsplit('a')",
    ("str", "startswith"): "text.startswith(text)",
    ("list", "count"): "words.count('x')",
    ("list", "index"): "words.index('word 19999')",
    ("tuple", "count"): "(ns.x, words).count(ns.y)",
    ("tuple", "index"): "(words, ns.x).index(ns.y)",
    ("dict", "get"): "mapping.get(text)",
    ("dict", "items"): "mapping.items()",
    ("dict", "keys"): "mapping.keys()",
    ("dict", "values"): "mapping.values()",
    ("loop", "changed"): "loop.changed(ns.x if loop.first else ns.y)",
    ("loop", "cycle"): "loop.cycle(text, words)",
}
METHOD_USES |= {
    ("Markup", name): use.replace("wide.", "safe.").replace("text.", "safe.")
    for (kind, name), use in METHOD_USES.items()
    if kind == "str"
}
METHOD_USES[("Markup", "format")] = "safe.format(1)"

FILTER_USES = {
    "abs": "(-1) | abs",
    "capitalize": "wide | capitalize",
    "count": "words | count",
    "d": "text | d('x')",
    "default": "text | default('x')",
    "dictsort": "mapping | dictsort",
    "e": "wide | e",
    "escape": "ns.x | escape",
    "first": "words | first",
    "float": "'1.5' | float",
    "format": "'%s%s' | format(text, wide)",
    "indent": "text | indent",
    "int": "'15' | int",
    "items": "mapping | items",
    "join": "words | join(text)",
    "last": "words | last",
    "length": "text | length",
    "list": "wide | list",
    "lower": "wide | lower",
    "map": "words | map('upper')",
    "max": "[ns.x, ns.y] | max",
    "min": "words | min",
    "reject": "words | reject('equalto', 'x')",
    "rejectattr": "objects | rejectattr('b.c', 'equalto', 1)",
    "replace": "ns.x | replace('a', 'b')",
    "reverse": "text | reverse",
    "round": "1.5 | round(300)",
    "safe": "text | safe",
    "select": "numbers | select('odd')",
    "selectattr": "objects | selectattr('a', 'equalto', 'x')",
    "sort": "words | sort",
    "string": "ns.x | string",
    "sum": "numbers | sum",
    "title": "text | title",
    "tojson": "objects | tojson(indent=2, ensure_ascii=true)",
    "trim": "text | trim",
    "unique": "words | unique",
    "upper": "wide | upper",
}

SIMPLE = (
    "boolean callable defined escaped false float integer iterable mapping none number sequence "
    "string true undefined"
)
ORDERS = "== eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le"
TEST_USES = {
    **{name: f"ns.x is {name}" for name in SIMPLE.split()},
    **{name: f"[ns.x] | select('{name}', ns.y) | list" for name in ORDERS.split()},
    "divisibleby": "7 is divisibleby(2)",
    "even": "8 is even",
    "odd": "8 is odd",
    "sameas": "ns.x is sameas(ns.y)",
    "in": "ns.x is in([ns.y])",
    "lower": "text is lower",
    "upper": "ns.x is upper",
}

GLOBAL_USES = {
    "dict": "dict(mapping, a=1)",
    "namespace": "namespace(mapping)",
    "raise_exception": "raise_exception(ns.x)",
    "range": "range(99999) | list",
    "strftime_now": "strftime_now('%Y' * 400)",
}

OPERATOR_USES = {
    " chained": "ns.x == ns.x == ns.y",
    " compare": "ns.x != ns.y",
    " concatenate": "ns.x ~ text",
    " dict": "{text: 1, 'a': 2}",
    " list": "[" + "text, " * 100 + "]",
    " made": "loop",
    " sliced": "text[1:]",
    " spread": "dict(**mapping)",
    " tick": "1",
    " tuple": "(" + "text, " * 100 + ")",
    "+": "text + wide",
    "-": "7 - 3",
    "*": "words * 9",
    "/": "7 / 3",
    "//": "7 // 3",
    "%": "'%s %s' % (text, wide)",
    "**": "3 ** 2000",
    "attribute": "mapping.zzz",
    "item": "mapping[text]",
    "output": "wide",
}


def looped(use: str) -> str:
    """A use in an endless loop, the item made and kept where it can be."""
    body = "{{ wide }}" if use == "wide" else "{% set made = " + use + " %}"
    return (
        SHARED.replace("namespace(", "namespace(z=[text, wide, words][0], ")
        + "{% set safe = text | safe %}{% for i in range(99999) %}{% for j in range(99999) %}"
        + body
        + "{% endfor %}{% endfor %}"
    )


USES = {
    **{f"method {kind}.{name}": use for (kind, name), use in METHOD_USES.items()},
    **{f"filter {name}": use for name, use in FILTER_USES.items()},
    **{f"test {name}": use for name, use in TEST_USES.items()},
    **{f"global {name}": use for name, use in GLOBAL_USES.items()},
    **{f"operator {name}": use for name, use in OPERATOR_USES.items()},
}


def test_each_entry_of_the_list_has_its_cost_test():
    methods = {(owner_name(kind), name) for kind, names in METHODS.items() for name in names}
    assert METHOD_USES.keys() == methods
    assert FILTER_USES.keys() == FILTERS.keys()
    assert TEST_USES.keys() == TESTS.keys()
    assert GLOBAL_USES.keys() == GLOBALS.keys()
    operators = {name for name in OPERATOR_USES if name.startswith(" ")}
    assert operators == HIDDEN.keys()
    assert all(name.isalnum() for name in LOOP_VALUES)  # each is a number or one of the items


@pytest.fixture(scope="module")
def ended():
    return bounded.run({name: looped(use) for name, use in USES.items()}, work=120_000, cpu=4.0)


REFUSED = {"method Markup.format", "method Markup.join", "method Markup.replace"}
REFUSED |= {"global raise_exception"}  # before it has the text that it would refuse with


@pytest.mark.parametrize("name", USES)
def test_an_endless_loop_of_it_is_ended_by_counts(ended, name):
    expected = {"counts", "refused"} if name in REFUSED else {"counts"}
    assert ended[name]["end"] in expected, ended[name]
