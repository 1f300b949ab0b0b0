"""Where nothing is fetched from: this machine and its network, whatever the spelling, the redirect
or the name server says. "public.test" is a name of ours whose address a test makes public."""

import ipaddress
import itertools
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest

from folders import DATA
from lorakit.errors import ParameterError, SourceError
from lorakit.sources import Limits, address, fetch, transport
from lorakit.sources.address import AddressError, Allowed, connect, fault_of_text, reach
from lorakit.sources.transport import UnreachableError, request
from lorakit.sources.wire import Patience
from web import raw_serving

TLS = DATA / "tls"
PUBLIC = "127.0.0.2"  # of this machine in truth; see `names`
LIMITS = Limits(timeout=5.0, retries=0, backoff=0.0)
FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGGUF"

REACH = {
    "public": ["1.1.1.1", "8.8.8.8", "100.63.0.1", "172.32.0.1", "192.167.0.1", "223.255.255.1",
               "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808", "::ffff:8.8.8.8"],
    "loopback": ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
                "100.64.0.1", "100.127.255.255", "192.0.0.1", "198.18.0.1", "192.88.99.1",
                "fe80::1", "fe80::1%eth0", "fc00::1", "fdab::1", "fec0::1", "2001::1",
                "2001:db8::1", "2002:a00:1::", "64:ff9b::a00:1", "64:ff9b:1::1",
                "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::10.0.0.1", "100::1", "5f00::1"],
    "never": ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
              "::", "ff02::1", "::ffff:0.0.0.0", "64:ff9b::"],
}  # fmt: skip
CASES = [(text, kind) for kind, texts in REACH.items() for text in texts]


@pytest.mark.parametrize(("text", "kind"), CASES, ids=[text for text, _ in CASES])
def test_where_an_address_leads(text, kind):
    assert reach(ipaddress.ip_address(text)) == kind


def test_pythons_own_word_would_let_some_through():
    """The broken variant: `is_global` takes multicast for public."""
    assert ipaddress.ip_address("224.0.0.1").is_global


def resolve_to(monkeypatch, *texts):
    """Every name has these addresses; what is connected to is noted, and refuses."""
    asked = []

    def getaddrinfo(host, port, *args, **options):
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (kinds[ipaddress.ip_address(t).version], socket.SOCK_STREAM, 6, "", (t, port))
            for t in texts
        ]

    def refuse(self, place):
        asked.append(place[0])
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.mark.parametrize("text", [t for t, kind in CASES if kind != "public" and "%" not in t])
def test_a_name_with_such_an_address_is_not_connected_to(cache, monkeypatch, text):
    asked = resolve_to(monkeypatch, text)
    with pytest.raises(SourceError, match=r"is (an|the) address of") as caught:
        fetch("https://host.test/x.gguf", limits=LIMITS)
    assert caught.value.code == "source_unreachable"
    never = "no single machine" in caught.value.message  # which no word of the caller allows
    assert ("allow_private" in caught.value.hint) is not never
    assert asked == []


def test_of_several_addresses_only_public_ones_are_tried(cache, monkeypatch):
    asked = resolve_to(monkeypatch, "10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111")
    with pytest.raises(SourceError, match="refused"):
        fetch("https://host.test/x.gguf", limits=LIMITS)
    assert asked == ["1.1.1.1", "2606:4700::1111"]


def test_without_the_check_they_are_connected_to(cache, monkeypatch):
    """The broken variant: the same fetch with a check that lets everything through."""
    asked = resolve_to(monkeypatch, "10.0.0.1", "::1")
    monkeypatch.setattr(Allowed, "fault", lambda self, found: "")
    with pytest.raises(SourceError, match="refused"):
        fetch("https://host.test/x.gguf", limits=LIMITS)
    assert asked == ["10.0.0.1", "::1"]


