"""Training tokens are inference tokens, turn by turn, for templates of several families."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

import lorakit
from lorakit import demo
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import BaseModelError, FormatError, ParameterError
from lorakit.text.tokenizer import Tokenizer
from lorakit.training.data import Example
from lorakit.training.render import Renderer

TEMPLATES = Path(__file__).parents[2] / "data/templates"
ENDS = {  # of a call, of a text
    "demo": ("<start_function_response>", "<end_of_turn>"),
    "functiongemma": ("<start_function_response>", "<end_of_turn>"),
    "gemma": (None, "<end_of_turn>"),
    "llama3": ("<|eot_id|>", "<|eot_id|>"),
    "chatml_tools": ("<|im_end|>", "<|im_end|>"),
}
CALLING = [family for family, (call, _) in ENDS.items() if call]
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "description": "Switch a light.",
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "description": "Which"},
                    "on": {"type": "boolean", "description": "State"},
                },
                "required": ["room", "on"],
            },
        },
    },
)


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def calls(room, on=False):
    function = {"name": "set_light", "arguments": {"on": on, "room": room}}
    call = {"id": "c1", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


RESULT = {"role": "tool", "tool_call_id": "c1", "name": "set_light", "content": "done"}
TALK = (user("Hello"), says("Good day to you."), user("and now?"), says("Now it rains."))
CALL = (user("lights off in the kitchen"), calls("kitchen"))
MANY = (*CALL, RESULT, says("They are off."), user("and on in the bath"), calls("bath", True))
THOUGHT = (
    user("Hello"),
    says("<think>\na greeting\n</think>\n\nGood day."),
    user("again"),
    says("<think>\nanother\n</think>\n\nGood day again."),
)


def example(messages, tools=TOOLS, task="chat"):
    return Example(task=task, place="train.jsonl:7", messages=messages, tools=tools)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each family: its template, and the demo's tokenizer with its own stop token."""
    made = {"demo": demo.base_path()}
    for family, (_, end) in ENDS.items():
        if family == "demo":
            continue
        folder = made[family] = tmp_path_factory.mktemp(family)
        native = tokenizers.Tokenizer.from_file(str(demo.base_path() / "tokenizer.json"))
        words = ["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<tool_call>"]
        native.add_special_tokens([end, *words])
        native.save(str(folder / "tokenizer.json"))
        shutil.copy(demo.base_path() / "tokenizer_config.json", folder)
        shutil.copy(TEMPLATES / f"{family}.jinja", folder / "chat_template.jinja")
        stops = [native.token_to_id(end), native.token_to_id("<eos>")]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return made


def opened(folder, context=1000):
    tokenizer = Tokenizer.open(folder)
    dialogue = Dialogue(folder, tokenizer)
    return Renderer(dialogue, tokenizer, context), dialogue, tokenizer


def answers_of(rows):
    """(what precedes, answer) of each stretch that is to be learnt."""
    found = []
    for row in rows:
        begin = None
        for i, marked in enumerate([*row.answers, False]):
            if marked and begin is None:
                begin = i
            elif not marked and begin is not None:
                found.append((list(row.ids[:begin]), list(row.ids[begin:i])))
                begin = None
    return found


