"""Downloads from a server that breaks off, stalls, lies, redirects and changes its mind."""

import hashlib
import json
import threading

import pytest

from lorakit.errors import SourceError, WriteError
from lorakit.sources import Limits, fetch
from lorakit.sources.download import Download
from lorakit.sources.transport import _target
from web import FAST

BODY = bytes(range(256)) * 2000  # 512 kB, more than a socket takes at once
HALF = len(BODY) // 2


def get(url, **options):
    limits = Limits(**{**FAST, **options.pop("limits", {})})
    return fetch(url, limits=limits, **options)


def code_of(url, **options):
    with pytest.raises(SourceError) as caught:
        get(url, **options)
    return caught.value.code


def partials(cache):
    folder = cache / "downloads/partial"
    return [path for path in folder.iterdir() if not path.suffix] if folder.is_dir() else []


def test_a_file_arrives_under_its_name(web):
    path = get(web.put("/a/home.gguf", BODY))
    assert path.name == "home.gguf"
    assert path.read_bytes() == BODY


def test_the_same_url_again_is_asked_for_by_its_etag(web):
    url = web.put("/x.gguf", BODY)
    assert get(url) == get(url)
    assert "If-None-Match" in web.asked["/x.gguf"][1]
    web.put("/x.gguf", b"new")
    assert get(url).read_bytes() == b"new"


def test_progress_is_told_and_nothing_is_printed(web, capfd):
    told = []
    get(web.put("/x.gguf", BODY), progress=told.append)
    assert told[0].done == 0
    assert told[-1].done == told[-1].total == len(BODY)
    assert {p.file for p in told} == {"x.gguf"}
    assert capfd.readouterr() == ("", "")


def test_a_broken_connection_is_continued(web, cache):
    url = web.put("/x.gguf", BODY, cut=[1000, HALF, None])
    assert get(url).read_bytes() == BODY
    asked = web.asked["/x.gguf"]
    assert [a.get("Range") for a in asked] == [None, "bytes=1000-", f"bytes={1000 + HALF}-"]
    assert "If-Range" in asked[1]
    assert partials(cache) == []


def test_a_download_goes_on_where_an_earlier_call_stopped(web, cache):
    url = web.put("/x.gguf", BODY, cut=[HALF, 0])
    assert code_of(url) == "source_unreachable"
    assert [path.stat().st_size for path in partials(cache)] == [HALF]
    web.put("/x.gguf", BODY)
    assert get(url).read_bytes() == BODY
    assert web.asked["/x.gguf"][-1]["Range"] == f"bytes={HALF}-"


def test_what_progress_raises_ends_it_and_keeps_the_part(web, cache):
    url = web.put("/x.gguf", BODY)

    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(url, progress=stop)
    assert 0 < partials(cache)[0].stat().st_size < len(BODY)
    assert get(url).read_bytes() == BODY
    assert web.asked["/x.gguf"][-1]["Range"]


def broken_off(web, cache, at=HALF):
    """A URL of which a part is there, and the file of the part."""
    url = web.put("/x.gguf", BODY, cut=[at, 0])
    assert code_of(url) == "source_unreachable"
    (part,) = partials(cache)
    web.put("/x.gguf", BODY)
    return url, part


def flip(path, at=100):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda part: flip(part, HALF - 1),
        lambda part: part.write_bytes(b"x"),
        lambda part: flip(part.with_name(f"{part.name}.json"), -4),
        lambda part: part.with_name(f"{part.name}.json").unlink(),
        lambda part: part.with_name(f"{part.name}.json").write_text("[]"),
    ],
)
def test_a_damaged_part_is_not_continued(web, cache, damage):
    url, part = broken_off(web, cache)
    damage(part)
    assert get(url).read_bytes() == BODY
    assert "Range" not in web.asked["/x.gguf"][-1]


def test_without_the_hash_of_a_part_it_would_be(web, cache, monkeypatch):
    """The broken variant: the damage comes into the file, and nobody is told."""
    url, part = broken_off(web, cache)
    flip(part)
    note = part.with_name(f"{part.name}.json")
    values = json.loads(note.read_text())
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    note.write_text(json.dumps({**values, "sha256": found}))
    assert get(url).read_bytes() != BODY


