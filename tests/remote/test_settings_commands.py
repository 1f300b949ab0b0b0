"""run, chat and doctor with a lorakit.toml: named, found, and whose key goes where."""

import json

import pytest
from api_server import api_serving, delta, events, whole

from commands import invoke
from lorakit import demo

KEY = "sk-very-secret"
SENT = b"Authorization: Bearer sk-very-secret\r\n"
LLAMA = {"data": [{"id": "tiny", "owned_by": "llamacpp"}]}
LORAS = [{"id": 0, "path": "/a/home.gguf"}]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAKIT_SETTINGS", raising=False)
    monkeypatch.delenv("LORAKIT_API_KEY", raising=False)


@pytest.fixture
def api():
    with api_serving(
        models=LLAMA,
        v1__chat__completions=lambda body: events(delta("stop", content="hi!")),
        **{"lora-adapters": lambda body: whole(LORAS)},
    ) as running:
        yield running


@pytest.fixture
def place(tmp_path):
    return tmp_path / "lorakit.toml"


def local(place):
    home = demo.adapter_path("home")
    place.write_text(f"models.onnx = '{demo.base_path()}'\nadapter = {{path = '{home}'}}\n")


def test_run_takes_the_base_and_the_adapters_of_the_file_that_is_named(place, tmp_path):
    local(place)
    other = place.rename(tmp_path / "other.toml")
    home, base = demo.adapter_path("home"), demo.base_path()
    expected = invoke("run", base, "hello", "-a", home)
    assert expected.code == 0
    assert invoke("run", "--settings", other, "hello") == expected
    assert invoke("run", "--settings", other, typed="hello") == expected
    assert invoke("run", base, "hello", "--settings", other) == expected
    told = json.loads(invoke("run", "--settings", other, "hello", "--json").stdout)
    assert told["adapters"] == {"home": 1.0}
    told = json.loads(
        invoke("run", "--settings", other, "hello", "--json", "-a", f"{home}:0.5").stdout
    )
    assert told["adapters"] == {"home": 0.5}


def test_a_file_that_lies_here_is_for_commands_without_a_base_and_is_said(place, monkeypatch):
    local(place)
    done = invoke("run", "--json", typed="hello")
    assert json.loads(done.stdout)["adapters"] == {"home": 1.0}
    assert f"settings from {place}" in "".join(done.stderr.split("\n"))
    assert "home at 1" in invoke("chat", typed="").stdout
    assert json.loads(invoke("run", demo.base_path(), "hello", "--json").stdout)["adapters"] == {}
    assert invoke("run", "hello", typed="x").error.code == "source_not_found"  # it is a base there
    assert "--settings" in invoke("run", "hello").error.hint
    monkeypatch.setenv("LORAKIT_SETTINGS", "nowhere.toml")
    assert invoke("run", typed="hello").error.code == "source_not_found"
    monkeypatch.delenv("LORAKIT_SETTINGS")
    place.unlink()
    for command in ("run", "chat"):
        error = invoke(command, typed="hello").error
        assert (error.code, error.message) == ("parameter_invalid", "there is no base to open")


def test_a_file_that_only_lies_here_gets_no_key(api, place, monkeypatch):
    place.write_text(f"models.api = '{api.url}/v1'\nadapter = {{path = 'home', scale = 0.5}}\n")
    monkeypatch.setenv("LORAKIT_API_KEY", KEY)
    done = invoke("run", typed="hello")
    assert (done.code, done.stdout) == (0, "hi!\n")
    assert "LORAKIT_API_KEY is not sent" in done.stderr
    assert api.asked
    assert not any(SENT in one.head for one in api.asked)
    assert api.asked[-1].body["lora"] == [{"id": 0, "scale": 0.5}]
    api.asked.clear()
    assert invoke("run", "--settings", place, "hello").stderr == ""
    assert all(SENT in one.head for one in api.asked)
    api.asked.clear()
    monkeypatch.setenv("LORAKIT_SETTINGS", str(place))
    assert invoke("run", typed="hello").stderr == ""
    assert all(SENT in one.head for one in api.asked)


def test_a_fallback_answers_a_command(api, place):
    place.write_text(f"models.onnx = 'nowhere'\nfallback = '{api.url}/v1'\n")
    done = invoke("run", "--settings", place, "hello")
    assert (done.code, done.stdout) == (0, "hi!\n")
    assert "answers until" in done.stderr
    assert invoke("run", "--settings", place, "hello", "-a", "home").stdout == "hi!\n"


def test_a_fallback_is_an_option_too(api, place, monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_API_KEY", KEY)
    url = f"{api.url}/v1"
    done = invoke("run", tmp_path / "nowhere", "hello", "--fallback", url)
    assert (done.code, done.stdout) == (0, "hi!\n")
    assert f"note: {url} answers until {tmp_path / 'nowhere'} is open" in done.stderr
    assert all(SENT in one.head for one in api.asked)
    talk = invoke("chat", demo.base_path(), "--fallback", url, typed="hello\n")
    assert (talk.code, "answers until" in talk.stderr) == (0, True)
    assert "hi!" in talk.stdout or "Hello!" in talk.stdout  # whichever it was by then
    refused = invoke("run", url, "hello", "--fallback", url)
    assert refused.error.message == "fallback: for a model in this process"
    assert "--fallback" in invoke("run", "--help").stdout


def test_a_fallback_that_is_given_beats_the_files_and_alone_gets_the_key(api, place, monkeypatch):
    monkeypatch.setenv("LORAKIT_API_KEY", KEY)
    url = f"{api.url}/v1"
    with api_serving(models=LLAMA) as other:
        place.write_text(f"models.onnx = 'nowhere'\nfallback = '{other.url}/v1'\n")
        done = invoke("run", "--fallback", url, typed="hello")
        assert (done.code, done.stdout) == (0, "hi!\n")
        assert "is not sent" not in done.stderr
        assert all(SENT in one.head for one in api.asked)
        place.write_text(f"models.api = '{other.url}/v1'\n")
        done = invoke("run", "--fallback", url, typed="hello")  # else it would get a key
        assert done.error.code == "parameter_invalid"
        assert not other.asked


def test_doctor_shows_what_is_read(place, monkeypatch):
    shown = lambda: json.loads(invoke("doctor", "--json").stdout)["settings"]  # noqa: E731
    assert shown() == {"file": "none"}
    place.write_text(
        "models.onnx = 'base'\nadapter = {path = 'home'}\nfallback = 'https://host/v1?a=1'\n"
    )
    assert shown()["broken"].count("fallback") == 1
    place.write_text("models.onnx = 'b'\nadapter = {path = 'a'}\nfallback = 'https://host/v1'\n")
    assert shown() == {
        "file": str(place),
        "runtime": "onnx",
        "model": str(place.parent / "b"),
        "adapters": ["a"],
        "fallback": "https://host/v1",
    }
    assert "https://host/v1" in invoke("doctor").stdout
    monkeypatch.setenv("LORAKIT_SETTINGS", "nowhere.toml")
    assert "nowhere.toml" in shown()["broken"]
