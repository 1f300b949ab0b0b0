"""Sessions on the demo model: what is kept, changed, forked and saved."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import lorakit
from folders import make_sparse
from lorakit import RenderOptions, demo
from lorakit.errors import FormatError, ParameterError, SourceError, WriteError
from lorakit.model.conversation import Session
from lorakit.model.session_file import digest_of, read_saved
from lorakit.runtime.params import SamplingParams

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
    pieces = "".join(turn.text)
    assert session.messages[-1]["role"] == "assistant"
    assert pieces == turn.reply.text
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


def test_messages_in_place_of_what_the_user_says_are_refused(model):
    session = model.session()
    session.send("hello", **SHORT)
    result = {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": "done"}
    before = list(session.messages)
    for call in (session.send, session.stream, session.edit_last):
        for said in (result, [result]):
            with pytest.raises(ParameterError, match="found messages") as error:
                call(said)
            assert "stream_from([*session.messages, *results])" in error.value.hint
    assert session.messages == before
    assert session.send([{"type": "text", "text": "hello"}], **SHORT).text


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


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TALK = [
    {"role": "user", "content": "hi \N{SNOWMAN}"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "f", "content": {"any": [1, 2.5, None, True]}},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
]
TOOLS = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]


def test_everything_is_saved(tmp_path):
    sampling = SamplingParams(
        temperature=np.float32(0.5), max_tokens=np.int64(7), stop=["a"], stop_tokens=[3],
        logit_bias={np.int64(3): np.float32(-1.5), 40: 2}, min_tokens=2,
    )  # fmt: skip
    rendering = RenderOptions(
        chat_template_kwargs={"date": "1 Jan"}, enable_thinking=False, control_tokens="text"
    )
    session = Session(
        None,
        messages=TALK,
        tools=TOOLS,
        adapters={"a": 0.5},
        sampling=sampling,
        rendering=rendering,
    )
    session.save(tmp_path / "s.json")
    loaded = Session.load(None, tmp_path / "s.json")
    for name in ("messages", "tools", "adapters", "sampling", "rendering"):
        assert getattr(loaded, name) == getattr(session, name)
    other = SamplingParams(max_tokens=1)
    assert Session.load(None, tmp_path / "s.json", sampling=other).sampling is other


def test_a_file_of_the_third_version_is_read(tmp_path):
    content = json.loads(written(tmp_path / "s.json", version=3).read_text())
    del content["sources"]
    content["sha256"] = digest_of(content)
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert Session.load(None, tmp_path / "s.json").adapters == {"a": 1.0}
    assert read_saved(tmp_path / "s.json").sources == {}
    assert read_saved(written(tmp_path / "s.json")).sources == {"a": "org/a"}


def test_an_empty_one_is_saved(tmp_path):
    Session(None, tools=[], adapters={}).save(tmp_path / "s.json")
    assert Session.load(None, tmp_path / "s.json").messages == []


def test_a_file_of_the_first_version_is_read(tmp_path):
    content = {"format": "lorakit-session", "version": 1, "messages": TALK, "tools": None}
    (tmp_path / "s.json").write_text(json.dumps({**content, "adapters": {"a": 1}}))
    assert Session.load(None, tmp_path / "s.json").messages == TALK


def test_a_file_of_the_second_version_is_read(tmp_path):
    content = {"format": "lorakit-session", "version": 2, "messages": TALK, "tools": TOOLS,
               "adapters": None, "sampling": {"max_tokens": 5}}  # fmt: skip
    text = json.dumps({**content, "sha256": digest_of(content)})
    (tmp_path / "s.json").write_text(text)
    loaded = Session.load(None, tmp_path / "s.json")
    assert (loaded.sampling.max_tokens, loaded.rendering) == (5, RenderOptions())
    (tmp_path / "s.json").write_text(text.replace('"version": 2', '"version": 3'))
    with pytest.raises(FormatError, match="fields"):
        Session.load(None, tmp_path / "s.json")


FIELDS = {
    "version": [0, 5, "2", True, None, 2.0, [2]],
    "format": [None, "other", 5],
    "messages": [5, None, "hi", {}, [5], [[]], [{}], [{"role": 5, "content": "x"}],
                 [{"role": "user"}], [{"role": "", "content": "x"}],
                 [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}],
                 [{"role": "user", "content": "x", "tool_calls": 5}],
                 [{"role": "user", "content": "x", "tool_calls": [{"function": 5}]}],
                 [{"role": "user", "content": "\ud83d"}],
                 [{"role": "user", "content": "x", "y": float("nan")}]],
    "tools": [5, "x", {}, {"a": 1}, [5], [{}], [{"name": 5}], [{"name": "f", "parameters": 5}]],
    "adapters": [5, "a", ["a"], {"a": "1"}, {"a": None}, {"a": True}, {"a": float("inf")},
                 {"a": 1e300}, {"a": []}],
    "sampling": [5, [], {"max_tokens": -1}, {"max_tokens": "1"}, {"other": 1}, {"top_p": 7},
                 {"stop": [5]}, {"temperature": float("nan")}, {"logit_bias": [1]},
                 {"logit_bias": {"a": 1}}, {"logit_bias": {"-1": 1}}, {"logit_bias": {"1": "x"}},
                 {"logit_bias": {"9" * 5000: 1}}],
    "rendering": [5, [], {"other": 1}, {"enable_thinking": 1}, {"control_tokens": "all"},
                  {"chat_template_kwargs": {"messages": []}}, {"chat_template_kwargs": 5}],
    "sources": [5, [], {"a": 1}, {"a": None}],
    "other": [1],
}  # fmt: skip
BAD = [(name, value) for name, values in FIELDS.items() for value in values]


def written(path, **changes):
    content = {"format": "lorakit-session", "version": 4, "messages": TALK, "tools": TOOLS,
               "adapters": {"a": 1.0}, "sampling": {"max_tokens": 5},
               "rendering": {"enable_thinking": False}, "sources": {"a": "org/a"},
               **changes}  # fmt: skip
    path.write_text(json.dumps({"sha256": digest_of(content), **content}))
    return path


def test_the_file_that_is_changed_is_good(tmp_path):
    assert Session.load(None, written(tmp_path / "s.json")).sampling.max_tokens == 5


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v!r:.40}" for n, v in BAD])
def test_every_field_is_checked(tmp_path, name, value):
    path = written(tmp_path / "s.json", **{name: value})
    with pytest.raises(FormatError):
        Session.load(None, path)


FIELD_NAMES = ["format", "version", "messages", "tools", "adapters", "sampling", "rendering",
               "sources", "sha256"]  # fmt: skip


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_no_field_may_be_missing(tmp_path, name):
    content = json.loads(written(tmp_path / "s.json").read_text())
    del content[name]
    if name != "sha256":
        content["sha256"] = digest_of(content)
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(FormatError):
        Session.load(None, tmp_path / "s.json")


def test_all_faults_are_told_at_once(tmp_path):
    path = written(tmp_path / "s.json", tools=5, adapters=5, sampling=5, rendering=5)
    with pytest.raises(FormatError) as caught:
        Session.load(None, path)
    assert len(caught.value.items) == 4


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 50_000,
        "1" * 5000,
        '"\\ud83d"',
        '{"format": 1, "format": 2}',
        "NaN",
    ],
)
def test_json_that_means_harm(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(FormatError):
        Session.load(None, tmp_path / "s.json")


def test_a_file_that_is_huge_is_not_read(tmp_path):
    make_sparse(tmp_path / "s.json", 1 << 40)
    with pytest.raises(FormatError, match="larger than"):
        Session.load(None, tmp_path / "s.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_named_pipe_is_no_session(tmp_path):
    os.mkfifo(tmp_path / "s.json")
    code = (
        "import sys\nfrom lorakit.model.conversation import Session\n"
        "from lorakit.errors import SourceError\n"
        "try: Session.load(None, sys.argv[1])\n"
        "except SourceError as error: print(error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s.json"], timeout=60, capture_output=True
    )
    assert done.stdout.strip() == b"source_unsupported"


def circular():
    value = {"role": "user", "content": "x"}
    value["y"] = value
    return value


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return {"role": "user", "content": "x", "y": value}


UNSAVED = {
    "half a surrogate pair": {"messages": [{"role": "user", "content": "\ud83d"}]},
    "the same in a key": {"messages": [{"role": "user", "content": "x", "\ud83d": 1}]},
    "the same in a tool": {"tools": [{"name": "f", "description": "\udc80"}]},
    "the same in an adapter": {"adapters": {"\ud83d": 1.0}},
    "NaN": {"messages": [{"role": "user", "content": "x", "y": float("nan")}]},
    "infinity": {"messages": [{"role": "user", "content": "x", "y": float("inf")}]},
    "bytes": {"messages": [{"role": "user", "content": [{"type": "image", "bytes": b"x"}]}]},
    "an object": {"messages": [{"role": "user", "content": "x", "y": object()}]},
    "keys of other kinds": {"messages": [{"role": "user", "content": "x", (1, 2): 1}]},
    "a circle": {"messages": [circular()]},
    "depth": {"messages": [deep()]},
    "no messages": {"messages": None},
    "a message that is none": {"messages": ["hi"]},
    "a huge number": {"messages": [{"role": "user", "content": "x", "y": 10**5000}]},
    "other tools": {"tools": 5},
    "other adapters": {"adapters": 5},
    "other sampling": {"sampling": 5},
}


@pytest.mark.parametrize("changes", UNSAVED.values(), ids=UNSAVED)
def test_what_cannot_be_saved_is_one_error_and_writes_nothing(tmp_path, changes):
    path = tmp_path / "s.json"
    path.write_text("before")
    session = Session(None)
    for name, value in changes.items():
        setattr(session, name, value)
    with pytest.raises(ParameterError, match="cannot be saved"):
        session.save(path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_a_plain_writer_would_raise_another_error_or_write_what_cannot_be_read():
    """The broken variant: what `save` did before."""

    def plain(name):
        return json.dumps(UNSAVED[name]["messages"], ensure_ascii=False, indent=1).encode()

    with pytest.raises(UnicodeEncodeError):
        plain("half a surrogate pair")
    with pytest.raises(RecursionError):
        plain("depth")
    assert b"NaN" in plain("NaN")
    assert json.loads(plain("a message that is none")) == ["hi"]


@pytest.mark.parametrize(
    "path", ["a\0b", "none/s.json", ".", "/", "x" * 5000, 5, None, b"s.json", "\ud83d"]
)
def test_places_where_nothing_can_be_saved(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((WriteError, ParameterError)):
        Session(None).save(path)
    assert list(tmp_path.iterdir()) == []


def test_every_changed_character_is_seen(tmp_path):
    path, damaged = tmp_path / "s.json", tmp_path / "damaged.json"
    session = Session(None, messages=TALK, tools=TOOLS, adapters={"a": 0.5})
    session.sampling = SamplingParams(max_tokens=5)
    session.save(path)
    raw = path.read_bytes()
    taken = []
    for at in range(len(raw)):
        damaged.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        try:
            Session.load(None, damaged)
        except FormatError:
            continue
        taken.append(raw[at : at + 1])
    assert set(taken) <= {b" ", b"\n"}  # space between the fields says nothing


def test_two_answers_at_once_do_not_lose_a_turn():
    with lorakit.open(demo.base_path(), threads=1) as model:
        session = model.session()
        turn = session.stream("turn the lights off", max_tokens=4)
        pieces = iter(turn)
        next(pieces)
        session.send("hello", max_tokens=2)
        with pytest.raises(ParameterError, match="changed while"):
            list(pieces)
        assert [message["role"] for message in session.messages] == ["user", "assistant"]
        for wrong in ("done", [], [1], [{"content": "done"}]):
            with pytest.raises(ParameterError):
                session.answer(wrong)
        with pytest.raises(ParameterError, match="has the role \"tool\", not 'user'") as error:
            session.answer([{"role": "tool", "content": "x"}, {"role": "user", "content": "y"}])
        assert "send or stream" in error.value.hint
        assert len(session.messages) == 2
