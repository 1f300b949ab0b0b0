"""Chat templates against transformers' own rendering, and the errors of bad ones."""

import copy
import json
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.chat.template import ChatTemplate
from lorakit.errors import BaseModelError, FormatError, ParameterError

DATA = Path(__file__).parents[1] / "data"
DEMO = Path(__file__).parents[2] / "src/lorakit/demo/base"
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
FAMILIES = ["gemma", "llama3", "chatml_tools", "functiongemma", "demo"]

USER = {"role": "user", "content": " Turn the <b>lights</b> off & 'go' \n"}
CALL = {"name": "set_light", "arguments": {"on": False, "room": 'a "b" <c> é', "n": [1, 2.5]}}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "set_light", "content": "done"}
CHATS = {
    "one": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Ok"}],
    "thought": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}],
    "call": [USER, CALLS],
    "result": [USER, CALLS, RESULT],
    "after": [USER, CALLS, RESULT, {"role": "assistant", "content": "It is off."}, USER],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "description": "Switch a light, <now> & here.",
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "description": "Which é"},
                    "on": {"type": "boolean", "description": "State"},
                },
                "required": ["room", "on"],
            },
        },
    }
]


def source(family: str) -> str:
    file = DEMO / "chat_template.jinja" if family == "demo" else DATA / f"templates/{family}.jinja"
    return file.read_text(encoding="utf-8")


def template(text: str) -> ChatTemplate:
    return ChatTemplate(sources={"default": text}, special_tokens=TOKENS)


@pytest.fixture(scope="module")
def oracle():
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    return transformers.AutoTokenizer.from_pretrained(DATA / "truth/bases/gemma3")


@pytest.mark.parametrize("with_tools", [False, True], ids=["", "tools"])
@pytest.mark.parametrize("prompt", [False, True], ids=["", "prompt"])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_renders_the_same(oracle, family, chat, prompt, with_tools):
    text, tools = source(family), TOOLS if with_tools else None
    options = {"tools": tools, "add_generation_prompt": prompt}
    if tools and "tools" not in text:
        with pytest.raises(ParameterError, match="takes no tools"):
            template(text).render(CHATS[chat], **options)
        return
    try:
        expected = oracle.apply_chat_template(
            CHATS[chat], chat_template=text, tokenize=False, **options
        )
    except Exception as error:
        expected = None
        refusal = re.escape(str(error).splitlines()[0])
    if expected is not None:
        assert template(text).render(CHATS[chat], **options) == expected
        return
    with pytest.raises(ParameterError, match=refusal):
        template(text).render(CHATS[chat], **options)


def test_arguments_as_a_json_string_render_as_an_object():
    quoted = copy.deepcopy(CHATS["after"])
    quoted[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["arguments"])
    for family in ("llama3", "chatml_tools", "functiongemma"):
        rendered = template(source(family))
        assert rendered.render(quoted, TOOLS) == rendered.render(CHATS["after"], TOOLS)


def test_inputs_are_not_changed():
    chat, tools = copy.deepcopy(CHATS["after"]), copy.deepcopy(TOOLS)
    chat[1]["tool_calls"][0]["function"]["arguments"] = "{}"
    before = copy.deepcopy((chat, tools))
    template(source("functiongemma")).render(chat, tools)
    assert (chat, tools) == before


def test_a_bare_function_and_no_tools_at_all():
    rendered = template(source("llama3"))
    bare = [TOOLS[0]["function"]]
    assert rendered.render([USER], bare) == rendered.render([USER], TOOLS)
    assert rendered.render([USER], []) == rendered.render([USER])


