"""Secrets in files to publish: each form is found with its line, and ordinary files hold none."""

import json
import random
import string

import pytest
from publishing import push, refused, there

from folders import DATA
from lorakit import demo
from lorakit.errors import FormatError
from lorakit.exporting import secrets as module
from lorakit.exporting.secrets import BLOCK, secrets
from lorakit.sources.sending import Content

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


def some(count, alphabet=string.ascii_letters + string.digits):
    return "aB3" + "".join(random.Random(count).choices(alphabet, k=count - 3))


UPPER = string.ascii_uppercase + string.digits
BODY = "\n".join(some(64) for _ in range(3))
SECRETS = {  # made up here, so that no scanner takes this file for a leak
    "the Hub's": "hf" + "_" + some(34),
    "AWS": "AK" + "IA" + some(16, UPPER).upper(),
    "AWS, for a session": "AS" + "IA" + some(16, UPPER).upper(),
    "GitHub": "gh" + "p_" + some(36),
    "GitHub, fine-grained": "github" + "_pat_" + some(22) + "_" + some(59),
    "OpenAI": "sk" + "-" + some(48),
    "OpenAI, of a project": "sk" + "-proj-" + some(120),
    "Anthropic": "sk" + "-ant-api03-" + some(95),
    "PEM": "-----BEGIN " + f"RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----",
    "PEM, encrypted": "-----BEGIN " + "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
    f"DEK-Info: AES-128-CBC,{'A' * 32}\n\n{BODY}",
    "PEM, OpenSSH": "-----BEGIN " + f"OPENSSH PRIVATE KEY-----\n{BODY}",
    "PEM, PKCS 8": "-----BEGIN " + f"PRIVATE KEY-----\n{BODY}",
}


def found(text):
    return list(secrets("a.md", Content.of(text.encode())))


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("form", ["plain", "json"])
def test_each_form_is_found_and_not_shown(name, form):
    secret = SECRETS[name] if form == "plain" else json.dumps({"key": SECRETS[name]})
    said = found(f"# A card\n\nkey: {secret}\n\nmore\n")
    assert len(said) == 1
    assert said[0].startswith("a.md, line 3: ")
    assert SECRETS[name][-20:] not in said[0]


@pytest.mark.parametrize("name", SECRETS)
def test_one_across_blocks_of_a_long_file_is_found_once(name):
    lines = "x" * 99 + "\n"
    before = (lines * (BLOCK // 100 + 1))[: BLOCK - 12]
    assert found(f"{before} {SECRETS[name]}\n{lines}") == [
        f"a.md, line {before.count(chr(10)) + 1}: {kind}"
        for kind, form in module.KINDS.items()
        if module.re.search(form, SECRETS[name].encode())
    ]


@pytest.mark.parametrize(
    "text",
    [
        "risk-Assessment2026-of-Everything-that-there-is",
        "sk-learn and sk-something-quite-long-in-lower-case",
        "hf_transfer, hf_hub_download_with_a_very_long_name_of_it",
        "-----BEGIN " + "PRIVATE KEY-----",
        "a vocabulary: -----BEGIN " + 'PRIVATE KEY-----", "-----END',
        "-----BEGIN " + f"CERTIFICATE-----\n{BODY}",
        "BAK" + "IA" + "A" * 30,
        "ghp_short sk-... hf_...",
    ],
)
def test_what_only_looks_a_little_like_one_is_none(text):
    assert found(text) == []


def test_texts_of_models_hold_none():
    names = ("tokenizer.json", "tokenizer_config.json", "*.jinja", "vocab.json", "merges.txt")
    files = [path for name in names for path in DATA.rglob(name)]
    files += [path for path in demo.base_path().rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert list(secrets(path.name, Content.of(path))) == []


def test_a_push_is_refused_with_file_and_line_and_force_publishes_it(hub, home):
    (home / "README.md").write_text(f"# Home\n\n{SECRETS['OpenAI']}\n")
    error = refused(FormatError, home)
    assert [each.rpartition(":")[0].split(" ")[0] for each in error.items] == ["README.md,"]
    assert "org/repo" not in hub.repositories
    done = push(home, force=True)
    assert any("secret: README.md, line" in note for note in done.notes)
    assert SECRETS["OpenAI"].encode() in there(hub)["README.md"]


def test_a_scan_of_the_beginning_alone_would_miss_it(monkeypatch, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("x" * (2 * BLOCK) + "\n" + SECRETS["GitHub"])
    assert list(secrets("t", Content.of(path))) == ["t, line 2: a GitHub token"]
    path.write_bytes(b"\0" + path.read_bytes())  # no text: what is behind its beginning is weights
    assert list(secrets("t", Content.of(path))) == []
