"""A server answers until the base is open: the move, and what may go wrong on either side."""

import gc
import logging
import shutil
import socket
import threading
from contextlib import contextmanager
from functools import partial

import pytest
from api_server import api_serving, delta, events, text, whole

import lorakit
from lorakit import demo
from lorakit.model import fallback
from lorakit.model.fallback import FallbackModel, open_with_fallback
from lorakit.model.moving import MovingTable
from lorakit.model.remote import open_remote
from lorakit.sources import Progress

HELLO = [{"role": "user", "content": "hello"}]
KITCHEN = "turn the lights off in the kitchen"
LLAMA = {"data": [{"id": "tiny", "owned_by": "llamacpp"}]}
LORAS = [{"id": 0, "path": "/a/home.gguf"}, {"id": 1, "path": "/b/style.gguf"}]
SERVED = "from the server"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, caplog):
    monkeypatch.delenv("LORAKIT_API_KEY", raising=False)
    caplog.set_level(logging.INFO, "lorakit")


@pytest.fixture
def api():
    with api_serving(
        models=LLAMA,
        v1__completions=lambda body: events(text(SERVED, "stop")),
        v1__chat__completions=lambda body: events(delta("stop", content=SERVED)),
        **{"lora-adapters": lambda body: whole(LORAS)},
    ) as running:
        yield running


class Gate:
    """Opens the demo's base once it is told to, and keeps what it opened."""

    def __init__(self, **options):
        self.open, self.options, self.opened = threading.Event(), options, []

    def __call__(self, progress):
        self.open.wait()
        self.opened.append(lorakit.open(demo.base_path(), **self.options))
        return self.opened[0]


def begun(api, make, choices=()):
    return open_with_fallback(
        make,
        partial(open_remote, f"{api.url}/v1"),
        reference="the demo",
        url=f"{api.url}/v1",
        choices=choices,
        progress=None,
    )


def end_of_opening(model, gate=None):
    if gate is not None:
        gate.open.set()
    model._opening._thread.join()


@contextmanager
def waiting(api, choices=(), **options):
    """A model that the server answers for, and the gate of the other one."""
    gate = Gate(adapter=list(choices), **options)
    with begun(api, gate, choices) as model:
        try:
            yield model, gate
        finally:
            end_of_opening(model, gate)


@pytest.fixture(scope="module")
def here():
    with lorakit.open(demo.base_path()) as model:
        yield model


def codes(model):
    return [warning.code for warning in model.warnings]


def test_the_server_answers_until_the_base_is_open(api, here, caplog):
    with waiting(api) as (model, gate):
        assert (model.runtime_name, model.name, codes(model)) == ("api", "tiny", ["fallback"])
        assert "until the demo is open" in repr(model)
        assert str(model.chat(HELLO)) == model.complete("hello").text == SERVED
        assert model.batch([lorakit.Request(messages=HELLO)])[0].text == SERVED
        with pytest.raises(lorakit.CapabilityError):
            model.logits("hello")
        end_of_opening(model, gate)
        assert (model.runtime_name, model.name, codes(model)) == ("onnx", here.name, [])
        assert "the demo is open: it answers now, on onnx" in caplog.messages
        asked = len(api.asked)
        assert model.complete("hello").text == here.complete("hello").text
        assert str(model.chat(HELLO)) == str(here.chat(HELLO))
        assert (model.logits("hello") == here.logits("hello")).all()
        assert model.embed("hello").shape == here.embed("hello").shape
        assert model.encode("hello") == here.encode("hello")
        assert model.base.fingerprint == here.base.fingerprint
        assert len(api.asked) == asked
    assert model.closed
    assert gate.opened[0].closed
    with pytest.raises(lorakit.ClosedError):
        model.complete("hello")


def test_open_fetches_and_opens_in_the_background(api, web, here):
    fetching, go = threading.Event(), threading.Event()

    def progress(progress):
        fetching.set()
        go.wait()

    web.put_folder("/base", demo.base_path())
    with lorakit.open(f"{web.url}/base/", fallback=f"{api.url}/v1", progress=progress) as model:
        assert fetching.wait(60)
        assert model.complete("hello").text == SERVED
        end_of_opening(model, type("Go", (), {"open": go}))
        assert model.complete("hello").text == here.complete("hello").text