def test_private_ones_are_connected_to_where_they_are_asked_for(cache, monkeypatch):
    asked = resolve_to(monkeypatch, "10.0.0.1", "0.0.0.0", "224.0.0.1")
    with pytest.raises(SourceError, match="refused"):
        fetch("https://host.test/x.gguf", limits=LIMITS, allow_private=True)
    assert asked == ["10.0.0.1"]


SPELLINGS = ["2130706433", "127.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "localhost.",
             "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "169.254.169.254", "[::]", "0",
             "0.0.0.0", "[fe80::1]", "[64:ff9b::10.0.0.1]",
             "\uff11\uff12\uff17.0.0.1", "10.0.0.1:443",
             "127\u30020\u30020\u30021"]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_url_leads_there_by_no_spelling(cache, monkeypatch, host):
    """The resolver of the system is asked, as it is for every name."""
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, place: asked.append(place))
    for scheme in ("http", "https"):
        with pytest.raises((SourceError, ParameterError)):
            fetch(f"{scheme}://{host}/x.gguf", limits=Limits(retries=0, timeout=1.0))
    assert asked == []


@pytest.mark.parametrize("url", ["https://1.1.1.1@127.0.0.1/x", "https://h\\@127.0.0.1/x",
                                 "https://user:word@host/x", "https://@host/x"])  # fmt: skip
def test_user_names_in_urls_are_refused(cache, no_network, url):
    with pytest.raises(ParameterError):
        fetch(url)


@pytest.fixture
def names(monkeypatch):
    """Name servers of ours, real TLS, and an address that counts as public; the names can change.

    Yields the table of names; what is connected to is noted under "asked".
    """
    table = {"public.test": [PUBLIC], "other.test": [PUBLIC], "asked": []}
    table["localhost."] = ["127.0.0.1"]  # which not every system's resolver knows
    resolve, dial = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host, port, *args, **options):
        found = table.get(host)
        if found is None:
            return resolve(host, port, *args, **options)
        chosen = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (chosen, port))]

    def noted(self, place):
        table["asked"].append(place[0])
        return dial(self, place)

    real = address.reach

    def pretended(found):
        return "public" if str(found) == PUBLIC else real(found)

    context = ssl.create_default_context(cafile=TLS / "cert.pem")
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setattr(address, "reach", pretended)
    monkeypatch.setattr(transport, "reach", pretended)
    monkeypatch.setattr(transport, "_tls", lambda: context)
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return table


def to(location):
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def public(script):
    return raw_serving(script, host=PUBLIC, tls=TLS)


def get(url, **options):
    return fetch(url, limits=LIMITS, **options).read_bytes()


def test_a_name_is_resolved_once_and_that_address_is_asked(cache, names):
    """A name server that changes its answer after the check gains nothing: there is no second."""
    with public(lambda head: [FILE]) as server:
        names["public.test"] = [PUBLIC, "127.0.0.1"]
        url = f"https://public.test:{server.port}/x.gguf"
        assert get(url) == b"GGUF"
        assert names["asked"] == [PUBLIC]
        assert f"Host: public.test:{server.port}\r\n".encode() in server.heads[0]
        with pytest.raises(SourceError, match="address of this machine"):
            get(url)
        assert names["asked"] == [PUBLIC]


def test_a_certificate_is_compared_with_the_name(cache, names):
    names["wrong.test"] = [PUBLIC]
    with (
        public(lambda head: [FILE]) as server,
        pytest.raises(SourceError, match="certificate is not valid"),
    ):
        get(f"https://wrong.test:{server.port}/x.gguf")


@pytest.mark.parametrize(
    "place",
    ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "2130706433", "127.1",
     "0.0.0.0", "[::ffff:127.0.0.1]", "inner.test", "localhost."],
)  # fmt: skip
@pytest.mark.parametrize("private", [False, True])
def test_a_public_server_redirects_to_no_inner_one(cache, names, place, private):
    names["inner.test"] = ["127.0.0.1"]
    with (
        public(lambda head: [to(f"https://{place}/x.gguf")]) as server,
        pytest.raises(SourceError, match="address"),
    ):
        get(f"https://public.test:{server.port}/x.gguf", allow_private=private)
    assert names["asked"] == [PUBLIC]


