"""Servers that cut, stall, lie and flood: each is one documented error, in time; the model goes on.

What bounds it stands beside each test that needs a bound; without the bound the test would not end.
"""

import itertools
import json
import threading
import time
from types import SimpleNamespace

import pytest
from api_server import EVENTS, JSON, MODELS, api_serving, delta, events, text, usage, whole

import lorakit
from lorakit.errors import LorakitError
from lorakit.model.remote import open_remote
from lorakit.remote import turns
from lorakit.remote.event_stream import events as events_of
from lorakit.remote.waiting import Waits
from lorakit.sources.wire import ProtocolError

QUICK = Waits(first=0.3, next=0.3)
GOOD = (text("ok"), text("", "stop"), usage(1, 1))
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def api():
    with api_serving(v1__completions=lambda body: events(*GOOD)) as running:
        yield running


@pytest.fixture
def model(api):
    with open_remote(f"{api.url}/v1") as opened:
        yield opened


def fails(api, model, answer, code, *words, ask=None):
    """A request that is answered so ends with this error, and the next one with its answer."""
    api.answers["/v1/completions"] = api.answers["/v1/chat/completions"] = answer
    with pytest.raises(LorakitError) as caught:
        ask() if ask else model.complete("hello", max_tokens=8)
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in str(caught.value)
    api.answers["/v1/completions"] = lambda body: events(*GOOD)
    assert model.complete("hello").text == "ok"
    return caught.value


def endless(piece, after=b""):
    """Without the bound on an answer's bytes this would never end."""
    return itertools.chain([after], itertools.repeat(piece))


def sleep(seconds):
    return lambda: time.sleep(seconds)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CUTS = {
    "before the headers": lambda body: iter([b""]),
    "in the status line": lambda body: iter([b"HTTP/1.1 20"]),
    "after the headers": lambda body: events(done=False),
    "in a line": lambda body: events(text("a"), b'data: {"choices', done=False),
    "between two pieces": lambda body: events(text("a"), text("b"), done=False),
    "in a chunk": lambda body: iter([CHUNKED, b"100\r\ndata: {"]),
    "done, but nothing ended": lambda body: events(text("a")),
}


@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_is_cut_off_is_an_error_and_no_shorter_answer(api, model, cut):
    fails(api, model, CUTS[cut], "server_unreachable")


def test_the_pieces_before_a_cut_are_read_and_then_its_error(api, model):
    api.answers["/v1/completions"] = lambda body: events(text("a"), text("b"), done=False)
    stream = model.stream("hello")
    assert [next(stream), next(stream)] == ["a", "b"]
    with pytest.raises(lorakit.ServerError):
        next(stream)


STALLS = {
    "no headers": lambda body: (time.sleep(1.0), iter([b""]))[1],
    "slow headers": lambda body: (time.sleep(0.1) or b"X" for _ in range(15)),
    "no first word": lambda body: events(sleep(1.0), text("late")),
    "no second word": lambda body: events(text("a"), sleep(1.0), text("b")),
    "only comments": lambda body: events(*[b": ping\n\n", sleep(0.1)] * 15, text("late")),
}


@pytest.mark.parametrize("stall", STALLS)
def test_a_server_that_says_nothing_is_given_up(api, model, monkeypatch, stall):
    def ask():
        with monkeypatch.context() as patch:  # for this one request: a busy machine is slow too
            patch.setattr(model._remote, "_waits", QUICK)
            model.complete("hello")

    words = ("says nothing for 0.3 seconds",)
    fails(api, model, STALLS[stall], "server_unreachable", *words, ask=ask)


def test_a_server_that_began_has_less_time_for_the_next_word(api):
    api.answers["/v1/completions"] = STALLS["no second word"]
    with (
        open_remote(f"{api.url}/v1", waits=Waits(first=60.0, next=0.3)) as model,
        pytest.raises(lorakit.ServerError, match=r"says nothing for 0\.3 seconds"),
    ):
        model.complete("hello")


def test_a_deadline_ends_a_wait_that_would_be_longer(api):
    api.answers["/v1/completions"] = lambda body: events(text("a"), sleep(1.0), text("b", "stop"))
    with open_remote(f"{api.url}/v1") as model:  # whose own waits are minutes
        with pytest.raises(lorakit.DeadlineError):
            model.complete("hello", timeout=0.3)
        assert model.complete("hello").text == "ab"


