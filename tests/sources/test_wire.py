"""Servers that lie about lengths, never end, or drip: each is one error, after a bounded time."""

import itertools
import time

import pytest

from lorakit.errors import ParameterError, SourceError
from lorakit.sources import Limits, fetch
from lorakit.sources.transport import request
from lorakit.sources.wire import Patience
from web import raw_serving

OK = b"HTTP/1.1 200 OK\r\n"
QUICK = {"timeout": 1.0, "retries": 1, "backoff": 0.0, "rate_time": 0.2, "min_rate": 1000.0}


def ask(script, **limits):
    """What a download of such answers ends with, and how often it was tried."""
    with raw_serving(script) as server:
        try:
            path = fetch(f"{server.url}/x.gguf", limits=Limits(**{**QUICK, **limits}))
            return path.read_bytes(), len(server.heads)
        except SourceError as error:
            return str(error), len(server.heads)


def whole(*pieces):
    return lambda head: [b"".join(pieces)]


def body(headers, content=b"x"):
    return whole(OK, *(f"{line}\r\n".encode("latin-1") for line in headers), b"\r\n", content)


LENGTHS = [
    "9" * 5000, "-1", "+5", "0x5", "5.0", "1_0", "5 5", "", "five", "²", "\N{NBSP}5", "1" * 19,
    "1, 2", "-0",
]  # fmt: skip


@pytest.mark.parametrize("said", LENGTHS, ids=[repr(text)[:12] for text in LENGTHS])
def test_a_length_that_is_none_is_refused_at_once(cache, said):
    message, tries = ask(body([f"Content-Length: {said}"]))
    assert "Content-Length is not one number" in message
    assert tries == 1


def test_a_length_that_is_huge_is_too_large(cache):
    assert "too large" in ask(body(["Content-Length: " + "9" * 18]))[0]


def test_lengths_that_differ_are_refused_and_equal_ones_are_one(cache):
    assert "not one number" in ask(body(["Content-Length: 1", "Content-Length: 2"]))[0]
    assert ask(body(["Content-Length: 1", "Content-Length: 1"])) == (b"x", 1)
    assert ask(body(["Content-Length: 1, 1"])) == (b"x", 1)


def test_a_length_and_chunks_contradict_each_other(cache):
    said = ["Content-Length: 1", "Transfer-Encoding: chunked"]
    assert "announces a length and sends chunks" in ask(body(said, b"1\r\nx\r\n0\r\n\r\n"))[0]


@pytest.mark.parametrize("said", ["gzip", "gzip, chunked", "chunked, chunked", "x" * 5000])
def test_transfer_encodings_that_nobody_asked_for(cache, said):
    assert "transfer encoding" in ask(body([f"Transfer-Encoding: {said}"]))[0]


@pytest.mark.parametrize(
    "said",
    ["bytes 0-0/1", "bytes 5-9/10", "bytes 0-" + "9" * 5000 + "/*", "bytes +0-0/1",
     "bytes \u0660-\u0660/\u0661",
     "bytes 0-5/3", "bytes 9-0/10", "", "items 0-0/1"],
)  # fmt: skip
def test_a_part_that_was_not_asked_for_is_no_file(cache, said):
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: {said}\r\nContent-Length: 1\r\n\r\nx"
    message, tries = ask(whole(head.encode()))
    assert "another part" in message
    assert tries == 2


def broken_off(then):
    """Half of ten bytes with an ETag, then what `then` is for a request of the rest."""

    def script(head):
        if b"Range:" in head:
            return [then]
        return [OK + b'ETag: "1"\r\nContent-Length: 10\r\n\r\nabcde']

    return script


def part(said, content=b"fghij", length=None):
    length = len(content) if length is None else length
    return (
        f'HTTP/1.1 206 Partial Content\r\nETag: "1"\r\nContent-Range: {said}\r\n'
        f"Content-Length: {length}\r\n\r\n"
    ).encode() + content


def test_the_rest_of_a_file(cache):
    assert ask(broken_off(part("bytes 5-9/10"))) == (b"abcdefghij", 2)
    assert ask(broken_off(part("bytes 5-9/*"))) == (b"abcdefghij", 2)