def test_relative_references_are_of_the_directory_at_the_call(api, tmp_path, monkeypatch):
    shutil.copytree(demo.adapter_path("home"), tmp_path / "home")
    shutil.copytree(demo.base_path(), tmp_path / "base")
    held, go = threading.Event(), threading.Event()
    true = lorakit.model.open.open_base

    def later(place):
        held.set()
        go.wait()
        return true(place)

    monkeypatch.setattr("lorakit.model.open.open_base", later)
    monkeypatch.chdir(tmp_path)
    with lorakit.open("base", adapter="home", fallback=f"{api.url}/v1") as model:
        assert held.wait(60)
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        end_of_opening(model, type("Go", (), {"open": go}))
        assert (model.runtime_name, codes(model)) == ("onnx", [])
        assert scales(model) == {"home": 1.0}


def test_a_session_goes_on_with_its_messages(api, here):
    with waiting(api) as (model, gate):
        session = model.session(system="Be kind.", max_tokens=24)
        assert session.send("hello").text == SERVED
        end_of_opening(model, gate)
        reply = session.send(KITCHEN)
    assert [message["content"] for message in session.messages[:3]] == ["Be kind.", "hello", SERVED]
    assert reply.text == here.chat(session.messages[:4], max_tokens=24).text


def test_an_answer_ends_where_it_began(api, here):
    begins, go = threading.Event(), threading.Event()

    def slowly(body):
        return events(delta(content="from "), begins.set, go.wait, delta("stop", content="there"))

    api.answers["/v1/chat/completions"] = slowly
    with waiting(api) as (model, gate):
        stream = model.stream(HELLO, lookahead=None)
        begins.wait()
        end_of_opening(model, gate)
        assert str(model.chat(HELLO)) == str(here.chat(HELLO))
        go.set()
        assert [*stream.text] == ["from ", "there"]
        assert stream.reply.text == "from there"


class OfTheCurrent(FallbackModel):
    """Broken: gives a conversation that the server is to render to whatever is in use."""

    def _of(self, prompt):
        return self._current


@pytest.mark.parametrize("kind", [FallbackModel, OfTheCurrent])
def test_a_rendered_conversation_is_answered_by_who_rendered_it(api, monkeypatch, kind):
    monkeypatch.setattr(fallback, "FallbackModel", kind)
    with waiting(api) as (model, gate):
        prompt = model.chat_prompt(HELLO)
        end_of_opening(model, gate)
        if kind is OfTheCurrent:
            with pytest.raises(lorakit.ParameterError, match="no tokens"):
                model.chat_stream(prompt)
        else:
            stream = model.chat_stream(prompt)
            assert [*stream.text] == [SERVED]
            assert stream.reply.text == model.parse_reply(model.complete(prompt)).text == SERVED
        assert "tiny" not in repr(model)


def test_a_base_that_does_not_open_is_said_and_the_server_stays(api, tmp_path):
    with lorakit.open(tmp_path / "nowhere", fallback=f"{api.url}/v1") as model:
        end_of_opening(model)
        assert model.runtime_name == "api"
        assert codes(model) == ["fallback", "source_not_found"]
        assert "goes on answering" in model.warnings[1].message
        assert "did not open" in repr(model)
        assert model.complete("hello").text == SERVED


def test_what_nobody_foresaw_is_said_too(api, caplog):
    def fails(progress):
        raise ZeroDivisionError

    with begun(api, fails) as model:
        end_of_opening(model)
        assert codes(model) == ["fallback", "engine_failed"]
        assert model.complete("hello").text == SERVED
    assert any(record.exc_info for record in caplog.records)