def test_what_came_after_the_last_note_of_a_killed_process_is_cut_off(web, cache):
    url, part = broken_off(web, cache)
    with part.open("ab") as file:
        file.write(b"half a piece")
    assert get(url).read_bytes() == BODY
    assert web.asked["/x.gguf"][-1]["Range"] == f"bytes={HALF}-"


def test_a_part_is_noted_on_the_way(web, cache, monkeypatch):
    """So that a process that is killed loses no more than that."""
    monkeypatch.setattr("lorakit.sources.download.NOTED", 100_000)
    noted = []
    real = Download._write_note
    monkeypatch.setattr(
        Download, "_write_note", lambda self, size: noted.append(size) or real(self, size)
    )
    get(web.put("/x.gguf", BODY))
    assert len(noted) >= len(BODY) // 200_000
    assert noted == sorted(noted)


def test_what_a_disk_makes_of_a_body_is_compared_with_the_body(web, cache, monkeypatch):
    real = Download._finish

    def damaged(self, etag):
        if len(web.asked["/x.gguf"]) == 1:
            flip(self.partial)
        return real(self, etag)

    monkeypatch.setattr(Download, "_finish", damaged)
    assert get(web.put("/x.gguf", BODY)).read_bytes() == BODY
    assert len(web.asked["/x.gguf"]) == 2


def test_a_file_that_changed_meanwhile_is_begun_again(web):
    url = web.put("/x.gguf", BODY, cut=[HALF, 0])
    assert code_of(url) == "source_unreachable"
    web.put("/x.gguf", BODY[::-1])
    assert get(url).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("option", ["ranges", "if_range"])
def test_a_server_that_ignores_what_was_asked_is_survived(web, option):
    """It sends the whole file, or a part of another one."""
    url = web.put("/x.gguf", BODY, cut=[HALF, 0])
    assert code_of(url) == "source_unreachable"
    web.put("/x.gguf", BODY[::-1], **{option: False})
    assert get(url).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_nothing_is_continued(web, etag):
    url = web.put("/x.gguf", BODY, cut=[HALF, None], etag=etag)
    assert get(url).read_bytes() == BODY
    assert "Range" not in web.asked["/x.gguf"][1]


def test_a_server_that_stalls_is_left(web):
    url = web.put("/x.gguf", BODY, cut=[HALF, None], stall=[0.6, 0.0])
    assert get(url, limits={"timeout": 0.15}).read_bytes() == BODY


def test_a_length_that_is_too_long_is_a_broken_connection(web):
    url = web.put("/x.gguf", BODY, announce=len(BODY) + 5, etag=None)
    assert code_of(url) == "source_unreachable"


def test_more_than_was_announced_is_refused(web, cache):
    url = web.put("/x.gguf", BODY, announce=HALF)
    with pytest.raises(SourceError, match="more than the") as caught:
        get(url)
    assert caught.value.code == "source_unreachable"
    assert partials(cache) == []
    assert len(web.asked["/x.gguf"]) == 1


@pytest.mark.parametrize("cut", [[None], [1000, None]])
def test_a_body_in_chunks_has_no_length(web, cut):
    url = web.put("/x.gguf", BODY, chunked=True, cut=cut)
    if len(cut) == 1:
        assert get(url).read_bytes() == BODY
    else:
        web.pages["/x.gguf"].ranges = False
        assert get(url).read_bytes() == BODY


def test_sizes_are_capped_by_header_and_while_reading(web, cache):
    small = {"max_bytes": 1000}
    assert code_of(web.put("/x.gguf", BODY), limits=small) == "source_too_large"
    url = web.put("/y.gguf", BODY, chunked=True)
    assert code_of(url, limits=small) == "source_too_large"
    assert partials(cache) == []


