"""Whatever a caller gives, lorakit.js says in its own words what is wrong; in a page as behind a
worker. Handles act on what they were made for.
"""

import pytest
from nodes import DEMO

CODES = {
    "parameter_invalid",
    "adapter_unknown",
    "source_not_found",
    "extra_missing",
}
OPTIONS = {"undefined", "object", "bare"}
SETS = {"list", "object", "bare", "map"}
SCALES = {"undefined", "null", "number", "minus"}
FINE = {  # the odd values that are none
    "detectFormat(x)": {"undefined", "null", "empty", "text"},
    "detectFormat(t, x)": {"undefined", "function"},
    "parseReply(x)": {"empty", "text"},
    "parseReply(t, x)": {"null"},
    "readerOf(x)": {"null"},
    "readerOf(null, x)": OPTIONS,
    "parseReply(t, null, x)": {"true", *OPTIONS},
    "apply(x)": SETS,
    "apply(home, x)": SCALES,
    "apply(names, x)": {"undefined"},
    "chat role": {"text"},
    "chat(M, x)": OPTIONS,
    "chat tools": {"undefined", "null", "list"},
    "chat adapters": {"undefined", "null", *SETS},
    "chat maxTokens": {"undefined", "number"},
    "chat toolChoice": {"undefined", "null"},
    "chat responseFormat": {"undefined", "null"},
    "chat repair": {"undefined", "true"},
    "chat stop": {"undefined", "text", "list"},
    "complete(x)": {"text"},
    "complete(p, x)": OPTIONS,
    "stream(M, x)": OPTIONS,
    "events(M, x)": OPTIONS,
    "batch(R, x)": OPTIONS,
    "handle.apply(x)": SCALES,
}
HANDLES = {
    **{f"first {what}": "adapter_unknown" for what in ("apply", "remove", "unload")},
    **{f"foreign {what}": "parameter_invalid" for what in ("apply", "remove", "unload")},
    "first.apply": "adapter_unknown",
    "first.unload": "adapter_unknown",
    "first.info": "adapter_unknown",
    "second untouched": "ok",
    "unload(handle)": "ok",
    "a handle among names": "parameter_invalid",
    "the scale of a list": "parameter_invalid",
    "the scale of several": "parameter_invalid",
    "messages and prompt": "parameter_invalid",
    "an unknown option": "parameter_invalid",
}


@pytest.fixture
def run(node, dynamic_export):
    given = {"export": str(dynamic_export), "home": str(DEMO / "adapters/home")}
    return lambda **options: node.run("callers.mjs", given | options.pop("more", {}), **options)


def test_odd_values_are_told_from_right_ones_everywhere(run):
    found = run()
    tables = [found["alone"], found["here"]["table"], found["behind"]["table"]]
    assert tables[1] == tables[2]
    assert sum(map(len, tables)) > 60
    for table in tables:
        for name, row in table.items():
            assert {odd for odd, code in row.items() if code == "ok"} == FINE.get(name, set()), name
            odd = {odd: code for odd, code in row.items() if code not in {"ok", *CODES}}
            assert odd == {}, name


def handles(run, **options):
    found = run(more={"handles": True}, **options)
    here, behind = (found[side]["handles"] for side in ("here", "behind"))
    functions = [side.pop("a function in the options") for side in (here, behind)]
    return here, behind, functions


def test_handles_act_on_their_own_adapter(run):
    assert handles(run) == (HANDLES, HANDLES, ["ok", "parameter_invalid"])


@pytest.mark.parametrize(
    ("file", "text", "replacement"),
    [
        ("adapters.js", "if (this.serials.get(name) === serial)", "if (true)"),
        ("remote.js", "return { handle: { name, serial } };", "return name;"),
        ("remote.js", "if (what.model !== this)", "if (false)"),
        ("model.js", "if (what.model !== this)", "if (false)"),
        ("options.js", "if (!Object.hasOwn(rules, name))", "if (false)"),
    ],
)
def test_a_broken_variant_is_seen(run, broken_web, file, text, replacement):
    web = broken_web({file: (text, replacement)})
    found = run(more={"handles": True}, web=web, fails=True)
    sides = [found[side]["handles"].items() for side in ("here", "behind")] if found else []
    assert not sides or not all(side >= HANDLES.items() for side in sides)