@pytest.mark.parametrize(
    "lie",
    [part("bytes 5-9/10", length=4), part("bytes 5-8/10"), part("bytes 6-10/11"),
     part("bytes 5-9/9"), part("bytes 0-9/10"), part("bytes 5-9/10", length=6)],
)  # fmt: skip
def test_a_part_that_contradicts_itself_is_not_appended(cache, lie):
    result, _ = ask(broken_off(lie))
    assert isinstance(result, str)


def test_a_part_without_a_length_ends_where_it_says(cache):
    lie = b'HTTP/1.1 206 P\r\nETag: "1"\r\nContent-Range: bytes 5-9/10\r\n\r\nfghij and more'
    message, _ = ask(broken_off(lie), retries=0, min_rate=0.0)
    assert "where it announced 10" in message


@pytest.mark.parametrize(
    "line",
    [b"garbage", b"Content-Length : 1", b" Content-Length: 1", b": x", b"Con tent: x", b"X\x00: y",
     b"Content-Length\t: 1"],
)  # fmt: skip
def test_broken_headers_are_refused(cache, line):
    """Else what stands behind them, such as a length, would not be heeded."""
    message, tries = ask(whole(OK, line, b"\r\nContent-Length: 2\r\n\r\nx"))
    assert "headers are broken" in message
    assert tries == 1


@pytest.mark.parametrize("said", [["gzip"], ["identity", "gzip"], ["identity, gzip"], ["GZIP"]])
def test_compressions_that_nobody_asked_for(cache, said):
    lines = [f"Content-Encoding: {value}" for value in said]
    assert "compression" in ask(body([*lines, "Content-Length: 1"]))[0]
    assert ask(body(["Content-Encoding: Identity", "Content-Length: 1"])) == (b"x", 1)


ENDLESS = {
    "100 Continue": itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": itertools.repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "headers": itertools.chain([OK], itertools.repeat(b"X: y\r\n")),
    "a header": itertools.chain([OK, b"X: "], itertools.repeat(b"y" * 1000)),
    "a status line": itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"y" * 1000)),
    "folded lines": itertools.chain([OK, b"X: y\r\n"], itertools.repeat(b" y\r\n")),
    "no HTTP": itertools.repeat(b"\0" * 1000),
}


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS)
def test_what_never_comes_to_the_body_ends(cache, pieces):
    message, tries = ask(lambda head: pieces)
    assert "cannot fetch" in message
    assert tries == 1


def test_interim_responses_are_skipped(cache):
    interim = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert ask(whole(*interim, OK, b"Content-Length: 1\r\n\r\nx")) == (b"x", 1)


def dripping(begin, piece):
    def script(head):
        yield begin
        while True:
            time.sleep(0.01)
            yield piece

    return script


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "a status line": dripping(b"HTTP/1.1 ", b"2"),
    "headers": dripping(OK, b"X"),
    "a body": dripping(OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "a body without a length": dripping(OK + b"\r\n", b"x"),
    "chunks": dripping(CHUNKED, b"1\r\nx\r\n"),
    "the size of a chunk": dripping(CHUNKED + b"1", b";"),
    "what trails": dripping(CHUNKED + b"1\r\nx\r\n0\r\n", b"X"),
    "interim responses": dripping(b"", b"HTTP/1.1 100 C\r\n\r\n"),
}


@pytest.mark.parametrize("script", DRIPS.values(), ids=DRIPS)
def test_a_server_that_drips_for_ever_is_left(cache, script):
    message, tries = ask(script, min_rate=20_000.0)
    assert "bytes per second" in message or "interim" in message or "broken" in message
    assert tries <= 2


def test_without_a_least_rate_a_drip_has_no_end_but_the_deadline(cache):
    """The broken variant of the rate, and what stands behind it."""
    message, tries = ask(DRIPS["a body"], min_rate=0.0, deadline=0.8)
    assert "not done after 0.8 seconds" in message
    assert tries == 1


def test_bytes_that_come_one_to_a_connection_do_not_go_on_for_ever(cache):
    """Each connection brings a byte, which is no progress at the least rate."""

    def script(head):
        time.sleep(0.01)
        if b"Range:" not in head:
            return [OK + b'ETag: "1"\r\nContent-Length: 1000\r\n\r\nx']
        at = int(head.split(b"bytes=")[1].split(b"-")[0])
        return [part(f"bytes {at}-999/1000", b"x", 1000 - at)]

    _, tries = ask(script, retries=3, min_rate=20_000.0)
    assert tries == 4
    _, tries = ask(script, retries=3, min_rate=0.0, deadline=1.0)  # the broken variant
    assert tries > 10


