"""The parts of `lorakit chat`: commands, how calls and answers look, history, completion."""

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lorakit
from commands import invoke
from lorakit import demo
from lorakit.chat.calls import Malformed, ParsedReply, ToolCall
from lorakit.chat.events import CallEnd, ReasoningDelta, TextDelta, Withdrawn
from lorakit.chat.rendering import RenderOptions
from lorakit.cli.chatting.answer import Answer
from lorakit.cli.chatting.calls import signature_of
from lorakit.cli.chatting.commands import COMMANDS, run_command
from lorakit.cli.chatting.completions import completions
from lorakit.cli.chatting.conversation import Chat, explained
from lorakit.cli.chatting.history import ENTRIES, MAX_ENTRY, HistoryFile, history_path
from lorakit.cli.chatting.settings import NAMES, require_counted
from lorakit.cli.chatting.words import last_word, quoted, words_of
from lorakit.errors import CapabilityError, ContextFullError, LorakitError, ParameterError
from lorakit.model.session_file import digest_of
from lorakit.model.types import ChatReply, ReplyEnd
from lorakit.runtime.generation import Completion

BASE, HOME = demo.base_path(), demo.adapter_path("home")
LIGHTS = "turn the lights off in the kitchen"
CALLED = 'set_lights(room="kitchen", state="off")'


def chatted(*lines, arguments=(), base=BASE):
    """What is shown for lines on standard input."""
    done = invoke("chat", base, "--threads", 1, *arguments, typed="\n".join(lines))
    assert (done.code, done.error) == (0, None), done
    return done.stdout


@pytest.fixture(scope="module")
def model():
    with lorakit.open(BASE, threads=1) as model:
        model.load_adapter(HOME)
        yield model


@pytest.fixture
def chat(model):
    model.apply(["home"])
    return Chat(model=model, session=model.session())


def run(chat, capsys, *lines):
    for line in lines:
        run_command(chat, line) if line.startswith("/") else chat.say(line)
    return capsys.readouterr().out


# How things look.


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "f()"),
        ({"room": 'a "b"', "on": True, "n": None}, 'f(room="a \\"b\\"", on=True, n=None)'),
        ({"x": [1, 2.5, {"a": "é"}]}, 'f(x=[1, 2.5, {"a": "é"}])'),
        ({"no-name": 1, "class": 2}, 'f(**{"no-name": 1, "class": 2})'),
    ],
)
def test_calls_are_code(arguments, code):
    assert str(ToolCall(name="f", arguments=arguments)) == code
    evaluated = eval(code, {"f": lambda **given: given})
    assert evaluated == arguments


def test_a_declared_tool_is_shown_by_its_parameters():
    parameters = {"properties": {"room": {}, "state": {}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert signature_of(tool) == "f(room, state)"
    assert signature_of({"name": "g"}) == "g()"


def ended(finish="stop", tokens=3, **parsed):
    completion = Completion(
        text="", tokens=(), finish_reason=finish, prompt_tokens=5, cached_tokens=0, adapters=(),
        first_token_seconds=0.0, seconds=0.0, completion_tokens=tokens,
    )  # fmt: skip
    return ReplyEnd(ChatReply(parsed=ParsedReply(**parsed), completion=completion))


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([TextDelta("a"), TextDelta("b\n"), ended()], "ab\n"),
        ([ReasoningDelta("so "), ReasoningDelta("so"), TextDelta("yes"), ended()],
         "thinking: so so\n\nyes\n"),
        ([TextDelta("I call"), CallEnd(0, ToolCall(name="f")), CallEnd(1, ToolCall(name="g")),
          ended(tool_calls=(ToolCall(name="f"),))], "I call\nf()\ng()\n"),
        ([TextDelta("hm"), Withdrawn(), ReasoningDelta("hm"), TextDelta("yes"), ended()],
         "hm\n(all of this was thinking)\n\nyes\n"),
        ([ended(malformed=(Malformed(text="f(", reason="it ends", position=0),))],
         "no call: f( (it ends)\n"),
        ([ended()], "(the model said nothing)\n"),
        ([TextDelta("a"), ended("length")],
         "a\n(cut off after 3 tokens; /set max_tokens N allows more)\n"),
        ([TextDelta("a"), ended("length", 95)],
         "a\n(cut off: the context of 100 tokens is full)\n"),
    ],
)  # fmt: skip
def test_an_answer_as_it_is_shown(events, shown, capsys):
    answer = Answer(100)
    for event in events:
        answer.show(event)
    assert capsys.readouterr().out == shown


