"""Sessions on the demo model: what is kept, changed, forked and saved."""

import pytest

import lorakit
from lorakit import demo
from lorakit.errors import FormatError, ParameterError, SourceError
from lorakit.session import Session

SHORT = {"max_tokens": 6, "ignore_eos": True}


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        yield model


def test_turns_are_kept_and_equal_chat(model):
    session = model.session()
    first = session.send("turn on the light", **SHORT)
    second = session.send("and the other", **SHORT)
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2
    asked = [{"role": "user", "content": "turn on the light"}]
    assert model.chat(asked, **SHORT).completion.tokens == first.completion.tokens
    asked += [first.message, {"role": "user", "content": "and the other"}]
    assert model.chat(asked, **SHORT).completion.tokens == second.completion.tokens
    assert second.completion.cached_tokens > 0


def test_streaming_keeps_the_turn_at_its_end(model):
    session = model.session(adapters={"home": 1.0})
    turn = session.stream("turn on the light", **SHORT)
    pieces = "".join(turn)
    assert session.messages[-1]["role"] == "assistant"
    assert pieces == turn.reply.completion.text
    assert turn.reply.completion.adapters == (("home", 1.0),)
    cancelled = session.stream("again", **SHORT)
    cancelled.cancel()
    assert len(session.messages) == 2


def test_edit_regenerate_and_fork(model):
    session = model.session()
    session.send("one", **SHORT)
    other = session.fork()
    edited = session.edit_last("two", **SHORT)
    assert session.messages[0]["content"] == "two"
    assert len(session.messages) == 2
    assert other.messages[0]["content"] == "one"
    again = session.regenerate(**SHORT)
    assert again.completion.tokens == edited.completion.tokens
    assert len(session.messages) == 2
    cold = model.chat([{"role": "user", "content": "two"}], **SHORT)
    assert cold.completion.tokens == edited.completion.tokens
    with pytest.raises(ParameterError, match="no message of the user"):
        model.session().regenerate()


def test_a_failed_turn_changes_nothing(model):
    session = model.session()
    session.send("one", **SHORT)
    before = list(session.messages)
    with pytest.raises(ParameterError):
        session.send("two", top_p=7.0)
    with pytest.raises(lorakit.LorakitError):
        Session(model, messages=before, adapters={"nobody": 1.0}).send("two")
    assert session.messages == before


def test_saved_and_loaded(model, tmp_path):
    session = model.session(adapters={"home": 0.5})
    session.send("one", **SHORT)
    session.save(tmp_path / "talk.json")
    loaded = Session.load(model, tmp_path / "talk.json")
    assert loaded.messages == session.messages
    assert loaded.adapters == {"home": 0.5}
    expected = session.send("two", **SHORT).completion.tokens
    assert loaded.send("two", **SHORT).completion.tokens == expected


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "lorakit-session"}'])
def test_files_that_are_no_session(model, tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(FormatError):
        Session.load(model, tmp_path / "bad.json")
    with pytest.raises(SourceError):
        Session.load(model, tmp_path / "none.json")