def test_a_redirect_between_public_servers_is_followed(cache, names):
    with public(lambda head: [FILE]) as last:
        place = f"https://other.test:{last.port}/y.gguf"
        with public(lambda head: [to(place)]) as first:
            assert get(f"https://public.test:{first.port}/x.gguf") == b"GGUF"


def test_a_public_server_redirects_to_no_http_one(cache, names):
    with (
        public(lambda head: [to("http://127.0.0.1/x.gguf")]) as server,
        pytest.raises(SourceError, match="no https URL"),
    ):
        get(f"https://public.test:{server.port}/x.gguf")


def test_this_machine_redirects_only_to_the_server_that_was_named(cache, names):
    with raw_serving(lambda head: [FILE]) as other:
        inner = f"{other.url}/x.gguf"

        def script(head):
            return [FILE if b"/y" in head else to(inner if b"/x" in head else "/y.gguf")]

        with raw_serving(script) as server:
            assert get(f"{server.url}/a.gguf") == b"GGUF"
            with pytest.raises(SourceError, match="address of this machine"):
                get(f"{server.url}/x.gguf")
        assert other.heads == []


def test_this_machine_may_redirect_to_a_public_server_but_that_one_not_back(cache, names):
    with raw_serving(lambda head: [FILE]) as inner, public(lambda head: [FILE]) as server:
        outer = f"https://public.test:{server.port}/x.gguf"
        with raw_serving(lambda head: [to(outer)]) as first:
            assert get(f"{first.url}/x.gguf") == b"GGUF"
        server._script = lambda head: [to(f"https://127.0.0.1:{inner.port}/x.gguf")]
        with (
            raw_serving(lambda head: [to(outer)]) as first,
            pytest.raises(SourceError, match="address of this machine"),
        ):
            get(f"{first.url}/y.gguf")
        assert inner.heads == []


def test_a_private_server_that_was_asked_for_may_redirect_to_another(cache, names, monkeypatch):
    monkeypatch.setattr(address, "reach", lambda found: "private")
    monkeypatch.setattr(transport, "reach", lambda found: "private")
    with public(lambda head: [FILE]) as last:
        place = f"https://other.test:{last.port}/y.gguf"
        with public(lambda head: [to(place)]) as first:
            url = f"https://public.test:{first.port}/x.gguf"
            assert get(url, allow_private=True) == b"GGUF"
            with pytest.raises(SourceError, match="private network"):
                get(url + "2.gguf")


def test_redirects_have_an_end(cache):
    with raw_serving(lambda head: [to(f"/{len(server.heads)}.gguf")]) as server:
        with pytest.raises(SourceError, match="more than 8 times"):
            get(f"{server.url}/x.gguf")
        assert len(server.heads) == 8


def test_a_redirect_to_several_places_leads_nowhere(cache):
    both = b"HTTP/1.1 302 Found\r\nLocation: /y.gguf\r\nLocation: https://10.0.0.1/\r\n\r\n"
    with raw_serving(lambda head: [both]) as server:
        with pytest.raises(SourceError, match="several places"):
            get(f"{server.url}/x.gguf")
        assert len(server.heads) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\nGGUF", FILE])
def test_a_line_that_is_cut_is_not_the_end_of_a_body_without_a_length(cache, names, head):
    """The server of these tests says no goodbye in TLS, as somebody who cuts the line would not."""
    with public(lambda _: [head]) as server:
        url = f"https://public.test:{server.port}/x.gguf"
        if head is FILE:
            assert get(url) == b"GGUF"
        else:
            with pytest.raises(SourceError, match=r"EOF|ended"):
                get(url)


def test_http_to_localhost_is_to_this_machine_whatever_the_name_server_says(cache, monkeypatch):
    asked = resolve_to(monkeypatch, "1.1.1.1", "10.0.0.1")
    for private in (False, True):
        with pytest.raises(SourceError):
            fetch("http://localhost/x.gguf", limits=LIMITS, allow_private=private)
    assert asked == []


