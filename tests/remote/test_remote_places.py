"""Where a remote model may be, what is sent there and what is never shown, and how it ends."""

import gc
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from api_server import api_serving, delta, events, text, whole

import lorakit
from lorakit.model.remote import open_remote
from lorakit.remote.server import names_server, server_of
from lorakit.sources import transport

TLS = Path(__file__).parents[1] / "data/tls"
KEY = "sk-very-secret-0123456789"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("LORAKIT_API_KEY", raising=False)


def good(**more):
    return api_serving(
        v1__completions=lambda body: events(text("ok", "stop")),
        v1__chat__completions=lambda body: events(delta("stop", content="ok")),
        **more,
    )


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("https://host/v1", True),
        ("HTTPS://host/v1", True),
        ("ftp://host/v1", False),
        ("https://host/v1/", True),
        ("http://localhost:8080/v1", True),
        ("https://host/a/b/v1", True),
        ("https://host/v1/model.gguf", False),
        ("https://host/v10", False),
        ("https://host/folder", False),
        ("/v1", False),
        ("hf:org/v1", False),
        (Path("/v1"), False),
        ("https://[bad/v1", False),
    ],
)
def test_a_url_of_an_api_is_told_from_that_of_a_file(reference, named):
    assert names_server(reference) is named


REFUSED = {
    "http to another machine": ("http://host.test/v1", {}, "this machine only"),
    "http to a private one": ("http://10.0.0.1/v1", {"allow_private": True}, "this machine only"),
    "a user name": ("https://me:pa55@host/v1", {}, "api_key="),
    "a query": ("https://host/v1?key=1", {}, "after [?] or #"),
    "another scheme": ("ftp://host/v1", {}, "http"),
    "no port": ("https://host:x/v1", {}, "cannot be read"),
    "a key of two lines": ("https://host/v1", {"api_key": f"{KEY}\r\nX: y"}, "printable"),
    "a key that is none": ("https://host/v1", {"api_key": 5}, "printable"),
    "no model": ("https://host/v1", {"model": 5}, "server's name"),
    "no queue": ("https://host/v1", {"max_queue": 0}, "max_queue"),
    "no batch": ("https://host/v1", {"max_batch": True}, "max_batch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_is_asked(monkeypatch, case):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail("asked"))
    url, options, word = REFUSED[case]
    with pytest.raises(lorakit.ParameterError, match=word) as caught:
        open_remote(url, **options)
    assert KEY not in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_a_private_network_needs_the_callers_word(monkeypatch):
    asked = []

    def connect(self, place):
        asked.append(place[0])
        raise ConnectionRefusedError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(lorakit.ServerError, match="allow_private=True") as caught:
        lorakit.open("https://host.test/v1")
    assert caught.value.code == "server_unreachable"
    assert asked == []
    with pytest.raises(lorakit.ServerError):
        lorakit.open("https://host.test/v1", allow_private=True)
    assert asked == ["10.0.0.1"]


def test_options_of_engines_and_of_servers_are_not_mixed():
    with good() as api:
        for wrong in ({"quantize": "int8"}, {"threads": 2}, {"mmproj": "a.gguf"}, {"context": 9}):
            with pytest.raises(lorakit.ParameterError, match="in this process"):
                lorakit.open(f"{api.url}/v1", **wrong)
        assert api.asked == []
        with lorakit.open(f"{api.url}/v1", max_batch=3, max_queue=5) as model:
            assert model.capabilities.max_batch == 3
    for wrong in ({"api_key": "k"}, {"model": "m"}, {"tokenizer": "t"}):
        with pytest.raises(lorakit.ParameterError, match="for a server"):
            lorakit.open("a/folder", **wrong)


def test_a_url_that_ends_in_something_else_is_an_api_where_it_is_said():
    with api_serving(
        other__models=lambda body: whole({"data": [{"id": "m"}]}),
        other__completions=lambda body: events(text("ok", "stop")),
    ) as api:
        with lorakit.open(f"{api.url}/other", engine="api") as model:
            assert model.complete("x").text == "ok"
        with pytest.raises(lorakit.SourceError):
            lorakit.open(f"{api.url}/other")


# The key.


def test_the_key_is_sent_to_its_server_and_shown_nowhere(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    seen = []
    refusal = {"error": {"message": f"bad key {KEY} given", "code": "x"}}
    with good() as api:
        with open_remote(f"{api.url}/v1", api_key=KEY) as model:
            assert model.complete("x").text == "ok"
            seen += [repr(model), repr(model._remote.server), str(model._remote.server)]
            for status in (401, 400, 404, 429, 500):
                api.answers["/v1/completions"] = lambda body, s=status: whole(refusal, s)
                with pytest.raises(lorakit.LorakitError) as caught:
                    model.complete("x")
                seen += [str(caught.value), repr(caught.value)]
                assert "***" in str(caught.value)
            said = f'data: {{"error": "{KEY}"}}\n\n'.encode()
            for lie in (said, f"data: {KEY}\n\n".encode(), f'data: "{KEY}"\n\n'.encode()):
                api.answers["/v1/completions"] = lambda body, lie=lie: events(lie)
                with pytest.raises(lorakit.LorakitError) as caught:
                    model.complete("x")
                seen += [str(caught.value), repr(caught.value)]
        monkeypatch.setenv("LORAKIT_API_KEY", f" {KEY}\n")
        lorakit.open(f"{api.url}/v1").close()
        monkeypatch.setenv("LORAKIT_API_KEY", "")
        lorakit.open(f"{api.url}/v1").close()
        lorakit.open(f"{api.url}/v1", api_key="").close()
        heads = [one.head for one in api.asked]
    line = f"Authorization: Bearer {KEY}\r\n".encode()
    assert [line in head for head in heads[-3:]] == [True, False, False]
    assert all(line in head for head in heads[:-2])
    assert not [said for said in [*seen, caplog.text] if KEY in said]


def test_a_server_that_has_no_key_says_how_to_give_one():
    with (
        good(v1__models=lambda body: whole({"error": {"message": "no key"}}, 401)) as api,
        pytest.raises(lorakit.ServerError, match="LORAKIT_API_KEY"),
    ):
        lorakit.open(f"{api.url}/v1")


# Encrypted.


@pytest.fixture
def trusted(monkeypatch):
    """The certificate of the tests."""
    context = ssl.create_default_context(cafile=TLS / "cert.pem")
    monkeypatch.setattr(transport, "_tls", lambda: context)


def test_an_encrypted_server_streams_and_is_cancelled(trusted):
    gate = threading.Event()

    def answer(body):
        yield from events(text("a"), done=False)
        gate.wait(10)
        yield from [b": x\n\n"] * 1000

    with good(tls=TLS) as api, open_remote(f"{api.url}/v1") as model:
        assert api.url.startswith("https://")
        assert model.chat(HELLO).text == "ok"
        api.answers["/v1/completions"] = answer
        stream = model.stream("x", lookahead=None)
        assert next(stream) == "a"
        stream.cancel()
        assert list(stream) == []
        gate.set()
        assert api.left.wait(5)
        api.answers["/v1/completions"] = lambda body: events(text("ok", "stop"))
        assert model.complete("x").text == "ok"


def test_a_certificate_that_is_not_valid_is_said_to_be():
    with good(tls=TLS) as api, pytest.raises(lorakit.ServerError, match="certificate") as caught:
        open_remote(f"{api.url}/v1")
    assert caught.value.code == "server_unreachable"


# What it is, and how it ends.


def test_it_is_a_model_that_says_what_it_has_not():
    with good() as api, open_remote(f"{api.url}/v1") as model:
        assert isinstance(model, lorakit.Model)
        assert repr(model) == f"<Model 'tiny' on {api.url}/v1, no adapters>"
        about = model.capabilities
        assert (about.engine, about.context, about.vocabulary) == ("api", 0, 0)  # nobody said
        for what in (
            lambda: model.base,
            lambda: model.tokenizer,
            lambda: model.encode("x"),
            lambda: model.encode(model.chat_prompt(HELLO)),
            lambda: model.complete([1, 2]),
            lambda: model.logits("x"),
            lambda: model.embed(model.chat_prompt(HELLO)),
            lambda: model.save_state("x", "state"),
            lambda: model.load_state("state"),
        ):
            with pytest.raises(lorakit.CapabilityError) as caught:
                what()
            assert caught.value.hint
        with pytest.raises(AttributeError):
            model.nothing  # noqa: B018
        for wrong in ({"timeout": 0}, {"adapters": ["x"]}, {"temperature": -1}):
            with pytest.raises((lorakit.ParameterError, lorakit.UnknownAdapterError)):
                model.complete("x", **wrong)
        for wrong in (5, b"x", [[1]], HELLO):
            with pytest.raises((lorakit.ParameterError, lorakit.CapabilityError)):
                model.complete(wrong)
        with pytest.raises(lorakit.ParameterError):
            model.stream("x", lookahead=-1)
        assert len(api.asked) == 1


def test_several_choices_are_several_requests():
    with good() as api, open_remote(f"{api.url}/v1") as model:
        completion = model.complete("x", n=2, seed=5, temperature=1.0)
        assert [one.text for one in completion.choices] == ["ok", "ok"]
        assert sorted(one.body["seed"] for one in api.of("/v1/completions")) == [5, 6]
        reply = model.chat(HELLO, n=2)
        assert [one.text for one in reply.choices] == ["ok", "ok"]


def test_a_conversation_is_not_shortened_where_a_server_counts_its_tokens():
    with good() as api, open_remote(f"{api.url}/v1") as model:
        assert model.session().send("hello").text == "ok"
        with pytest.raises(lorakit.CapabilityError, match="server counts"):
            model.session(when_full="drop").send("hello")


def test_a_reader_that_pauses_is_not_run_ahead_of():
    with good() as api, open_remote(f"{api.url}/v1") as model:
        pieces = [text(word) for word in "abcdef"]
        api.answers["/v1/completions"] = lambda body: events(*pieces, text("", "stop"))
        stream = model.stream("x")
        assert next(stream) == "a"
        assert not stream._generation._unread
        assert "".join(stream) == "bcdef"
        assert stream.result().finish_reason == "stop"


def test_a_model_that_nobody_has_ends_its_requests():
    with good() as api:
        api.answers["/v1/completions"] = lambda body: events(
            text("a"), *[lambda: threading.Event().wait(0.02), b": x\n\n"] * 500
        )
        model = open_remote(f"{api.url}/v1")
        stream = model.stream("x", lookahead=None)
        assert next(stream) == "a"
        gone, remote = weakref.ref(model), model._remote
        del model
        gc.collect()
        assert gone() is not None  # a stream keeps its model
        del stream
        gc.collect()
        assert gone() is None
        assert remote.closed
        assert api.left.wait(5)


def test_closed_is_closed():
    with good() as api:
        model = open_remote(f"{api.url}/v1")
        model.close()
        model.close()
        assert model.closed
        assert "closed" in repr(model)
        for what in (
            lambda: model.complete("x"),
            lambda: model.load_adapter("x"),
            lambda: model.apply({}),
            lambda: model.stream(HELLO),
        ):
            with pytest.raises(lorakit.ClosedError):
                what()


FORKED = """
import os, sys
import lorakit
model = lorakit.open(sys.argv[1])
assert model.complete("x").text == "ok"
if (child := os.fork()) == 0:
    try:
        model.complete("x")
    except lorakit.ClosedError as error:
        os._exit("forked" in str(error))
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
print(model.complete("x").text)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX's")
def test_in_a_forked_child_it_is_closed_and_the_parent_goes_on():
    with good() as api:
        done = subprocess.run(
            [sys.executable, "-c", FORKED, f"{api.url}/v1"], capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("ok\n", "")


def test_a_server_is_a_value_that_hides_its_key():
    server = server_of("https://HOST/v1/", KEY)
    assert (server.base, server.root) == ("https://host/v1", "https://host")
    assert KEY not in repr(server)
    assert server.without_key(f"a {KEY} b {KEY}") == "a *** b ***"
    for cut in range(8, len(KEY)):  # where a message was cut short
        assert server.without_key(f"{KEY[:cut]}...") == "***..."
    for key in ("*", "****", "a", "aa", '"\\"'):
        assert server_of("https://h/v1", key).without_key(f"x{key}y") == "x***y"