def test_variables_reach_the_template():
    rendered = template(source("llama3")).render([USER], date_string="1 Jan 2030")
    assert "Today: 1 Jan 2030" in rendered
    chatml = template(source("chatml_tools"))
    assert chatml.render([USER], enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert chatml.variables() >= {"messages", "tools", "add_generation_prompt", "enable_thinking"}


def test_what_the_template_would_not_read_is_refused():
    with pytest.raises(ParameterError, match="does not read") as caught:
        template(source("chatml_tools")).render([USER], enable_thinkin=True)
    assert caught.value.items == ("enable_thinkin",)
    assert "enable_thinking" in caught.value.hint


def test_the_template_refuses_in_its_own_words():
    with pytest.raises(ParameterError, match="roles must alternate") as caught:
        template(source("gemma")).render([USER, USER])
    assert caught.value.code == "parameter_invalid"


def test_a_failing_template_is_a_parameter_error_with_the_reason():
    with pytest.raises(ParameterError, match=r"UndefinedError.*'dict object' has no attribute"):
        template("{{ messages[0].name.upper() }}").render([USER])


@pytest.mark.parametrize(
    "text", ["{% if %}", "{{ x", "{% for a in b %}", "{{ x|nofilter }}", "{% do 1 %}"]
)
def test_a_template_that_is_not_jinja_is_a_format_error(text):
    with pytest.raises(FormatError, match="default is not valid Jinja: line 1"):
        template(text)


@pytest.mark.parametrize("text", ["{{ " + "(" * 5000 + ")" * 5000 + " }}", "x" * (2 << 20)])
def test_a_template_too_deep_or_long_is_a_format_error(text):
    with pytest.raises(FormatError):
        template(text)


def test_trim_and_lstrip_blocks_and_loop_controls():
    text = "a\n  {% for i in range(5) %}\n{% if i == 1 %}{% continue %}{% endif %}\n"
    text += "{% if i == 3 %}{% break %}{% endif %}\n{{ i }}\n  {% endfor %}\nz\n"
    assert template(text).render([USER]) == "a\n0\n2\nz"


def test_names_that_transformers_offers():
    text = "{{ strftime_now('%Y') | length }}{{ {'é': '<'} | tojson }}{{ documents is none }}"
    assert template(text).render([USER]) == '4{"é": "<"}True'
    text = "{% generation %}{% set x = 1 %}in{% endgeneration %}{{ x is defined }}"
    assert template(text).render([USER]) == "inFalse"


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        stem, _, ending = name.rpartition("_")
        path = folder / f"{stem.replace('__', '/')}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_where_templates_are_found(tmp_path):
    write(tmp_path, chat_template_json={"chat_template": "processor {{ bos_token }}"})
    assert ChatTemplate.open(tmp_path).render([USER]) == "processor "
    config = {"bos_token": {"content": "<s>"}, "chat_template": "config {{ bos_token }}"}
    write(tmp_path, tokenizer_config_json=config)
    assert ChatTemplate.open(tmp_path).render([USER]) == "config <s>"
    write(tmp_path, chat_template_jinja="file {{ bos_token }}")
    assert ChatTemplate.open(tmp_path).render([USER]) == "file <s>"
    write(tmp_path, chat_templates__tool_use_jinja="{{ tools | length }} {{ bos_token }}")
    assert ChatTemplate.open(tmp_path).render([USER]) == "file <s>"
    assert ChatTemplate.open(tmp_path).render([USER], TOOLS) == "1 <s>"


def test_named_templates(tmp_path):
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]
    found = ChatTemplate.open(write(tmp_path, tokenizer_config_json={"chat_template": named}))
    assert found.render([USER]) == "plain"
    assert found.render([USER], TOOLS) == "1 tools"
    assert found.source(tools=True) == "{{ tools | length }} tools"
    others = ChatTemplate(sources={"rag": "a", "other": "b"})
    with pytest.raises(BaseModelError, match="several chat templates"):
        others.render([USER])


def test_no_template_has_a_code_and_a_hint(tmp_path):
    write(tmp_path, tokenizer_config_json={})
    with pytest.raises(BaseModelError) as caught:
        ChatTemplate.open(tmp_path)
    assert caught.value.code == "template_missing"
    assert "complete()" in caught.value.hint


TWICE = [{"name": "a", "template": text} for text in ("x", "y")]


@pytest.mark.parametrize(
    "value", [1, {}, [1], [{"name": "a"}], [{"name": 1, "template": ""}], TWICE]
)
def test_a_template_of_another_shape_is_a_format_error(tmp_path, value):
    write(tmp_path, tokenizer_config_json={"chat_template": value})
    with pytest.raises(FormatError, match="chat_template must be"):
        ChatTemplate.open(tmp_path)


def test_a_template_that_is_not_text_is_a_format_error(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        ChatTemplate.open(tmp_path)


def test_threads_share_a_template():
    rendered = template(source("functiongemma"))
    expected = rendered.render(CHATS["after"], TOOLS)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(20):
            text = rendered.render(CHATS["after"], TOOLS)
            if text != expected:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    [
        "{{ x }}",
        "{% if %}",
        "<end_of_turn>",
        "<escape>",
        "</tool_call>",
        "\n\n",
        "<think>a</think>b",
    ]
)
arguments = st.dictionaries(
    st.from_regex(r"[a-z]{1,5}", fullmatch=True), texts | st.integers() | st.booleans(), max_size=3
)
turns = st.builds(
    lambda said, answer, given: [
        {"role": "user", "content": said},
        {
            "role": "assistant",
            "content": answer,
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": given}}],
        },
        {"role": "tool", "name": "f", "content": answer},
    ],
    texts,
    texts,
    arguments,
)


@pytest.mark.parametrize("family", ["llama3", "chatml_tools", "functiongemma"])
@given(parts=st.lists(turns, min_size=1, max_size=3))
@settings(deadline=None, max_examples=50)
def test_transformers_renders_any_conversation_the_same(oracle, family, parts):
    text, chat = source(family), [message for part in parts for message in part]
    expected = oracle.apply_chat_template(
        chat, chat_template=text, tools=TOOLS, tokenize=False, add_generation_prompt=True
    )
    assert template(text).render(chat, TOOLS) == expected


@pytest.mark.parametrize("family", ["llama3", "chatml_tools", "functiongemma"])
def test_what_openai_returns_renders_as_in_transformers(oracle, family):
    dump = {"role": "assistant", "content": "Done.", "tool_calls": None, "refusal": None}
    call = {**copy.deepcopy(CALLS), "content": None, "audio": None, "thinking": "hm"}
    text = source(family)
    for chat in ([USER, dump, USER], [USER, call, RESULT, USER], [USER, call]):
        expected = oracle.apply_chat_template(
            copy.deepcopy(chat), chat_template=text, tokenize=False, add_generation_prompt=True
        )
        assert template(text).render(chat) == expected
        assert "None" not in expected