def said_call(index):
    return {"index": index, "function": {"name": "f", "arguments": "{}"}}


LIES = {
    "no JSON": (lambda body: events(b"data: {oops}\n\n"), "no JSON"),
    "NaN is none, but a list is": (lambda body: events([1]), "an event is an object"),
    "choices": (lambda body: events({"choices": {"0": 1}}), "choices are a list"),
    "another choice": (lambda body: events({"choices": [{"index": 3, "text": "x"}]}), "choice"),
    "a text that is none": (lambda body: events({"choices": [{"text": 5}]}), "text is a text"),
    "a reason": (lambda body: events(text("a", "because")), "'because'"),
    "negative usage": (lambda body: events(text("a", "stop"), usage(-1)), "prompt_tokens"),
    "usage in halves": (lambda body: events(text("a", "stop"), usage(1.5)), "prompt_tokens"),
    "JSON for events": (lambda body: whole({"choices": []}), "application/json"),
    "a page": (lambda body: whole(b"<html>", kind="text/html"), "text/html"),
    "gzip": (lambda body: whole(b"x", kind=EVENTS, Content_Encoding="gzip"), "compression"),
    "two lengths": (
        lambda body: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"]),
        "Content-Length",
    ),
    "half a header": (lambda body: iter([b"HTTP/1.1 200 OK\r\nContent-"]), "headers are broken"),
    "no HTTP": (lambda body: iter([b"SSH-2.0-hello\r\n"]), "HTTP"),
    "a call that had ended": (
        lambda body: events(*(delta(tool_calls=[said_call(n)]) for n in (0, 1, 0))),
        "goes on with call 0",
    ),
    "twice a key": (lambda body: events(b'data: {"choices": [], "choices": []}\n\n'), "twice"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_breaks_its_word_is_said_to(api, model, lie):
    answer, word = LIES[lie]
    fails(api, model, answer, "server_invalid", word)


FLOODS = {
    "an endless line": lambda body: endless(b"x" * 65536, after=OK + b"\r\n"),
    "an endless event": lambda body: endless(b"data: x\n" * 99, after=OK + b"\r\n"),
    "endless comments": lambda body: endless(b": x\n\n" * 9999, after=OK + b"\r\n"),
    "an endless answer": lambda body: events(*itertools.repeat(text("word " * 100), 100_000)),
    "endless headers": lambda body: endless(b"a: b\r\n" * 99, after=OK),
    "interim responses": lambda body: endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_server_that_does_not_end_is_ended(api, model, flood):
    fails(api, model, FLOODS[flood], "server_invalid")
    assert api.left.wait(5)  # its connection was closed


def test_deep_and_long_json_is_refused_before_it_is_built(api, model):
    deep = b"data: " + b"[" * 100_000 + b"\n\n"
    fails(api, model, lambda body: events(deep), "server_invalid", "nested")
    many = b"data: [" + b"1," * 400_000 + b"1]\n\n"
    fails(api, model, lambda body: events(many), "server_invalid", "items")


def test_a_redirect_is_not_followed_and_nothing_is_sent_there(api, model):
    with api_serving(v1__completions=lambda body: events(*GOOD)) as other:
        away = f"{other.url}/v1/completions"
        for status in (301, 302, 303, 307, 308):
            answer = lambda body, s=status: whole({}, s, Location=away)  # noqa: E731
            fails(api, model, answer, "server_invalid", "redirects", other.url)
        assert other.asked == []


REFUSALS = [
    (401, {"error": {"message": "Incorrect API key"}}, "server_denied", "LORAKIT_API_KEY"),
    (403, {"error": "no"}, "server_denied", "no"),
    (404, {"error": {"message": "The model `tiny` does not exist"}}, "server_failed", "model="),
    (404, {"detail": "Not Found"}, "capability_missing", "Not Found"),
    (429, {"error": {"message": "slow down"}}, "queue_full", "in 7 seconds"),
    (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "server_denied", "pay"),
    (400, {"error": {"code": "context_length_exceeded", "message": "x"}}, "context_full", "x"),
    (400, {"message": "This model's maximum context length is 9 tokens"}, "context_full", "9"),
    (400, {"error": {"message": "temperature?"}}, "parameter_invalid", "temperature?"),
    (422, {"detail": [{"msg": "bad"}]}, "parameter_invalid", "bad"),
    (500, b"oops", "server_failed", "oops"),
    (503, {"error": {"message": "Loading model"}}, "server_failed", "loading"),
    (501, {"error": {"message": "no"}}, "capability_missing", "no"),
    (418, b"\x1b[31m\xff" * 99_999, "parameter_invalid", "\\x1b"),
    (500, b"", "server_failed", "status 500"),
]


@pytest.mark.parametrize(("status", "body", "code", "word"), REFUSALS)
def test_what_a_server_refuses_has_lorakits_codes(api, model, status, body, code, word):
    headers = {"Retry_After": "7"} if status == 429 else {}
    error = fails(api, model, lambda _: whole(body, status, **headers), code, word)
    assert len(str(error)) < 1500


def test_an_error_within_a_stream_is_one(api, model):
    said = {"error": {"code": 500, "message": "out of memory", "type": "server_error"}}
    fails(api, model, lambda body: events(text("a"), said), "server_failed", "out of memory")
    full = {"error": {"code": "context_length_exceeded", "message": "x"}}
    fails(api, model, lambda body: events(text("a"), full), "context_full")


def test_cancelling_ends_the_connection_and_so_the_generation(api):
    going = threading.Event()

    def answer(body):
        yield from events(text("a"), done=False)
        going.set()
        for _ in range(200):  # generates on, until nobody listens
            time.sleep(0.02)
            yield b"data: " + json.dumps(text("b")).encode() + b"\n\n"

    api.answers["/v1/completions"] = answer
    with open_remote(f"{api.url}/v1") as model:
        stream = model.stream("hello", lookahead=None)
        assert next(stream) == "a"
        assert going.wait(5)
        stream.cancel()
        assert api.left.wait(5)
        assert "b" in {*stream, "b"}
        with pytest.raises(lorakit.CancelledError):
            stream.result()
        api.left.clear()
        dropped = model.stream("hello", lookahead=None)
        assert next(dropped) == "a"
        del dropped
        assert api.left.wait(5)
        api.left.clear()
        waiting = model.stream("hello", lookahead=None)
        assert next(waiting) == "a"
    assert api.left.wait(5)  # closing the model ends them too
    with pytest.raises(lorakit.ClosedError):
        waiting.result()
    with pytest.raises(lorakit.ClosedError):
        model.complete("hello")


def test_what_is_cancelled_before_there_is_a_connection_asks_nothing(api, model, monkeypatch):
    true, stop = model._remote._connection, threading.Event()

    def late(deadline=None):
        stop.wait(30)
        return true(deadline)

    monkeypatch.setattr(model._remote, "_connection", late)
    stream = model.stream("hello")
    stream.cancel()
    stop.set()
    with pytest.raises(lorakit.CancelledError):
        stream.result()
    assert model.complete("hello").text == "ok"  # by a connection that is made after it
    assert len(api.of("/v1/completions")) == 1


def test_what_is_cancelled_while_it_connects_asks_nothing(api, model):
    link = model._remote._connection()
    link.abort()
    with pytest.raises(lorakit.CancelledError):
        link.ask(f"{api.url}/v1/completions", {"prompt": "x"})
    assert api.of("/v1/completions") == []


def test_without_ending_the_connection_a_server_would_generate_on(api, monkeypatch):
    """The broken variant of the test above."""
    monkeypatch.setattr("lorakit.remote.connection.Connection.abort", lambda self: None)
    gate = threading.Event()

    def answer(body):
        yield from events(text("a"), done=False)
        gate.wait(5)
        yield b": x\n"

    api.answers["/v1/completions"] = answer
    with open_remote(f"{api.url}/v1") as model:
        stream = model.stream("hello", lookahead=None)
        assert next(stream) == "a"
        stream.cancel()
        assert not api.left.wait(0.3)
        gate.set()


def test_a_busy_server_is_asked_again_by_a_batch_and_not_by_one_request(api, model):
    busy = iter([True, True, False, False])

    def answer(body):
        if next(busy, False):
            return whole({"error": {"message": "busy"}}, 429)
        return events(*GOOD)

    api.answers["/v1/completions"] = answer
    requests = [lorakit.Request(prompt="a"), lorakit.Request(prompt="b")]
    assert [one.text for one in model.batch(requests)] == ["ok", "ok"]
    api.answers["/v1/completions"] = lambda body: whole({}, 429)
    with pytest.raises(lorakit.QueueFullError):
        model.complete("c")
    with pytest.raises(lorakit.DeadlineError):
        model.batch(requests, timeout=0.3)


@pytest.mark.parametrize(
    ("asked", "rest"), [(7.0, 7.0), (None, turns.BACKOFF), (1e6, turns.LONGEST)]
)
def test_a_busy_server_rests_for_as_long_as_it_asks(monkeypatch, asked, rest):
    now = [0.0]

    def passes(room, deadline, most):
        now[0] += most

    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(turns, "wait", passes)
    queue = turns.Turns(1, 1)
    queue.wait_for_room(None, threading.Event())
    assert now == [0.0]
    queue.busy(asked)
    queue.wait_for_room(None, threading.Event())
    assert now == [rest]


def test_requests_beyond_the_queue_are_refused_and_those_in_it_have_deadlines(api):
    gate = threading.Event()
    api.answers["/v1/completions"] = lambda body: events(lambda: gate.wait(5), *GOOD)
    with open_remote(f"{api.url}/v1", max_batch=1, max_queue=1) as model:
        running = model.stream("one", lookahead=None)
        while not api.of("/v1/completions"):
            time.sleep(0.01)
        queued = model.stream("two", lookahead=None, timeout=0.3)
        with pytest.raises(lorakit.QueueFullError):
            model.complete("three")
        with pytest.raises(lorakit.DeadlineError):
            queued.result()
        gate.set()
        assert running.result().text == "ok"
        requests = [lorakit.Request(prompt="four")] * 9  # which a batch keeps until there is room
        assert [one.text for one in model.batch(requests)] == ["ok"] * 9


def test_a_request_that_gets_no_thread_fails_alone(api, model, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(300):  # more than may wait
            with pytest.raises(lorakit.EngineError, match="cannot begin"):
                model.complete("hello")
    assert model.complete("hello").text == "ok"


OPENINGS = {
    "no models": (whole({"object": "list", "data": []}), "parameter_invalid"),
    "two models": (whole({"data": [{"id": "a"}, {"id": "b"}]}), "parameter_invalid"),
    "a model without a name": (whole({"data": [{"object": "model"}]}), "server_invalid"),
    "a list that is none": (whole({"data": "tiny"}), "server_invalid"),
    "a page": (whole(b"<html>", kind="text/html"), "server_invalid"),
    "a page that says JSON": (whole(b"<html>", kind=JSON), "server_invalid"),
    "nothing": (whole({}, 404), "server_invalid"),
    "failing": (whole({}, 500), "server_failed"),
    "a key": (whole({}, 401), "server_denied"),
    "a redirect": (whole({}, 302, Location="http://127.0.0.1:1/"), "server_invalid"),
    "more than fits": (whole(b'["' + b"x" * (17 << 20), kind=JSON), "server_invalid"),
}


def test_of_an_answer_in_one_piece_no_more_is_read_than_it_may_have(api):
    big = itertools.chain([b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"],
                          itertools.repeat(b"x" * (1 << 20), 128))  # fmt: skip
    api.answers["/v1/models"] = lambda body: big
    with pytest.raises(lorakit.ServerError, match="more than"):
        open_remote(f"{api.url}/v1")
    assert api.left.wait(5)  # before it had sent all


def test_an_event_is_bounded_where_an_answer_may_be_long():
    pieces = itertools.repeat(b"data: " + b"x" * 1000 + b"\n")
    with pytest.raises(ProtocolError, match="an event of more than"):
        list(events_of(lambda: next(pieces), 1 << 40))


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_server_that_cannot_be_opened(api, opening):
    answer, code = OPENINGS[opening]
    pieces = list(answer)
    api.answers["/v1/models"] = lambda body: iter(pieces)
    with pytest.raises(LorakitError) as caught:
        open_remote(f"{api.url}/v1")
    assert caught.value.code == code


def test_nobody_listens():
    with pytest.raises(lorakit.ServerError) as caught:
        lorakit.open("http://127.0.0.1:9/v1")
    assert caught.value.code == "server_unreachable"


def test_the_fixture_itself_is_good(api, model):
    """Else every error above might come from it."""
    assert MODELS["data"][0]["id"] == model.name == "tiny"
    api.answers["/v1/chat/completions"] = lambda body: events(delta(content="hi"), delta("stop"))
    assert model.chat(HELLO).text == "hi"
