"""What holds for every format of the table: reading what is written, and what a constraint allows."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from growth import is_linear
from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.walking import functions_of
from lorakit.chat.tools import FORMATS, get_format, validate_call
from walking_calls import TEXTS, accepts, declared, grammar_of, same, walk

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
every = pytest.mark.parametrize("name", FORMATS)
MOST = 8


def bound(name, tool):
    """The format as a model with this tool has it."""
    form = get_format(name)
    return form.with_tools([tool]) if hasattr(form, "with_tools") else form


@every
@given(case=declared())
@few
def test_a_valid_call_is_written_read_and_allowed(name, case):
    tool, arguments = case
    form = bound(name, tool)
    call = ToolCall(name=tool["name"], arguments=arguments)
    assume(
        not (
            name == "qwen3coder"
            and " " in "".join(arguments) + "".join(tool["parameters"]["properties"])
        )
    )
    text = form.render_call(call)
    (read,) = form.parse(text).tool_calls
    assert read.name == call.name
    assert same(read.arguments, call.arguments)
    assert accepts(grammar_of(form, functions_of([tool])), text)


@every
@given(case=declared(), seed=st.integers(0, 2**32))
@few
def test_what_a_constraint_allows_is_a_valid_call(name, case, seed):
    tool, _ = case
    form = bound(name, tool)
    assume(not (name == "qwen3coder" and " " in "".join(tool["parameters"]["properties"])))
    text = walk(grammar_of(form, functions_of([tool])), seed)
    assume(text is not None)
    reply = form.parse(text)
    # What no grammar counts: a key that is not declared, twice, and the digits of an exponent.
    assume(not any("twice" in bad.reason or "too large" in bad.reason for bad in reply.malformed))
    assert not reply.malformed
    assert reply.text == ""
    assert 1 <= len(reply.tool_calls) <= 2
    for call in reply.tool_calls:
        assert validate_call(call, [tool]) == []
