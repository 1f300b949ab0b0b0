"""What a reference names, and which are refused."""

from pathlib import Path

import pytest

from lorakit.errors import ParameterError
from lorakit.sources import Hub, Local, Url, default_name, describe, parse

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adapters/home", Local(path=Path("adapters/home"))),
        ("C:\\adapters\\home", Local(path=Path("C:\\adapters\\home"))),
        ("hfolder", Local(path=Path("hfolder"))),
        (Path("hf:not/a/repo"), Local(path=Path("hf:not/a/repo"))),
        ("https://Host/a b/x.gguf", Url(url="https://host/a%20b/x.gguf")),
        ("https://host", Url(url="https://host/")),
        (f"https://host/x.gguf#sha256={SHA.upper()}", Url(url="https://host/x.gguf", sha256=SHA)),
        ("http://localhost:80/x", Url(url="http://localhost:80/x")),
        ("http://127.9.9.9/x", Url(url="http://127.9.9.9/x")),
        ("http://[::1]/x", Url(url="http://[::1]/x")),
        ("hf:org/repo", Hub(repo="org/repo")),
        ("hf:gpt2", Hub(repo="gpt2")),
        ("hf:org/repo/sub/dir", Hub(repo="org/repo", inside="sub/dir")),
        ("hf:org/repo@v1.0", Hub(repo="org/repo", revision="v1.0")),
        ("hf:org/repo@main/sub/a.gguf", Hub(repo="org/repo", revision="main", inside="sub/a.gguf")),
        ("hf:org/repo@refs/pr/1/sub", Hub(repo="org/repo", revision="refs/pr/1", inside="sub")),
        ("hf:org/repo@feature%2Fx", Hub(repo="org/repo", revision="feature/x")),
    ],
)
def test_a_reference_is_read(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com/x",
        "http://127.0.0.1.example.com/x",
        "ftp://host/x",
        "file:///etc/passwd",
        "https:///x",
        "https://host:port/x",
        "https://user:secret@host/x",
        "https://user@host/x",
        "https://host/x#sha256=12",
        "https://host/x#part",
        f"https://host/x/#sha256={SHA}",
        "hf:",
        "hf:org/",
        "hf:org/repo@",
        "hf:org/repo/../other",
        "hf:org/repo/a//b",
        "hf:or g/repo",
    ],
)
def test_what_names_nothing_is_refused_without_its_secrets(text):
    with pytest.raises(ParameterError) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_the_caller_may_say_of_which_kind_it_is():
    assert parse("hf:org/repo", "local") == Local(path=Path("hf:org/repo"))
    assert parse("org/repo", "huggingface") == Hub(repo="org/repo")
    assert parse("https://host/x", "url") == Url(url="https://host/x")
    with pytest.raises(ParameterError):
        parse("adapters/home", "url")
    with pytest.raises(ParameterError, match="source is"):
        parse("x", "ftp")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("adapters/home", "home"),
        ("https://host/adapters/home/", "home"),
        ("https://host/adapters/home/adapter_model.safetensors?token=1", "home"),
        ("https://host/adapters/home.gguf", "home.gguf"),
        ("https://host", "host"),
        ("hf:org/repo@main", "repo"),
        ("hf:org/repo/sub", "sub"),
    ],
)
def test_the_last_part_is_the_name(text, name):
    assert default_name(text) == name


def test_what_is_shown_keeps_no_secret():
    assert describe("https://host/x.gguf?token=secret") == "https://host/x.gguf?..."
    assert describe("https://me:secret@host/x") == "https://host/x"
    assert describe("https://[bad") == "a URL that cannot be read"
    assert describe("hf:org/repo@v1/sub") == "hf:org/repo@v1/sub"
    assert describe("a/b") == "a/b"


def test_what_a_url_is_of():
    assert parse("https://host/home").file is None
    assert parse("https://host/home").folder == "https://host/home/"
    assert parse("https://host/get?id=5").file == "get"
    assert parse("https://host/home/adapters.safetensors").folder == "https://host/home/"
