"""What a server is told of tools and formats, and what it is never asked."""

import pytest

from lorakit.chat.rendering import RenderOptions
from lorakit.errors import CapabilityError, ParameterError
from lorakit.remote.asking import Conversation
from lorakit.remote.kinds import KINDS
from lorakit.runtime.params import SamplingParams

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [None, 1]}}}
FORMAT = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}


def said(kind, tools=TOOLS, **options):
    asked = Conversation.of([{"role": "user", "content": "a"}], tools, RenderOptions(**options))
    return KINDS[kind].rendering(asked)


@pytest.mark.parametrize("kind", KINDS)
def test_what_tools_are_for_is_said_where_it_is_chosen(kind):
    assert said(kind) == said(kind, tool_choice="free") == {}
    assert said(kind, None, tool_choice="auto") == {}
    assert said(kind, tool_choice="required", parallel_tool_calls=False) == {
        "tool_choice": "required", "parallel_tool_calls": False,
    }  # fmt: skip
    with pytest.raises(ParameterError, match="no such tool"):
        said(kind, tool_choice="g")
    with pytest.raises(ParameterError, match="no such tool"):
        said(kind, None, tool_choice="required")
    with pytest.raises(CapabilityError, match="declare=False"):
        said(kind, declare=False)


def test_a_tool_is_named_where_the_server_takes_names():
    named = {"type": "function", "function": {"name": "f"}}
    assert said("vllm", tool_choice="f") == {"tool_choice": named}
    with pytest.raises(CapabilityError, match="takes no name"):
        said("llamacpp", tool_choice="f")


@pytest.mark.parametrize("kind", KINDS)
def test_formats_are_said_in_openai_words(kind):
    found = KINDS[kind].sampling(SamplingParams(response_format=FORMAT), chat=True)
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
    }
    plain = SamplingParams(response_format={"type": "text"})
    assert "response_format" not in KINDS[kind].sampling(plain, chat=True)


def test_a_prompt_has_a_format_on_llama_server_alone():
    found = KINDS["llamacpp"].sampling(SamplingParams(response_format=FORMAT), chat=False)
    assert found["json_schema"] == SCHEMA
    with pytest.raises(CapabilityError, match="in conversations alone"):
        KINDS["vllm"].sampling(SamplingParams(response_format=FORMAT), chat=False)