def test_what_was_withdrawn_is_not_what_the_answer_says():
    answer = Answer(0)
    for event in (TextDelta("hm"), Withdrawn(), TextDelta("yes")):
        answer.show(event)
    assert answer.text == "yes"


class Stopped:
    """A turn that Ctrl-C stops after some events."""

    dropped, summary, unsummarised = 0, "", ""
    messages = ({"role": "user", "content": LIGHTS},)

    def __init__(self, *events):
        self.events = events

    def __iter__(self):
        yield from self.events
        raise KeyboardInterrupt

    def cancel(self):
        pass


def test_ctrl_c_when_an_answer_had_ended_changes_nothing(chat, capsys):
    kept = [*Stopped.messages, {"role": "assistant", "content": "all of it"}]

    class Ended(Stopped):
        def __iter__(self):
            yield TextDelta("all of")
            chat.session.messages[:] = kept  # as a turn does at its end
            raise KeyboardInterrupt

    chat.session.messages[:] = []
    chat.show(Ended())
    assert chat.session.messages == kept
    assert "stopped" not in capsys.readouterr().out


def test_what_was_shown_before_ctrl_c_is_kept(chat, capsys):
    call = ToolCall(name="f", id="1")
    for events, kept in [
        ([TextDelta("so "), CallEnd(0, call)], {"content": "so", "tool_calls": [call.to_openai()]}),
        ([CallEnd(0, call)], {"content": None, "tool_calls": [call.to_openai()]}),
        ([ReasoningDelta("hm")], {"content": "", "reasoning_content": "hm"}),
        ([TextDelta("hm"), Withdrawn(), ReasoningDelta("hm")],
         {"content": "", "reasoning_content": "hm"}),
        ([TextDelta("yes")], {"content": "yes"}),
    ]:  # fmt: skip
        chat.session.messages.clear()
        chat.show(Stopped(*events))
        assert chat.session.messages == [*Stopped.messages, {"role": "assistant", **kept}]
        assert "(stopped; /retry answers anew)" in capsys.readouterr().out
    chat.session.messages.clear()
    for nothing in ([], [TextDelta("\n")], [CallEnd(0, call), Withdrawn()]):
        chat.show(Stopped(*nothing))
        assert chat.session.messages == []
        assert "before it said anything" in capsys.readouterr().out


# Lines on standard input.


def test_a_pipe_is_read_line_by_line_the_same_each_time():
    lines = (
        "hello",
        LIGHTS,
        '"""turn the lights off',
        'in the kitchen"""',
        "//help",
        "/quit",
        "no",
    )
    shown = chatted(*lines, arguments=("-a", HOME))
    assert shown == chatted(*lines, arguments=("-a", HOME))
    assert shown.count(CALLED) == 2
    assert "> " not in shown
    assert "prompt_toolkit" not in sys.modules  # an editor is for terminals