def test_without_a_server_the_base_is_waited_for(here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with lorakit.open(demo.base_path(), fallback=url) as model:
        assert (model.runtime_name, codes(model)) == ("onnx", ["server_unreachable"])
        assert model.complete("hello").text == here.complete("hello").text
    with pytest.raises(lorakit.SourceError):
        lorakit.open("nowhere/at/all", fallback=url)


def test_a_server_that_says_nothing_is_not_waited_for(api, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(fallback, "LONGEST_LOOK", 0.1)
    api.answers["/v1/models"] = lambda body: events(go.wait)
    with lorakit.open(demo.base_path(), fallback=f"{api.url}/v1") as model:
        assert (model.runtime_name, codes(model)) == ("onnx", ["deadline_exceeded"])
    go.set()


@pytest.mark.parametrize("url", ["http://elsewhere.test/v1", "host/v1", 5, "https://a:b@c/v1"])
def test_a_fallback_that_is_no_url_is_refused(url):
    with pytest.raises(lorakit.ParameterError):
        lorakit.open(demo.base_path(), fallback=url)


def test_a_model_on_a_server_has_no_fallback(api):
    with pytest.raises(lorakit.ParameterError, match="fallback"):
        lorakit.open(f"{api.url}/v1", fallback=f"{api.url}/v1")
    assert api.asked == []


def test_closing_while_it_is_opened_closes_what_comes(api):
    gate = Gate()
    model = begun(api, gate)
    model.close()
    model.close()
    assert model.closed
    assert "closed" in repr(model)
    with pytest.raises(lorakit.ClosedError):
        model.chat(HELLO)
    end_of_opening(model, gate)
    assert gate.opened[0].closed
    assert model.runtime_name == "api"


def test_closing_ends_what_is_fetched(api):
    ended, go = [], threading.Event()

    def make(progress):
        go.wait()
        try:
            progress(Progress(source="x", file="y", done=1, total=2))
        except lorakit.ClosedError as error:
            ended.append(error)
            raise

    with begun(api, make) as model:
        pass
    go.set()
    end_of_opening(model)
    assert len(ended) == 1


def test_a_model_that_is_dropped_keeps_nothing(api):
    gate = Gate()
    model = begun(api, gate)
    thread = model._opening._thread
    del model
    gc.collect()
    gate.open.set()
    thread.join()
    assert gate.opened[0].closed


def test_a_cancelled_turn_leaves_the_conversation_for_the_base(api, here):
    begins, go = threading.Event(), threading.Event()
    api.answers["/v1/chat/completions"] = lambda body: events(
        delta(content="from "), begins.set, go.wait, delta("stop", content="there")
    )
    with waiting(api) as (model, gate):
        session = model.session(max_tokens=24)
        turn = session.stream("hello")
        begins.wait()
        end_of_opening(model, gate)
        turn.cancel()
        with pytest.raises(lorakit.CancelledError):
            turn.reply  # noqa: B018
        go.set()
        assert session.messages == []
        assert session.send("hello").text == here.chat(HELLO, max_tokens=24).text


# Adapters.


def configs(*names, **more):
    return [lorakit.AdapterConfig(demo.adapter_path(name), **more) for name in names]


def scales(model):
    return {info.name: info.scale for info in model.adapters}


def test_adapters_are_applied_on_both_by_name(api):
    with waiting(api, configs("home", scale=0.5)) as (model, gate):
        assert codes(model) == ["fallback"]
        assert scales(model) == {"home": 0.5, "style": None}
        model.chat(HELLO)
        assert api.asked[-1].body["lora"] == [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.0}]
        end_of_opening(model, gate)
        assert scales(model) == {"home": 0.5}
        with lorakit.open(demo.base_path(), adapter=configs("home", scale=0.5)) as other:
            assert str(model.chat(HELLO)) == str(other.chat(HELLO))


def test_what_the_server_lacks_is_said_and_acts_once_the_base_is_open(api, here):
    api.answers["/lora-adapters"] = lambda body: whole(LORAS[1:])
    choices = [*configs("home"), here_adapter := lorakit.read_adapter(demo.adapter_path("home"))]
    assert here_adapter
    with waiting(api, choices) as (model, gate):
        assert codes(model) == ["fallback"] * 3
        assert "home" in model.warnings[1].adapter
        assert "none of this name" in model.warnings[1].message
        assert scales(model) == {"style": None}
        end_of_opening(model, gate)
        assert scales(model) == {"home": 1.0, "adapter": 1.0}


def test_what_is_applied_meanwhile_is_carried_over_and_handles_stay(api):
    with waiting(api, configs("home", scale=0.5)) as (model, gate):
        home, style = model.find("home"), model.find("style")
        home.apply(0.8)
        style.apply(0.3)
        session = model.session(adapters={home: 0.25})
        end_of_opening(model, gate)
        assert scales(model) == {"home": 0.8}
        assert (home.scale, home.info.rank > 0) == (0.8, True)
        home.scale = 0.7
        assert scales(gate.opened[0]) == {"home": 0.7}
        assert [w.adapter for w in model.warnings if w.code == "fallback"] == ["style"]
        with pytest.raises(lorakit.UnknownAdapterError, match="the server's"):
            style.apply(1.0)
        assert "server" in repr(style)
        assert dict(model.complete("hello", adapters={home: 0.2}).adapters) == {"home": 0.2}
        assert dict(session.send("hello").completion.adapters) == {"home": 0.25}
        loaded = model.load_adapter(demo.adapter_path("style"))
        loaded.apply()
        assert scales(model) == {"home": 0.7, "style": 1.0}
        with pytest.raises(lorakit.NameTakenError):
            model.load_adapter(demo.adapter_path("style"))
        loaded.unload()
        with pytest.raises(lorakit.UnknownAdapterError):
            loaded.apply()
        home.remove()
        assert (home.scale, scales(model)) == (None, {"home": None})


def test_adapters_are_fetched_after_the_move_with_the_progress_that_was_given(api, web):
    seen, other = [], []
    place = web.put_folder("/adapters/style", demo.adapter_path("style"))
    with lorakit.open(demo.base_path(), fallback=f"{api.url}/v1", progress=seen.append) as model:
        end_of_opening(model)
        assert model.load_adapter(place).name == "style"
        assert {step.file for step in seen} >= {"adapter_model.safetensors"}
        seen.clear()
        place = web.put_folder("/adapters/home", demo.adapter_path("home"))
        model.load_adapter(place, progress=other.append, wait=False).result().apply()
        assert scales(model) == {"home": 1.0, "style": None}
        assert other
        assert seen == []


def test_what_the_base_alone_has_stays_active_where_something_is_applied_meanwhile(api):
    api.answers["/lora-adapters"] = lambda body: whole(LORAS[1:])
    with waiting(api, configs("home", scale=0.5)) as (model, gate):
        model.find("style").apply(0.3)
        end_of_opening(model, gate)
        assert scales(model) == {"home": 0.5}


def test_an_adapter_that_is_loaded_while_it_moves_is_loaded_here(api, monkeypatch):
    monkeypatch.chdir(demo.adapter_path("home").parent)  # where "home" is a path, too
    with waiting(api) as (model, gate):
        true = model._remote.load_adapter

        def moving(*given, **more):
            found = true(*given, **more)
            end_of_opening(model, gate)
            return found

        monkeypatch.setattr(model._remote, "load_adapter", moving)
        loaded = model.load_adapter("home", "mine")
        loaded.apply(0.5)
        assert scales(gate.opened[0]) == {"mine": 0.5}
        assert loaded.info.rank > 0


def test_a_name_is_claimed_once_while_it_is_loaded(api):
    with waiting(api) as (model, _):
        model._table.reserve("mine")
        with pytest.raises(lorakit.NameTakenError, match="is being loaded"):
            model.load_adapter("home", "mine")
        model._table.release("mine")
        model.load_adapter("home", "mine").unload()


class StayingTable(MovingTable):
    """Broken: gives the server's handles to the other table as they are."""

    def move(self, to):
        self._now = to


@pytest.mark.parametrize("kind", [MovingTable, StayingTable])
def test_a_handle_means_the_adapter_of_its_name_after_the_move(api, monkeypatch, kind):
    monkeypatch.setattr(fallback, "MovingTable", kind)
    with waiting(api, configs("style")) as (model, gate):
        style = model.find("style")
        end_of_opening(model, gate)
        if kind is StayingTable:
            with pytest.raises(lorakit.UnknownAdapterError):
                style.apply(0.5)
        else:
            style.apply(0.5)
            assert scales(gate.opened[0]) == {"style": 0.5}


def test_handles_are_of_this_model_alone(api, here):
    stranger = here.load_adapter(demo.adapter_path("home"), "stranger")
    with waiting(api) as (model, _):
        with pytest.raises(lorakit.ParameterError, match="another model"):
            model.apply({stranger: 1.0})
        model.apply([model.find("home")])
        assert scales(model) == {"home": 1.0, "style": None}
        again = model.load_adapter("home", wait=False).result()
        again.remove()
        with pytest.raises(lorakit.UnknownAdapterError):
            model.load_adapter("nothing")
        model.clear_adapters()
    stranger.unload()


def test_many_threads_ask_and_change_adapters_while_it_moves(api, here):
    started = threading.Barrier(5)
    moved = threading.Event()
    failures, answers = [], []

    def ask(session):
        started.wait()
        last = False
        while not last:
            last = moved.is_set()  # and once more after the move
            try:
                answers.append(model.complete("hello", adapters={}, max_tokens=4).text)
                answers.append(session.send("hello", max_tokens=4).text and "ok")
                home.apply(0.5)
                session.messages.clear()
            except Exception as error:
                failures.append(error)

    with waiting(api, configs("home")) as (model, gate):
        home = model.find("home")
        sessions = [model.session(adapters={"home": 0.1}) for _ in range(4)]
        threads = [threading.Thread(target=ask, args=(one,)) for one in sessions]
        for thread in threads:
            thread.start()
        started.wait()
        end_of_opening(model, gate)
        moved.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert home.scale == 0.5
    own = here.complete("hello", max_tokens=4).text
    assert set(answers) <= {SERVED, own, "ok"}
    assert answers[-1] in (own, "ok")