def test_a_hash_is_checked_and_needs_no_request_when_it_is_here(web, cache):
    url = web.put("/x.gguf", BODY)
    good, bad = (f"{url}#sha256={hashlib.sha256(b).hexdigest()}" for b in (BODY, b"other"))
    assert code_of(bad) == "source_mismatch"
    assert partials(cache) == []
    assert not list((cache / "downloads").glob("blobs/*"))
    assert get(good).read_bytes() == BODY
    asked = web.count
    path = get(good)
    assert web.count == asked
    (blob,) = (cache / "downloads/blobs").iterdir()
    blob.write_bytes(b"damaged")
    path.unlink(missing_ok=True)
    assert get(good).read_bytes() == BODY


def test_what_passes_is_tried_again(web):
    assert get(web.put("/x.gguf", BODY, statuses=[500, 503, 200])).read_bytes() == BODY
    headers = {"Retry-After": "0"}
    url = web.put("/y.gguf", BODY, statuses=[429, 200], headers=headers)
    assert get(url).read_bytes() == BODY
    url = web.put("/z.gguf", BODY, statuses=[429], headers={"Retry-After": "9999"})
    assert code_of(url) == "source_unreachable"
    assert len(web.asked["/z.gguf"]) == 1


def test_what_does_not_pass_is_not(web):
    expected = {404: "source_not_found", 410: "source_not_found", 401: "source_denied",
                403: "source_denied", 400: "source_unreachable"}  # fmt: skip
    for status, code in expected.items():
        assert code_of(web.put(f"/{status}.gguf", statuses=[status])) == code
        assert len(web.asked[f"/{status}.gguf"]) == 1
    url = web.put("/x.gguf", statuses=[500])
    assert code_of(url) == "source_unreachable"
    assert len(web.asked["/x.gguf"]) == 1 + FAST["retries"]


def test_nobody_there(cache):
    assert code_of("http://127.0.0.1:1/x.gguf") == "source_unreachable"


def test_redirects_are_followed(web):
    web.put("/x.gguf", BODY)
    url = web.put("/from.gguf", statuses=[302], headers={"Location": "/x.gguf"})
    assert get(url).read_bytes() == BODY


@pytest.mark.parametrize(
    "target",
    ["/loop.gguf", "file:///etc/passwd", "http://example.com/", "ftp://h/x", "", "data:,x"],
)
def test_redirects_that_lead_nowhere_are_refused(web, target):
    url = web.put("/loop.gguf", statuses=[302], headers={"Location": target})
    assert code_of(url) == "source_unreachable"


def test_no_redirect_leads_from_https_to_http():
    for target in ("http://127.0.0.1/x", "http://host/x"):
        with pytest.raises(SourceError, match="redirects where"):
            _target("https://host/x.gguf", target)
    assert _target("https://host/x.gguf", "y.gguf#part") == "https://host/y.gguf"


def test_secrets_of_a_url_are_in_no_message_and_no_file(web, cache):
    url = web.put("/x.gguf", BODY) + "?token=secret"
    get(url)
    with pytest.raises(SourceError) as caught:
        get(web.url + "/none.gguf?token=secret")
    assert "secret" not in str(caught.value)
    for path in cache.rglob("*.json"):
        assert "secret" not in path.read_text()


def test_a_compression_that_was_not_asked_for_is_refused(web):
    url = web.put("/x.gguf", BODY, headers={"Content-Encoding": "gzip"})
    assert code_of(url) == "source_unreachable"
    assert web.asked["/x.gguf"][0]["Accept-Encoding"] == "identity"
    assert "Authorization" not in web.asked["/x.gguf"][0]


def test_many_at_once_ask_one_after_the_other(web):
    url = web.put("/x.gguf", BODY)
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(get(url))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == BODY
    whole = [a for a in web.asked["/x.gguf"] if "If-None-Match" not in a]
    assert len(whole) == 1


def test_a_cache_that_cannot_be_written_is_told(web, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError, match="cannot write the download cache"):
        get(web.put("/x.gguf", BODY))


def test_names_are_safe_on_every_system(web):
    assert get(web.put("/a%3Ab%2F..%2Fcon.gguf", b"x")).name == "a_b_.._con.gguf"
    assert get(web.put("/con.gguf", b"x")).name == "_con.gguf"