def test_an_answer_follows_the_options_that_run_has(tmp_path):
    options = ("--temperature", 2, "--seed", 7, "--max-tokens", 12, "--system", "be brief")
    once = chatted("tell me more", arguments=options)
    assert once == chatted("tell me more", arguments=options)
    *answer, cut = once.splitlines()[1:]
    assert answer == invoke("run", BASE, "tell me more", *options).stdout.splitlines()
    assert cut == "(cut off after 12 tokens; /set max_tokens N allows more)"
    assert once != chatted("tell me more", arguments=(*options[:2], "--seed", 8, *options[4:]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--chat-template-kwargs", "{"), "not valid JSON"),
        (("--chat-template-kwargs", "[1]"), "a JSON object"),
        (("--chat-template-kwargs", '{"messages": 1}'), "cannot replace"),
        (("--top-p", 7), "top_p must be above 0"),
    ],
)
@pytest.mark.parametrize("command", ["run", "chat"])
def test_options_that_are_wrong(command, options, said):
    words = ("run", BASE, "hello") if command == "run" else ("chat", BASE)
    done = invoke(*words, *options, typed="hello\n")
    assert isinstance(done.error, ParameterError)
    assert said in str(done.error)


def test_raw_has_no_use_for_a_template():
    for words in (("--system", "x"), ("--no-thinking",), ("--control-tokens", "text")):
        error = invoke("run", BASE, "hello", "--raw", *words).error
        assert words[0].replace("--no-", "--") in str(error)


# Commands.


def test_the_result_of_a_call_lets_the_model_go_on(chat, capsys):
    shown = run(chat, capsys, LIGHTS, "/result")
    assert shown.startswith(f"{CALLED}\n  /result TEXT says what set_lights gave back")
    assert f"{CALLED} waits for its result" in shown
    shown = run(chat, capsys, "/result done", "/result")
    assert "no call waits for a result" in shown
    assert [m["role"] for m in chat.session.messages] == ["user", "assistant", "tool", "assistant"]
    call = chat.session.messages[1]["tool_calls"][0]
    assert chat.session.messages[2] == {
        "role": "tool", "tool_call_id": call["id"], "name": "set_lights", "content": "done",
    }  # fmt: skip
    with pytest.raises(ParameterError, match="no call waits"):
        run_command(chat, "/result again")


def test_every_call_gets_its_result_before_the_model_goes_on(chat, capsys):
    calls = [ToolCall(name=n, arguments={"x": n}, id=n).to_openai() for n in ("f", "g")]
    asked = {"role": "user", "content": LIGHTS}
    chat.session.messages[:] = [asked, {"role": "assistant", "content": None, "tool_calls": calls}]
    assert 'kept; g(x="g") is next' in run(chat, capsys, "/result one")
    assert [call.name for call in chat.pending()] == ["g"]
    run(chat, capsys, "/result two")
    assert [m.get("content") for m in chat.session.messages[2:4]] == ["one", "two"]
    assert chat.session.messages[4]["role"] == "assistant"


def test_retry_and_edit(chat, capsys):
    first = run(chat, capsys, "hello")
    assert run(chat, capsys, "/retry") == first
    assert len(chat.session.messages) == 2
    run(chat, capsys, f"/edit {LIGHTS}")
    assert [m["content"] for m in chat.session.messages] == [LIGHTS, None]
    run_command(chat, "/edit")
    assert chat.prefilled == f"/edit {LIGHTS}"
    empty = Chat(model=chat.model, session=chat.model.session())
    for line in ("/retry", "/edit", "/edit more"):
        with pytest.raises(ParameterError, match="nothing was said yet") as caught:
            run_command(empty, line)
        assert caught.value.hint == "say something first"


def test_the_system_message(chat, capsys):
    assert "system: none" in run(chat, capsys, "/system")
    run(chat, capsys, "/system be brief", "hello", "/system be kind")
    assert chat.session.messages[0] == {"role": "system", "content": "be kind"}
    run(chat, capsys, "/reset")
    assert [m["role"] for m in chat.session.messages] == ["system"]
    run(chat, capsys, "/system off")
    assert chat.session.messages == []


def test_saved_and_gone_on_with(chat, capsys, tmp_path):
    file = tmp_path / "a talk.json"
    run(chat, capsys, "/system be brief", "hello", "/set temperature 0.5", f"/save '{file}'")
    other = Chat(model=chat.model, session=chat.model.session(when_full="drop"))
    chat.model.clear_adapters()
    assert "3 messages of" in run(other, capsys, f"/load '{file.with_suffix('')}'")
    assert other.session.messages == chat.session.messages
    assert other.sampling.temperature == 0.5
    assert other.session.when_full == "drop"
    assert chat.model.adapters[0].scale == 1.0
    run(other, capsys, f"/save '{file}'")  # its own
    with pytest.raises(ParameterError, match="is there already"):
        run_command(Chat(model=chat.model, session=chat.session), f"/save '{file}'")
    run(chat, capsys, f"/save '{file}' --overwrite")
    with pytest.raises(LorakitError, match=r"did you mean a talk.json") as caught:
        run_command(chat, f"/load '{tmp_path}/a tlk.json'")
    assert caught.value.code == "source_not_found"


def test_a_saved_conversation_that_says_nothing_of_the_template_keeps_what_is_chosen(
    chat, capsys, tmp_path
):
    plain, marked = tmp_path / "plain.json", tmp_path / "marked.json"
    text, template = (RenderOptions(control_tokens=each) for each in ("text", "template"))
    run(chat, capsys, f"/save {plain}")
    chat.session.rendering = text
    run(chat, capsys, f"/save {marked}")
    for file, kept in ((plain, template), (marked, text)):
        chat.session.rendering = template
        run(chat, capsys, f"/load {file}")
        assert chat.session.rendering == kept


def test_a_saved_conversation_says_where_its_adapters_came_from(chat, capsys, tmp_path):
    file, style = tmp_path / "talk.json", demo.adapter_path("style")
    run(chat, capsys, f"/load {style}:0.5", "/adapter home 0", f"/save {file}")
    assert json.loads(file.read_text())["adapters"] == {"style": 0.5}
    chat.model.find("style").unload()
    for changed, source in ((lambda text: text, str(style)), (_of_version_3, "REF")):
        file.write_text(changed(file.read_text()))
        with pytest.raises(LorakitError, match="adapters that are not loaded") as caught:
            run_command(chat, f"/load {file}")
        assert caught.value.items == (f"style, from {style}" if source != "REF" else "style",)
        step, then = caught.value.hint.split(", then ")
        assert (step, then) == (f"/load {source} style", f"/load {file}")
    assert "0 messages of" in run(chat, capsys, f"/load {style} style", then)
    assert chat.model.find("style").scale == 0.5
    chat.model.find("style").unload()


def _of_version_3(text):
    content = json.loads(text) | {"version": 3}
    del content["sources"]
    return json.dumps(content | {"sha256": digest_of(content)})


def test_an_adapter_that_did_nothing_is_not_needed(chat, capsys, tmp_path):
    file = tmp_path / "talk.json"
    chat.model.load_adapter(demo.adapter_path("style"), "other").apply(0.0)
    run(chat, capsys, f"/save {file}")
    (tmp_path / "old.json").write_text(
        json.dumps({"format": "lorakit-session", "version": 1, "messages": [], "tools": None,
                    "adapters": {"home": 1.0, "other": 0.0}})
    )  # fmt: skip
    chat.model.find("other").unload()
    run(chat, capsys, "/clear", f"/load {file}")
    assert chat.model.find("home").scale == 1.0
    run(chat, capsys, "/clear", f"/load {tmp_path}/old.json")
    assert chat.model.find("home").scale == 1.0


def test_adapters_are_listed_switched_and_guessed(chat, capsys, caplog):
    assert run(chat, capsys, "/adapter") == "  home at 1 (rank 8)\n"
    assert run(chat, capsys, "/adapter home 0") == "  home off (rank 8)\n"
    assert run(chat, capsys, "/adapter home 0.5") == "  home at 0.5 (rank 8)\n"
    assert run(chat, capsys, "/adapter home") == "  home at 1 (rank 8)\n"
    with pytest.raises(LorakitError, match="did you mean home"):
        run_command(chat, "/adapter hom")
    assert "style at 0.5" in run(chat, capsys, f"/adapter {demo.adapter_path('style')}:0.5")
    chat.model.find("style").unload()
    with pytest.raises(LorakitError, match="already loaded") as caught:
        run_command(chat, f"/load {HOME}")
    assert caught.value.hint.startswith(f"/load {HOME} NAME ")
    shown = run(chat, capsys, f"/load {HOME}:0.25 again")
    assert "again at 0.25" in shown
    double = "home and again are the same adapter: together it acts at the scale 1.25"
    assert double in caplog.text  # which a terminal shows
    caplog.clear()
    run(chat, capsys, "/adapter again 0")
    run(chat, capsys, "/adapter home 0", "/adapter again 1")
    assert "same adapter" not in caplog.text
    run(chat, capsys, "/adapter home")
    assert "the scale 2" in caplog.text
    chat.model.find("again").unload()


def test_settings(chat, capsys):
    shown = run(chat, capsys, "/set")
    assert all(f"  {name}  " in shown for name in NAMES)
    assert "temperature  0.7  (the model's own: 0)" in run(chat, capsys, "/set temperature 0.7")
    assert run(chat, capsys, "/set temperature").splitlines() == [
        "  temperature  0.7  (the model's own: 0)"
    ]
    assert run(chat, capsys, "/set ignore_eos on").startswith("  ignore_eos  on  (")
    run(chat, capsys, "/set ignore_eos default")
    run(chat, capsys, "/set stop END", "/set seed 3", "/set when_full stop")
    assert (chat.sampling.stop, chat.sampling.seed) == (("END",), 3)
    assert chat.session.when_full == "stop"
    run(chat, capsys, "/set temperature default", "/set seed none")
    assert (chat.sampling.temperature, chat.sampling.seed) == (0.0, None)
    assert "  tool_choice  auto" in run(chat, capsys, "/set tool_choice auto")
    run(chat, capsys, "/set repair on", "/set lookup on")
    assert (chat.session.repair, chat.sampling.lookup) == (True, True)
    assert chat.session.rendering.tool_choice == "auto"
    run(chat, capsys, "/set tool_choice default", "/set repair default", "/set lookup default")
    assert (chat.session.repair, chat.sampling.lookup) == (False, None)
    assert chat.session.rendering.tool_choice is None
    for line, said in [
        ("/set tool_choice required", "there are no tools"),
        ("/set repair 3", "on, off, default"),
        ("/set temprature 1", "did you mean temperature"),
        ("/set top_p much", "top_p must be above 0"),
        ("/set when_full shift", "'summarise'"),
        ("/set thinking 3", "on, off, default"),
        ("/set default", "no setting default"),
        ("/set stop a\\", "half an escape"),
        ("/set stop \\x4", "half an escape"),
    ]:
        with pytest.raises(ParameterError, match=said):
            run_command(chat, line)


def test_a_setting_that_the_model_cannot_have_is_refused_at_once(chat, monkeypatch):
    with pytest.raises(ParameterError, match="does not read") as caught:
        run_command(chat, "/set thinking off")
    assert caught.value.hint == "/set thinking default"
    assert chat.session.rendering.enable_thinking is None
    run_command(chat, "/set thinking default")
    shown = chatted("hello", arguments=("--no-thinking",))  # chosen before there was a chat
    assert "(hint: /set thinking default)" in shown
    monkeypatch.setattr(chat.model, "chat_prompt", lambda said, **options: [])
    run_command(chat, "/set tool_choice none")
    run_command(chat, "/set thinking off")
    assert chat.session.rendering.enable_thinking is False
    assert chat.session.rendering.tool_choice == "none"  # what was chosen before stays


def test_a_server_shortens_no_conversation(chat, monkeypatch):
    for when_full in ("drop", "summarise", "stop"):
        require_counted(chat.model, when_full, "")
    server = replace(chat.model.capabilities, engine="api")
    monkeypatch.setattr(chat.model, "capabilities", server)
    with pytest.raises(CapabilityError, match="a server counts its tokens") as caught:
        run_command(chat, "/set when_full drop")
    assert caught.value.hint == "/set when_full stop"
    assert chat.session.when_full == "stop"
    run_command(chat, "/set when_full stop")


def test_hints_are_in_a_chats_words(chat):
    for hint, said in [
        ('when_full="stop"', "/set when_full stop"),
        ("open it with mmproj=, the second file", "begin the chat with --mmproj, the second file"),
    ]:
        assert explained(ParameterError("no", hint=hint), chat).hint == said


def test_a_picture_that_the_model_cannot_see(chat, tmp_path):
    there = tmp_path / "x.png"
    there.write_bytes(b"no picture")
    for path in (there, tmp_path / "none.png"):
        with pytest.raises(CapabilityError, match="sees no images") as caught:
            run_command(chat, f"/image {path}")
        assert "--mmproj" in explained(caught.value, chat).hint
        assert caught.value.items == ()
    assert chat.images == []


def test_a_picture_that_is_none(chat, tmp_path, monkeypatch):
    def prompt(said):
        raise ParameterError("no", items=["messages[0].content[0]: there is no file x.png"])

    monkeypatch.setattr(chat.model, "chat_prompt", prompt)
    with pytest.raises(ParameterError) as caught:
        run_command(chat, "/image x.png")
    assert caught.value.message == "the picture x.png is not shown: there is no file x.png"
    assert caught.value.items == ()


def test_commands_that_are_none(chat, capsys):
    with pytest.raises(ParameterError, match="did you mean /help"):
        run_command(chat, "/halp")
    shown = run(chat, capsys, "/help")
    assert all(f"  /{name}" in shown for name in COMMANDS)
    assert run(chat, capsys, "/help /retry").count("/") == 1
    shown = run(chat, capsys, "/help set")
    assert all(name in shown for name in NAMES)
    assert "default is the model's own" in shown
    with pytest.raises(ParameterError, match="no command /foo") as caught:
        run_command(chat, "/help foo")
    assert (caught.value.message, caught.value.hint) == (
        "there is no command /foo", "/help lists them",
    )  # fmt: skip
    with pytest.raises(ParameterError, match=r"not my talk\.jsonl") as caught:
        run_command(chat, "/save 'my talk.jsonl'")
    assert caught.value.hint == "/save 'my talk.json'"
    for line, hint in (("/retry now", "/retry"), ("/save", "/save FILE [--overwrite]")):
        with pytest.raises(ParameterError) as caught:
            run_command(chat, line)
        assert caught.value.hint == hint


def test_a_full_context_is_said(model, capsys):
    with lorakit.open(BASE, threads=1, context=400) as small:
        chat = Chat(model=small, session=small.session(when_full="drop"))
        shown = run(chat, capsys, "/set max_tokens 40", *["tell me more, please"] * 12)
        assert "(the context is full: the oldest" in shown
        assert "messages are dropped)" in shown
        chat.session.when_full = "summarise"
        shown = run(chat, capsys, *["tell me more, please"] * 12)
        assert "messages are summarised)" in shown
        chat.session.when_full = "stop"
        with pytest.raises(ContextFullError):
            run(chat, capsys, *["tell me more, please"] * 12)
    shown = chatted(
        *["tell me more, please"] * 12, arguments=("--context", 128, "--when-full", "stop")
    )
    assert "/set when_full drop drops the oldest turns" in shown
    shown = chatted(*["tell me more, please"] * 12, arguments=("--context", 128))
    assert "messages are dropped)" in shown
    shown = chatted("long " * 200, arguments=("--context", 128))
    assert "(hint: shorten the message)" in shown


def test_why_there_is_no_summary_is_said(model, capsys, monkeypatch):
    with lorakit.open(BASE, threads=1, context=400) as small:
        chat = Chat(model=small, session=small.session(when_full="summarise"))
        monkeypatch.setattr(chat.session, "_summary", lambda prompt, tokens: "")
        shown = run(chat, capsys, "/set max_tokens 40", *["tell me more, please"] * 12)
    assert "messages are dropped; no summary: the model said nothing)" in shown
    assert "are summarised" not in shown


# Words, completion, history.


def test_words():
    assert words_of("'a b' c", 1, 2) == ["a b", "c"]
    for text in ("", "a b c", "'a"):
        with pytest.raises(ParameterError):
            words_of(text, 1, 2)
    assert last_word("home 'a b") == ("'a b", "a b")
    assert last_word("home ") == ("", "")
    for name in ("home", "my home", "it's", 'a"b', "a\\b", "a\nb", "$(x)", "`x`;"):
        assert words_of(quoted(name), 1, 1) == [name]
        assert last_word(quoted(name))[1] == name


def test_completion(chat, tmp_path, monkeypatch):
    (tmp_path / "talk one.json").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)

    def offered(typed):
        return [typed[: len(typed) - length] + word for length, word in completions(chat, typed)]

    assert offered("/re") == ["/result ", "/retry ", "/reset "]
    assert offered("hello") == offered("/nothing x") == offered("/load\nx") == []
    assert offered("/adapter ho") == ["/adapter home "]
    assert offered("/load ") == ["/load folder/", "/load 'talk one.json'"]
    assert offered("/save 'talk o") == ["/save 'talk one.json'"]
    assert offered(f"/image {tmp_path}/.h") == [f"/image {tmp_path}/.hidden"]
    assert offered("/load none/x") == []
    assert offered("/set temp") == ["/set temperature "]
    assert offered("/set when_full d") == ["/set when_full drop"]
    assert offered("/help ret") == ["/help retry"]


def test_the_history_is_bounded_and_private(tmp_path):
    history = HistoryFile(tmp_path / "new" / "history")
    assert history.read() == []
    history.add("one\ntwo \N{SNOWMAN}")
    history.add("x" * (MAX_ENTRY + 1))
    assert history.read() == ["one\ntwo \N{SNOWMAN}"]
    lines = [json.dumps(f"line {n}") for n in range(ENTRIES)]
    history.path.write_text("\n".join(["no json", "[1]", *lines]))
    history.add("last")
    assert history.read() == [f"line {n}" for n in range(1, ENTRIES)] + ["last"]
    if os.name == "posix":
        assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_where_the_history_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_HISTORY", str(tmp_path / "h"))
    assert history_path() == tmp_path / "h"
    monkeypatch.setenv("LORAKIT_HISTORY", "off")
    assert history_path() is None
    monkeypatch.delenv("LORAKIT_HISTORY")
    assert history_path().parts[-2:] == ("lorakit", "history")
    with pytest.raises(OSError, match="folder"):
        HistoryFile(tmp_path).read()


def test_the_page_names_every_command():
    page = (Path(__file__).parents[2] / "docs/howto/chat.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"/{name}`" not in page and f"/{name} " not in page] == []