def test_a_slow_reader_is_not_a_slow_server(cache):
    content = b"x" * 300_000
    with raw_serving(body([f"Content-Length: {len(content)}"], content)) as server:
        path = fetch(
            f"{server.url}/x.gguf",
            limits=Limits(**{**QUICK, "rate_time": 0.05, "min_rate": 1e6}),
            progress=lambda said: time.sleep(0.1),
        )
    assert path.read_bytes() == content


def chunks(*pieces):
    return whole(CHUNKED, *pieces)


def test_chunks(cache):
    assert ask(chunks(b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n", b"0\r\nX: y\r\n\r\n")) == (b"abcde", 1)
    assert ask(chunks(b"A\r\n0123456789\r\n0\r\n\r\n")) == (b"0123456789", 1)


@pytest.mark.parametrize(
    "pieces",
    [(b"-5\r\nabcde\r\n",), (b"0x5\r\nabcde\r\n",), (b"+5\r\nabcde\r\n",), (b"5_0\r\nabcde\r\n",),
     (b"f" * 16 + b"\r\nabc",), (b"f" * 70000,), (b"\r\n",), (b"3\r\nabcde\r\n0\r\n\r\n",),
     (b"3;" + b"y" * 70000 + b"\r\nabc",), (b"3\r\nabc0\r\n\r\n",)],
)  # fmt: skip
def test_broken_chunks_are_refused(cache, pieces):
    assert "chunk" in ask(chunks(*pieces))[0]


def test_a_chunk_larger_than_everything_is_bounded_by_what_is_allowed(cache):
    endless = itertools.chain([CHUNKED + b"f" * 15 + b"\r\n"], itertools.repeat(b"x" * 1000))
    assert "too large" in ask(lambda head: endless, max_bytes=100_000)[0]
    trailers = itertools.chain([CHUNKED + b"1\r\nx\r\n0\r\n"], itertools.repeat(b"X: y\r\n"))
    assert "cannot fetch" in ask(lambda head: trailers)[0]


def test_chunks_that_end_too_early_are_a_broken_connection(cache):
    for cut in (b"", b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r\n"):
        assert ask(chunks(cut))[1] > 1  # tried again


@pytest.mark.parametrize("wait", ["9" * 5000, "-1", "²", "Fri, 99 Foo 99999 99:99:99 GMT", "nan"])
def test_waits_that_are_asked_for_and_are_none(cache, wait):
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n"
    assert "503" in ask(whole(head.encode()))[0]


def test_an_etag_that_cannot_be_sent_back_is_not(cache):
    said = ['ETag: "a\x01b"', "Content-Length: 1"]
    with raw_serving(body(said)) as server:
        for _ in range(2):
            assert fetch(f"{server.url}/x.gguf").read_bytes() == b"x"
        assert b"If-None-Match" not in server.heads[1]


def test_nothing_modified_is_no_answer_to_a_request_that_did_not_ask(cache):
    """Else a server could answer a pinned hash with what it sent before."""
    with raw_serving(body(["Content-Length: 1", 'ETag: "1"'])) as server:
        url = f"{server.url}/x.gguf"
        fetch(url)
        server._script = whole(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        with pytest.raises(SourceError):
            fetch(f"{url}#sha256={'0' * 64}", limits=Limits(**QUICK))


def test_a_request_holds_nothing_that_would_begin_a_line():
    with pytest.raises(SourceError, match="cannot hold"):
        request("http://127.0.0.1:1/x", {"If-Range": "a\r\nX: y"}, Patience(limits=Limits()))


@pytest.mark.parametrize("name", [n for n in Limits.__slots__ if n != "max_bytes"])
@pytest.mark.parametrize("value", [-1, float("nan"), "1", None, True])
def test_limits_are_checked(name, value):
    with pytest.raises(ParameterError, match="limits") as caught:
        Limits(**{name: value})
    assert name in caught.value.items[0]


def test_all_limits_that_are_wrong_are_told_at_once():
    with pytest.raises(ParameterError) as caught:
        Limits(timeout=0, retries=1.5, deadline=float("inf"), max_bytes=-1)
    assert len(caught.value.items) == 4