def test_an_ipv6_server_of_this_machine(cache):
    try:
        with raw_serving(lambda head: [FILE], host="::1", family=socket.AF_INET6) as server:
            assert get(f"{server.url}/x.gguf") == b"GGUF"
            assert f"Host: [::1]:{server.port}\r\n".encode() in server.heads[0]
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@contextmanager
def proxy(monkeypatch, script):
    with raw_serving(script) as server:
        monkeypatch.setenv("https_proxy", server.url)
        yield server


def refusing(head):
    return [b"HTTP/1.1 403 No\r\n\r\n"]


def test_behind_a_proxy_it_is_said_that_nothing_is_known(cache, names, monkeypatch, caplog):
    with proxy(monkeypatch, refusing) as server:
        with pytest.raises(SourceError, match=r"the proxy 127\.0\.0\.1 answers 403"):
            get("https://public.test/x.gguf")
        assert server.heads[0].startswith(b"CONNECT public.test:443 HTTP/1.1\r\n")
    assert "whether its address is a private one is not known" in caplog.text


def test_a_file_through_a_proxy(cache, names, monkeypatch):
    """What the proxy says ends before TLS begins; the file is that of the server."""
    with public(lambda head: [FILE]) as server:
        url = f"https://public.test:{server.port}/x.gguf"
        with tunnel(server.port) as place:
            monkeypatch.setenv("https_proxy", place)
            assert get(url) == b"GGUF"
        assert len(server.heads) == 1


@contextmanager
def tunnel(port):
    """A proxy that connects to one server, whatever it is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            client, _ = listener.accept()
            with client, socket.create_connection((PUBLIC, port)) as server:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 200 Established\r\n\r\n")
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def pump(source, target):
    with suppress(OSError):
        while piece := source.recv(4096):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("host", [*SPELLINGS, "a.localhost", "192.168.0.1"])
def test_a_proxy_is_asked_for_no_address_of_this_network(cache, names, monkeypatch, host):
    with proxy(monkeypatch, refusing) as server:
        with pytest.raises(SourceError):
            get(f"https://{host}/x.gguf")
        assert server.heads == []


def test_a_proxy_that_never_ends_its_answer(cache, names, monkeypatch):
    endless = itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X: y\r\n"))
    with (
        proxy(monkeypatch, lambda head: endless),
        pytest.raises(SourceError, match="cannot fetch"),
    ):
        get("https://public.test/x.gguf")


def test_proxies_of_other_kinds_are_refused(cache, names, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(SourceError, match="socks5 are not supported"):
        get("https://public.test/x.gguf")
    assert names["asked"] == []


def test_a_socket_is_connected_by_address(monkeypatch):
    asked = resolve_to(monkeypatch, "10.0.0.1")
    with pytest.raises(AddressError):
        connect("host", 443, Allowed(), 1.0)
    with pytest.raises(ConnectionRefusedError):
        connect("host", 443, Allowed(private=True), 1.0)
    assert asked == ["10.0.0.1"]
    assert fault_of_text("10.0.0.1", Allowed(private=True)) == ""


def test_https_needs_the_servers_word(cache, names):
    """A server that speaks no TLS is no https server."""
    with raw_serving(lambda head: [FILE], host=PUBLIC) as server, pytest.raises(UnreachableError):
        request(f"https://public.test:{server.port}/x", {}, Patience(limits=Limits(timeout=0.3)))


def test_a_cut_line_is_an_error_of_tls_whatever_python_sets(monkeypatch):
    """Python before 3.11.4 sets the option that hides it."""
    create = ssl.create_default_context

    def old():
        context = create()
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        return context

    assert old().options & ssl.OP_IGNORE_UNEXPECTED_EOF
    monkeypatch.setattr(ssl, "create_default_context", old)
    transport._tls.cache_clear()
    try:
        assert not transport._tls().options & ssl.OP_IGNORE_UNEXPECTED_EOF
    finally:
        transport._tls.cache_clear()
