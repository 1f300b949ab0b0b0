"""run and chat with the URL of a server as the base."""

import json

import pytest
from api_server import MODELS, api_serving, delta, events, text, whole

from commands import invoke

LLAMA = {"data": [{"id": "tiny", "owned_by": "llamacpp"}]}
LORAS = [{"id": 0, "path": "/a/home.gguf"}, {"id": 1, "path": "/b/style.gguf"}]


@pytest.fixture
def api(monkeypatch):
    monkeypatch.delenv("LORAKIT_API_KEY", raising=False)
    with api_serving(
        models=LLAMA,
        v1__completions=lambda body: events(text("all of it"), text("", "stop")),
        v1__chat__completions=lambda body: events(delta(content="hi"), delta("stop", content="!")),
        **{"lora-adapters": lambda body: whole(LORAS)},
    ) as running:
        yield running


def test_run_asks_with_adapters_at_scales(api):
    done = invoke("run", f"{api.url}/v1", "hello", "-a", "home:0.5", "-a", "style")
    assert (done.code, done.stdout, done.stderr) == (0, "hi!\n", "")
    body = api.of("/v1/chat/completions")[-1].body
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert body["lora"] == [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 1.0}]


def test_run_with_json_and_raw(api):
    done = invoke("run", f"{api.url}/v1", "hello", "--json", "-a", "home")
    said = json.loads(done.stdout)
    assert (said["text"], said["finish_reason"], said["adapters"]) == ("hi!", "stop", {"home": 1.0})
    assert invoke("run", f"{api.url}/v1", "Once", "--raw").stdout == "all of it\n"
    assert api.of("/v1/completions")[-1].body["prompt"] == "Once"


def test_chat_switches_the_servers_adapters(api):
    typed = "hello\n/adapter home 0.5\nand now\n"
    done = invoke("chat", f"{api.url}/v1", typed=typed)
    assert done.code == 0
    assert done.stdout.count("hi!") == 2
    assert "rank" not in done.stdout  # nobody knows it
    first, second = (one.body for one in api.of("/v1/chat/completions"))
    assert [one["scale"] for one in first["lora"]] == [0.0, 0.0]
    assert [one["scale"] for one in second["lora"]] == [0.5, 0.0]
    assert [m["content"] for m in second["messages"]] == ["hello", "hi!", "and now"]


def test_one_of_several_models_is_named(api):
    several = {"data": [{"id": "one"}, {"id": "two"}]}
    api.answers["/v1/models"] = lambda body: whole(several)
    done = invoke("run", f"{api.url}/v1", "hello")
    assert done.error.code == "parameter_invalid"
    assert done.error.items == ("one", "two")
    assert invoke("run", f"{api.url}/v1", "hello", "--model", "two").stdout == "hi!\n"
    assert api.asked[-1].body["model"] == "two"


def test_a_model_of_ollamas_is_named_without_its_tag(api):
    """Which its own commands leave out, and its list does not."""
    listed = [
        {"id": name, "owned_by": "library"} for name in ("other:1b", "tiny:1b", "tiny:latest")
    ]
    api.answers["/v1/models"] = lambda body: whole({"data": listed})
    for name in ("tiny", "tiny:latest", "tiny:1b"):
        assert invoke("run", f"{api.url}/v1", "hello", "--model", name).stdout == "hi!\n"
        assert api.asked[-1].body["model"] == (name if ":" in name else "tiny:latest")
    assert invoke("run", f"{api.url}/v1", "hello", "--model", "other").error is not None


def test_what_is_for_a_model_here_is_refused(api):
    for wrong in (["--quantize", "int8"], ["--threads", "2"], ["--merge", "-a", "home"]):
        assert invoke("run", f"{api.url}/v1", "hello", *wrong).code == 1
    assert invoke("run", f"{api.url}/v1", "hello", "--top-k", "3").code == 0
    api.answers["/v1/models"] = lambda body: whole(MODELS)
    assert (
        invoke("run", f"{api.url}/v1", "hello", "--top-k", "3").error.code == "capability_missing"
    )
    assert invoke("run", "a/folder", "hello", "--model", "x").error.code == "parameter_invalid"


def test_an_address_without_v1_is_an_api_where_it_is_said(api):
    api.answers["/models"] = lambda body: whole(MODELS)
    api.answers["/chat/completions"] = api.answers["/v1/chat/completions"]
    assert invoke("run", api.url, "hello", "--engine", "api").stdout == "hi!\n"


def test_chat_with_a_server_counts_nothing_and_takes_no_other_choice(api):
    typed = "/set\n/set temperature 0.5\nhello\n/set when_full drop\nagain\n/adapter hme\n"
    done = invoke("chat", f"{api.url}/v1", typed=typed)
    assert done.code == 0
    assert "  when_full  stop" in done.stdout
    assert api.of("/v1/chat/completions")[-1].body["temperature"] == 0.5
    assert "capability_missing" in done.stdout
    assert "(hint: /set when_full stop)\nhi!\n" in done.stdout  # refused at once, and not taken
    assert "did you mean home" in done.stdout
    refused = invoke("chat", f"{api.url}/v1", "--when-full", "drop", typed="")
    assert refused.error.hint == "--when-full stop"


def test_adapters_of_a_server_are_found_again(api, tmp_path):
    file = tmp_path / "talk.json"
    typed = f"/adapter home 0.5\n/save {file}\n/clear\n/load {file}\n/adapters\n"
    shown = invoke("chat", f"{api.url}/v1", typed=typed).stdout
    assert shown.splitlines()[-2:] == ["  home at 0.5", "  style off"]
    saved = json.loads(file.read_text())
    assert saved["adapters"] == {"home": 0.5}