def faults(rows, messages, tools, dialogue, tokenizer):
    """Where rows differ from inference: its prompts, its stops, what it reads from an answer."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    found = answers_of(rows)
    if len(found) != len(turns):
        return [f"{len(found)} answers of {len(turns)}"]
    wrong = []
    for turn, (before, answer) in zip(turns, found, strict=True):
        if before != dialogue.prompt(messages[:turn], tools):
            wrong.append(f"the prompt of turn {turn}")
        at = [i for i, token in enumerate(answer) if token in dialogue.stop_tokens]
        if at != [len(answer) - 1]:
            wrong.append(f"inference stops turn {turn} at {at} of {len(answer)}")
        read = dialogue.parse(tokenizer.decode(answer[:-1], continuing=True))
        expected = [c["function"]["arguments"] for c in messages[turn].get("tool_calls", ())]
        if [call.arguments for call in read.tool_calls] != expected:
            wrong.append(f"the calls of turn {turn}")
        said = messages[turn]["content"].split("</think>")[-1].strip()
        if read.text not in (said, f"<start_of_turn>model\n{said}"):  # see functiongemma.jinja
            wrong.append(f"the text of turn {turn}")
    return wrong


@pytest.mark.parametrize("declare", [False, True], ids=["", "declared"])
@pytest.mark.parametrize("messages", [CALL, MANY], ids=["call", "many"])
@pytest.mark.parametrize("family", CALLING)
def test_calls_are_learnt_as_they_are_generated(folders, family, messages, declare):
    renderer, dialogue, tokenizer = opened(folders[family])
    rows = renderer.render(example(messages, task="calls"), declare)
    assert not faults(rows, messages, TOOLS if declare else None, dialogue, tokenizer)
    for (_, answer), turn in zip(
        answers_of(rows), [m for m in messages if m["role"] == "assistant"], strict=True
    ):
        call, text = ENDS[family]
        assert tokenizer.token(answer[-1]) == (call if turn.get("tool_calls") else text)


@pytest.mark.parametrize("family", ENDS)
def test_talk_is_learnt_as_it_is_generated_in_one_row(folders, family):
    renderer, dialogue, tokenizer = opened(folders[family])
    rows = renderer.render(example(TALK))
    assert len(rows) == 1
    assert not faults(rows, TALK, None, dialogue, tokenizer)
    assert rows[0].ids.count(tokenizer.token_id("<bos>")) == (family != "chatml_tools")


def test_a_template_that_drops_earlier_reasoning_gives_a_row_for_each_answer(folders):
    renderer, dialogue, tokenizer = opened(folders["chatml_tools"])
    rows = renderer.render(example(THOUGHT))
    assert len(rows) == 2
    assert not faults(rows, THOUGHT, None, dialogue, tokenizer)


def test_the_check_above_sees_a_label_that_inference_does_not_stop_at(folders):
    """The broken variant: the whole conversation rendered at once, as other trainers do."""
    renderer, dialogue, tokenizer = opened(folders["demo"])
    (row,) = renderer.render(example(CALL, task="calls"))
    text = dialogue.template.render(CALL, add_generation_prompt=False)
    ids = tokenizer.encode(text, special=False)
    begin = row.answers.index(True)
    marks = [False] * begin + [True] * (len(ids) - begin)
    naive = type(row)(ids=tuple(ids), answers=tuple(marks))
    assert not faults([row], CALL, None, dialogue, tokenizer)
    assert faults([naive], CALL, None, dialogue, tokenizer)


def test_what_a_model_generates_and_stops_at_is_what_it_would_be_taught():
    with lorakit.open(demo.base_path()) as model:
        right = demo.examples("base", "values")[0]
        asked = example((*right.messages, says("")), tools=())
        prompt = Renderer.of(model.base).prompt(asked)
        assert prompt == model.chat_prompt(right.messages)
        reply = model.parse_reply(model.complete(prompt, max_tokens=60))
        messages = (*right.messages, reply.message)
        (row,) = Renderer.of(model.base).render(example(messages, task="calls"))
        assert list(row.ids[: len(prompt)]) == prompt
        generated = [choice.token for choice in reply.completion.tokens]
        assert list(row.ids[len(prompt) :]) == generated
        assert row.ids[-1] == model.tokenizer.token_id("<start_function_response>")


def test_the_last_prompt(folders):
    renderer, dialogue, _ = opened(folders["demo"])
    for declare in (False, True):
        tools = TOOLS if declare else None
        assert renderer.prompt(example(MANY), declare) == dialogue.prompt(MANY[:-1], tools)


def test_context_without_weight_is_not_learnt(folders):
    renderer, _, _ = opened(folders["demo"])
    messages = (TALK[0], says("Good day to you.", weight=0), *TALK[2:])
    ((_, answer),) = answers_of(renderer.render(example(messages)))
    ((_, _), (_, last)) = answers_of(renderer.render(example(TALK)))
    assert answer == last
    with pytest.raises(FormatError, match=r"train.jsonl:7: it holds nothing to learn"):
        renderer.render(example(messages[:2]))


def test_text_and_completions_end_and_open_once(folders):
    renderer, _, tokenizer = opened(folders["demo"])
    plain = Example(task="text", place="t:1", text="<bos>It was dark.")
    (row,) = renderer.render(plain)
    assert tokenizer.decode(row.ids) == "<bos>It was dark.<eos>"
    assert row.answers == (False, *[True] * (len(row.ids) - 1))
    pair = Example(task="completion", place="t:2", prompt="It was ", text="dark.")
    (row,) = renderer.render(pair)
    assert (
        answers_of([row])[0][0]
        == renderer.prompt(pair)
        == tokenizer.encode("It was ", special=True)
    )
    assert tokenizer.decode(answers_of([row])[0][1], continuing=True) == "dark.<eos>"


def test_a_tokenizer_that_opens_every_text_does_not_open_one_twice(folders, tmp_path):
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(folders["demo"] / name, tmp_path)
    native = tokenizers.Tokenizer.from_file(str(folders["demo"] / "tokenizer.json"))
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", native.token_to_id("<bos>"))]
    )
    native.save(str(tmp_path / "tokenizer.json"))
    renderer, dialogue, tokenizer = opened(tmp_path)
    bos = tokenizer.token_id("<bos>")
    for text in ("It was dark.", "<bos>It was dark."):
        (row,) = renderer.render(Example(task="text", place="t:1", text=text))
        assert row.ids.count(bos) == 1
    (row,) = renderer.render(example(TALK))
    assert row.ids.count(bos) == 1
    assert not faults([row], TALK, None, dialogue, tokenizer)


def test_too_long_is_an_error_and_nothing_is_cut(folders):
    renderer, _, _ = opened(folders["demo"], context=20)
    with pytest.raises(FormatError, match=r"train.jsonl:7: it has \d+ tokens.* holds 20"):
        renderer.render(example(TALK))


def test_a_call_that_the_template_does_not_write_is_an_error(folders):
    renderer, _, _ = opened(folders["gemma"])
    with pytest.raises(FormatError, match=r"train.jsonl:7: .*nothing for an answer"):
        renderer.render(example(CALL, task="calls"))
    renderer, _, _ = opened(folders["demo"])
    with pytest.raises(FormatError, match="does not read back"):
        renderer.render(example((CALL[0], calls("a<escape>b")), task="calls"))


@pytest.mark.parametrize("family", ENDS)
def test_an_answer_that_inference_would_stop_within_is_refused(folders, family):
    """Else it would be learnt up to there, and the rest be lost in silence."""
    renderer, _, _ = opened(folders[family])
    stop = ENDS[family][1]
    cut = (TALK[0], says(f"The token {stop} ends a turn."))
    with pytest.raises(FormatError, match=r"train.jsonl:7: an answer holds <.*end it there"):
        renderer.render(example(cut))
    assert renderer.render(example((user(f"what is {stop}?"), TALK[1])))


def test_without_an_answer_there_is_nothing_to_learn(folders):
    renderer, _, _ = opened(folders["demo"])
    with pytest.raises(FormatError, match="nothing to learn"):
        renderer.render(example((TALK[0],)))


def test_what_the_template_refuses_is_said_with_the_line(folders):
    renderer, _, _ = opened(folders["gemma"])
    twice = (TALK[0], TALK[0], says("Yes."))
    with pytest.raises(ParameterError, match=r"train.jsonl:7: .*must alternate"):
        renderer.render(example(twice))


def test_reasoning_that_the_prompt_opens_is_refused(folders, tmp_path):
    for file in folders["chatml_tools"].iterdir():
        shutil.copy(file, tmp_path)
    source = (tmp_path / "chat_template.jinja").read_text()
    opening = source.replace("'<|im_start|>assistant\\n' }}\n    {%- if enable",
                             "'<|im_start|>assistant\\n<think>' }}\n    {%- if enable")  # fmt: skip
    assert opening != source
    (tmp_path / "chat_template.jinja").write_text(opening)
    renderer, _, _ = opened(tmp_path)
    with pytest.raises(FormatError, match="continuation of its prompt"):
        renderer.render(example(TALK))


def test_bases_that_lack_something(folders, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["chatml_tools"] / name, tmp_path)
    renderer, _, _ = opened(tmp_path)
    with pytest.raises(BaseModelError) as caught:
        renderer.render(example(TALK))
    assert caught.value.code == "template_missing"


WORDS = {"demo": False, "functiongemma": False, "llama3": True, "chatml_tools": False}


@pytest.mark.parametrize(("family", "lost"), WORDS.items())
def test_words_beside_a_call_that_a_template_leaves_out_are_seen(folders, family, lost):
    renderer, dialogue, _ = opened(folders[family])
    for words in ("At once.", CALL[0]["content"]):  # the second stands in the prompt too
        worded = (CALL[0], {**calls("kitchen"), "content": words})
        assert renderer.loses_words(example(worded, task="calls")) == lost
    assert not renderer.loses_words(example(CALL, task="calls"))
    whole = dialogue.template.render(worded, add_generation_prompt=False)
    assert words in whole  # so that looking for the words there would see no loss


BRACKETS = """{{- bos_token }}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and m == users[-1] %}
            {{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + m.content + '[/INST]' }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + ({'content': m.content} | tojson) + '[/TOOL_RESULTS]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS]' + (m.tool_calls | map(attribute='function') | list | tojson) }}
        {{- eos_token }}
    {%- else %}
        {{- m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""


@pytest.fixture(params=["[TOOL_CALLS]", "[CALLED]"], ids=["known", "unknown"])
def brackets(request, folders, tmp_path):
    """A template like Mistral's, and one whose calls no format reads: its marker, and opened."""
    folder = Path(shutil.copytree(folders["gemma"], tmp_path / "brackets"))
    template = BRACKETS.replace("[TOOL_CALLS]", request.param)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return request.param, opened(folder)


def test_a_template_with_brackets_learns_talk_right(brackets):
    """As Mistral's: the tools stand before the last request, so that each answer is a row."""
    _, (renderer, dialogue, tokenizer) = brackets
    for declare, count in ((False, 1), (True, 2)):
        rows = renderer.render(example(TALK, task="calls"), declare)
        assert len(rows) == count
        assert not faults(rows, TALK, TOOLS if declare else None, dialogue, tokenizer)
        assert all(tokenizer.token(row.ids[-1]) == "<eos>" for row in rows)


def test_calls_in_brackets_are_learnt_where_they_read_back_and_else_refused(brackets):
    marker, (renderer, dialogue, tokenizer) = brackets
    for declare in (False, True):
        if marker == "[TOOL_CALLS]":
            rows = renderer.render(example(CALL, task="calls"), declare)
            assert not faults(rows, CALL, TOOLS if declare else None, dialogue, tokenizer)
            continue
        with pytest.raises(FormatError, match="a call that does not read back") as caught:
            renderer.render(example(CALL, task="calls"), declare)
        assert marker in caught.value.items[1]
