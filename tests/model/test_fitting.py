"""Conversations in a small context: they stop, drop whole turns, or have them summarised."""

import logging

import pytest

import lorakit
from lorakit import demo
from lorakit.errors import CapabilityError, ContextFullError, ParameterError
from lorakit.model.conversation import Session
from lorakit.model.fitting import ASK, Fitting, apart
from lorakit.model.types import ChatPrompt

CONTEXT = 256
SYSTEM = "be brief"
SHORT = {"max_tokens": 8, "ignore_eos": True}
CALL = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": "done"}


def turn(number, words=1, called=False):
    said = [{"role": "user", "content": f"{number} " * words}]
    if called:
        said += [{"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    return [*said, {"role": "assistant", "content": f"answer {number}"}]


def conversation(count, **how):
    return [
        {"role": "system", "content": SYSTEM},
        *(m for n in range(count) for m in turn(n, **how)),
    ]


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, context=CONTEXT) as model:
        yield model


def talk(session, count):
    """Send messages; returns the turns."""
    turns = []
    for number in range(count):
        said = session.stream(f"this is the message with the number {number}", **SHORT)
        said.reply  # noqa: B018
        turns.append(said)
    return turns


def test_a_full_context_stops_a_conversation_which_stays_as_it_was(model):
    session = model.session(system=SYSTEM)
    with pytest.raises(ContextFullError) as caught:
        talk(session, 40)
    assert 'when_full="drop"' in caught.value.hint
    count = len(session.messages)
    with pytest.raises(ContextFullError):
        session.send("one more")
    assert len(session.messages) == count


def test_dropping_keeps_the_system_message_and_the_newest_turns(model, caplog):
    session = model.session(system=SYSTEM, when_full="drop")
    with caplog.at_level(logging.INFO, "lorakit"):
        turns = talk(session, 40)
    dropped = [each.dropped for each in turns]
    assert sum(dropped) > 0
    assert 0 in dropped[dropped.index(max(dropped)) :]  # room for several turns is made at once
    assert "the context is full: the oldest" in caplog.text
    assert len(session.messages) == 1 + 80 - sum(dropped)
    assert session.messages[0] == {"role": "system", "content": SYSTEM}
    assert [m["role"] for m in session.messages[1:3]] == ["user", "assistant"]
    assert session.messages[-2]["content"].endswith(" 39")
    assert not any(each.summary for each in turns)


def test_summarising_keeps_what_the_model_says_of_the_turns_that_go(model):
    session = model.session(system=SYSTEM, when_full="summarise")
    turns = talk(session, 40)
    first = next(each for each in turns if each.dropped)
    assert first.summary
    assert first.messages[1:3] == (
        {"role": "user", "content": ASK},
        {"role": "assistant", "content": first.summary},
    )
    assert sum(m["content"] == ASK for m in session.messages) == 1  # a later one takes its place
    asked = [*conversation(0), *session.messages[1:]]
    assert len(model.chat_prompt(asked)) <= CONTEXT


def test_a_cancelled_turn_drops_nothing(model):
    session = model.session(system=SYSTEM, when_full="drop")
    while True:
        before = list(session.messages)
        said = session.stream("this is another message", **SHORT)
        if said.dropped:
            break
        said.reply  # noqa: B018
    said.cancel()
    assert session.messages == before


def test_what_can_be_chosen(model):
    with pytest.raises(ParameterError, match="'stop', 'drop', 'summarise', not 'shift'"):
        model.session(when_full="shift")
    session = model.session(when_full="drop")
    assert session.fork().when_full == "drop"
    session.when_full = 3
    with pytest.raises(ParameterError, match="not 3"):
        session.send("hello")


def test_the_choice_is_no_part_of_a_saved_conversation(model, tmp_path):
    session = model.session(when_full="drop")
    session.send("hello", **SHORT)
    session.save(tmp_path / "talk.json")
    assert Session.load(model, tmp_path / "talk.json").when_full == "stop"
    assert Session.load(model, tmp_path / "talk.json", when_full="drop").when_full == "drop"


# The rule itself, where a message is as long as its words.


def fitting(when_full="drop", context=100, answer=10, said=""):
    asked = []

    def render(messages):
        return ChatPrompt(range(sum(len(str(m.get("content")).split()) + 1 for m in messages)))

    def summarise(prompt, tokens):
        asked.append((len(prompt), tokens))
        return said

    return asked, Fitting(
        when_full=when_full, context=context, answer=answer, render=render, summarise=summarise
    )


def whole(messages):
    """Whether every result has its call before it."""
    return all(
        messages[n - 1].get("tool_calls") for n, m in enumerate(messages) if m["role"] == "tool"
    )


def test_turns_go_with_their_calls_and_results():
    messages = conversation(12, words=4, called=True)
    _, fit = fitting()
    found = fit(messages)
    assert 0 < found.dropped < len(messages) - 1
    assert found.dropped % 4 == 0
    assert whole(found.messages)
    assert found.messages[0]["role"] == "system"
    assert found.messages[1:] == messages[1 + found.dropped :]
    one_less = [messages[0], *messages[found.dropped - 1 :]]  # what a rule of messages would keep
    assert not whole(one_less)


def test_room_is_made_for_more_than_the_next_turn():
    messages = conversation(12, words=4)
    _, fit = fitting()
    found = fit(messages)
    assert len(found.prompt) <= 0.75 * 90
    assert fit([*found.messages, *turn(12, 4)]).dropped == 0
    exactly = found.messages
    while len(fit.render(exactly)) <= 90:
        exactly = [*exactly, *turn(9)]
    assert fit(exactly).dropped > 0


def test_the_last_turn_stays_however_long_it_is():
    messages = [*conversation(3), {"role": "user", "content": "long " * 300}]
    _, fit = fitting()
    found = fit(messages)
    assert found.messages == [messages[0], messages[-1]]


def test_a_summary_is_asked_for_in_what_fits():
    messages = conversation(30, words=4)
    asked, fit = fitting("summarise", said="  we talked ")
    found = fit(messages)
    ((length, tokens),) = asked
    assert length + tokens <= 100
    assert tokens == 12
    assert found.messages[2] == {"role": "assistant", "content": "  we talked "}
    assert found.dropped == len(messages) - len(found.messages) + 2
    _, wordy = fitting("summarise", said="on and " * 60)  # more than there is room for
    assert (wordy(messages).summary, wordy(messages).unsummarised) == (
        "", "the context has no room for it",
    )  # fmt: skip
    asked, small = fitting("summarise", context=30, said="x")
    unread = small([*conversation(2, words=40), *turn(3)])
    assert (unread.summary, unread.unsummarised) == (
        "", "the model cannot read one of them whole beside the question",
    )  # fmt: skip
    assert asked == []  # no turn fits beside the question
    _, silent = fitting("summarise", said="")
    assert ASK not in [m["content"] for m in silent(messages).messages]
    assert silent(messages).unsummarised == "the model said nothing"
    assert found.unsummarised == fitting("drop")[1](messages).unsummarised == ""


def test_a_prompt_that_nobody_here_counts():
    _, fit = fitting()
    uncounted = Fitting(
        when_full="drop", context=100, answer=10, render=lambda _: ChatPrompt(()),
        summarise=fit.summarise,
    )  # fmt: skip
    with pytest.raises(CapabilityError):
        uncounted(conversation(1))


def test_what_comes_before_the_first_user_is_a_turn_of_its_own():
    greeting = {"role": "assistant", "content": "welcome"}
    head, turns = apart([{"role": "system", "content": "x"}, greeting, *turn(1)])
    assert [len(head), *map(len, turns)] == [1, 1, 2]


def test_what_a_developer_says_first_stays_as_a_system_message_does():
    said = [{"role": "system", "content": "x"}, {"role": "developer", "content": "y"}]
    head, turns = apart([*said, *turn(1)])
    assert (head, len(turns)) == (said, 1)
