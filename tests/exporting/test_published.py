"""What of a folder is published and what never is, its card, and the names in it."""

import hashlib
import json
import shutil

import pytest
from publishing import BASE, change_record, front_of, push, refused, there

import lorakit
from fake_hub import TOKEN
from folders import link
from lorakit import demo, read_adapter
from lorakit.errors import FormatError, LorakitError, ParameterError, SourceError
from lorakit.exporting import contents as contents_module
from lorakit.exporting import published as published_module
from lorakit.sources import fetch

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


def test_the_card_is_as_the_hub_wants_it(hub, out):
    push(out)
    text = there(hub)["README.md"]
    front = front_of(text)
    assert front["base_model"] == BASE
    assert front["base_model_relation"] == "finetune"
    assert front["library_name"] == "transformers.js"
    assert front["pipeline_tag"] == "text-generation"
    assert {"onnx", "lorakit", "lora"} <= set(front["tags"])
    body = text.decode()
    assert 'const name = "org/repo";' in body
    assert 'const name = "./out";' in (out / "README.md").read_text()
    assert "a folder; of the Hub" not in body
    assert "./out" not in body
    assert f"`{BASE}` as ONNX" in body
    assert body.count("All figures are in `parity.json`") == 1


def test_nothing_names_this_machine(hub, out, made):
    assert "someone" in (out / "lorakit.json").read_text()  # or the test finds nothing
    push(out)
    for name, body in there(hub).items():
        assert b"someone" not in body, name
    record = json.loads(there(hub)["lorakit.json"])
    assert record["base_name"] == BASE
    assert record["from"][0]["source"] == "home"
    assert b"my base" not in b"".join(there(hub).values())


@pytest.mark.parametrize("name", ["parity.json", "tokenizer_config.json", "README.md"])
def test_another_path_of_a_user_is_refused(hub, out, name):
    path = out / name
    if name == "README.md":
        path.write_text(f"{path.read_text()}\nSee {out}/notes.\n")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "x": f"{out.parent}/x"}))
        change_record(out, files={
            **json.loads((out / "lorakit.json").read_text())["files"],
            name: hashlib.sha256(path.read_bytes()).hexdigest(),
        })  # fmt: skip
    error = refused(FormatError, out)
    assert error.items[0].startswith(f"{name} names ")
    assert hub.count("preupload") == hub.count("create") == 0


@pytest.mark.parametrize("secret", ["hf_" + "aB3" * 12, TOKEN])
def test_a_token_is_not_published_and_not_shown(secret, hub, home):
    config = home / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hub_token": secret}))
    found = refused(FormatError, home)
    assert [each.split(":")[0] for each in found.items] == ["adapter_config.json, line 1"]
    assert secret not in str(found)
    assert "org/repo" not in hub.repositories


def test_a_source_that_stays_a_path_would_be_found(hub, out, monkeypatch):
    change_record(out, **{"from": [{"name": "home", "source": f"{out.parent}/home"}]})
    push(out, dry_run=True)
    monkeypatch.setattr(published_module, "_source", lambda reference: reference)
    assert "lorakit.json names" in refused(FormatError, out).items[0]


def test_a_base_that_is_a_path_is_asked_for(hub, out):
    error = refused(ParameterError, out, base_model=None)
    assert "my base" in error.items[0]
    assert "base_model" in error.hint
    for bad in ("base", "/home/me/base", "a/b/c", "org/../x", ""):
        refused(ParameterError, out, base_model=bad)


def test_a_base_that_the_hub_does_not_show_is_noted(hub, out):
    assert push(out, dry_run=True).notes == ()
    found = push(out, base_model="org/typo", dry_run=True)
    assert "org/typo is named as the base" in found.notes[0]


# What changed.


def test_files_that_changed_after_the_proof(hub, out):
    (out / "onnx/model_quantized.onnx_data").write_bytes(b"other")
    (out / "generation_config.json").unlink()
    error = refused(SourceError, out)
    assert error.code == "source_mismatch"
    assert error.items == (
        "generation_config.json is missing",
        "onnx/model_quantized.onnx_data is not what was exported",
    )
    assert hub.count("preupload") == 0
    push(out, force=True)
    assert b"Changed after it was measured" in there(hub)["README.md"]
    assert json.loads(there(hub)["lorakit.json"])["changed"] == list(error.items)


def test_a_card_may_be_written_on(hub, out):
    card = out / "README.md"
    card.write_text(f"{card.read_text()}\nMy own words.\n")
    push(out)
    assert b"My own words." in there(hub)["README.md"]


def test_a_card_that_is_not_there_is_made(hub, out):
    (out / "README.md").unlink()
    push(out)
    text = there(hub)["README.md"].decode()
    assert front_of(text.encode())["base_model_relation"] == "finetune"
    assert "with `home`" in text
    assert "| q8 | home | 0.00" in text
    assert "parity.json" in text


def test_figures_are_added_to_a_card_of_ones_own(hub, out):
    (out / "README.md").write_text("---\nlicense: mit\ntags: [mine]\n---\n# Mine\n")
    push(out)
    text = there(hub)["README.md"]
    front = front_of(text)
    assert front["license"] == "mit"
    assert front["tags"] == ["mine", "onnx", "lorakit", "lora"]
    assert b"# Mine" in text
    assert b"| q8 | home | 0.00" in text


SAID = {  # code of a card, and what it is where it was published
    'const name = "out";': 'const name = "org/repo";',
    'const name = "./out";  // a folder; so': 'const name = "org/repo";',
    "llama-cli -m a-Q8_0.gguf -p ...": "llama-cli -hf org/repo:Q8_0 -p ...",
    "llama-cli -m a-Q8_0.gguf --lora a-lora.gguf": None,
    "lorakit chat tokenizer.json": "lorakit chat hf:org/repo/tokenizer.json",
    "lorakit run 'my base' -a out:0.5": f"lorakit run hf:{BASE} -a hf:org/repo:0.5",
    "mlx_lm.generate --model out --prompt ...": "mlx_lm.generate --model org/repo --prompt ...",
    "mlx_lm.generate --model out --adapter-path out/adapters": None,
    "no ' command": None,
}


@pytest.mark.parametrize(("line", "becomes"), SAID.items(), ids=SAID)
def test_code_of_a_card_names_the_repository(hub, out, line, becomes):
    change_record(out, forms={"Q8_0": {"file": "a-Q8_0.gguf"}, "F16": 3})
    language = "js" if line.startswith("const") else ""
    (out / "README.md").write_text(f"# out\n\nout\n\n```{language}\n{line}\n```\n")
    push(out)
    body = there(hub)["README.md"].decode()
    assert f"# out\n\nout\n\n```{language}\n{becomes or line}\n```\n" in body


FAULTS = {
    "base_model_relation: merged": "base_model_relation: expected adapter, finetune",
    "library_name: [a]": "library_name: expected a word",
    "pipeline_tag: 3": "pipeline_tag: expected a word",
    "tags: lora": "tags: expected a list",
    "tags: [3]": "tags: expected words",
    "tags: [": "cannot be read",
    "- a": "cannot be read",
    "model-index: 3": "cannot be read",
    "license: mine": "must be one of",  # by the Hub itself
}


@pytest.mark.parametrize(("line", "said"), FAULTS.items(), ids=FAULTS)
def test_a_card_that_the_hub_would_not_take(hub, out, line, said):
    (out / "README.md").write_text(f"---\n{line}\n---\n# Mine\n")
    assert said in str(refused(FormatError, out))
    assert hub.count("create") == hub.count("preupload") == 0


def test_a_base_in_a_card_that_is_a_path_is_replaced(hub, out):
    (out / "README.md").write_text("---\nbase_model: /opt/models/base\n---\n")
    push(out)
    assert front_of(there(hub)["README.md"])["base_model"] == BASE


# What never leaves.

STRANGERS = (".env", ".git/config", "checkpoint-500/optimizer.pt", "optimizer.pt", "notes.txt",
             "onnx/.hidden", "onnx/scratch.onnx", "id_rsa")  # fmt: skip


@pytest.mark.parametrize("kind", ["export", "adapter"])
def test_what_is_no_part_of_it_stays(hub, out, home, kind):
    folder = {"export": out, "adapter": home}[kind]
    for name in STRANGERS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    result = push(folder)
    assert not set(there(hub)) & set(STRANGERS)
    assert b"secret" not in b"".join(there(hub).values())
    assert {".env", ".git/", "checkpoint-500/", "optimizer.pt"} <= set(result.left)


def test_a_stranger_would_be_seen(hub, home, monkeypatch):
    (home / ".env").write_text("secret")
    monkeypatch.setattr(contents_module, "BESIDE", ("*",))
    push(home)
    assert there(hub)[".env"] == b"secret"


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", ".env", "a/.git/config", "a\\b", "C:x"]
)
def test_a_record_that_lists_what_is_no_part(hub, out, name):
    listed = json.loads((out / "lorakit.json").read_text())["files"]
    change_record(out, files={**listed, name: "0" * 64})
    assert "no part of an export" in refused(FormatError, out).message


def test_a_link_out_of_the_folder(hub, out, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (out / "tokenizer.json").unlink()
    link(out / "tokenizer.json", tmp_path / "secret")
    refused(FormatError, out)


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"files": 3}, FormatError), ({"files": {}}, FormatError), ({"from": 3}, None),
     ({"from": [3, {"facts": 3}, {"facts": {"verdict": 3}}]}, None), ({"base": 3}, None)],
)  # fmt: skip
def test_a_record_that_is_odd(hub, out, change, kind):
    change_record(out, **change)
    if kind is not None:
        refused(kind, out)
    else:
        assert push(out, dry_run=True).added


@pytest.mark.parametrize("parity", [{}, {"files": 3}, {"files": {"a": 3}}, {"files": {"a": {}}}])
def test_a_proof_that_is_odd(hub, out, parity):
    (out / "parity.json").write_text(json.dumps(parity))
    (out / "README.md").unlink()
    assert "parity.json" in refused(FormatError, out, force=True).message


# Other folders.


def test_an_adapter(hub, home):
    push(home, base_model=None)
    files = there(hub)
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    front = front_of(files["README.md"])
    assert front["base_model"] == BASE
    assert front["base_model_relation"] == "adapter"
    assert front["library_name"] == "peft"
    assert f"lorakit chat hf:{BASE} -a hf:org/repo" in files["README.md"].decode()
    assert read_adapter(fetch("hf:org/repo")).digest == read_adapter(home).digest


def test_an_adapter_of_a_base_that_is_a_path(hub, home):
    config = home / "adapter_config.json"
    said = {**json.loads(config.read_text()), "base_model_name_or_path": "/opt/models/base"}
    config.write_text(json.dumps(said))
    assert "/opt/models/base" in refused(ParameterError, home, base_model=None).items[0]
    push(home)
    published = json.loads(there(hub)["adapter_config.json"])
    assert published == {**said, "base_model_name_or_path": BASE}


def test_what_train_wrote(hub, trained):
    assert "is called base" in refused(ParameterError, trained, base_model=None).items[0]
    push(trained)
    files = there(hub)
    assert set(files) - {"README.md"} == {
        "adapter_config.json", "adapter_model.safetensors", "curves.svg", "lorakit.json",
        "metrics.jsonl",
    }  # fmt: skip
    assert json.loads(files["lorakit.json"])["base"]["name"] == BASE
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == BASE
    text = files["README.md"].decode()
    for said in (
        f"A LoRA adapter for `{BASE}`",
        f'lorakit run hf:{BASE} -a hf:org/repo:0.8 "..."',
        f'lorakit.open("hf:{BASE}")',
        'load_adapter("hf:org/repo")',
        "- Nothing was held out to measure it on",
    ):
        assert said in text
    assert text.count("Nothing was held out") == 1


def test_a_verdict_is_added_to_a_card_of_ones_own(hub, trained):
    (trained / "README.md").write_text("# Mine\n")
    push(trained)
    assert b"## Evaluation\n\n- Nothing was held out" in there(hub)["README.md"]


def test_weights_that_are_not_those_that_were_measured(hub, trained):
    other = demo.adapter_path("style")
    shutil.copy(other / "adapter_model.safetensors", trained / "adapter_model.safetensors")
    shutil.copy(other / "adapter_config.json", trained / "adapter_config.json")
    assert refused(SourceError, trained).items == ("its weights are not those that were measured",)


def test_a_merged_model(hub, tmp_path):
    lorakit.merge.merge(
        lorakit.Base.open(demo.base_path()),
        [(read_adapter(demo.adapter_path("home")), 1.0)],
        tmp_path / "merged",
    )
    refused(ParameterError, tmp_path / "merged", base_model=None)
    push(tmp_path / "merged")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(there(hub))
    front = front_of(there(hub)["README.md"])
    assert (front["base_model_relation"], front["library_name"]) == ("finetune", "transformers")
    assert lorakit.Base.open(fetch("hf:org/repo", kind="base")).decoder.hidden == 128


def test_a_folder_of_something_else(hub, tmp_path, home):
    (tmp_path / "notes.txt").write_text("x")
    assert "no export" in refused(ParameterError, tmp_path).message
    assert "not there" in refused(ParameterError, tmp_path / "away").message
    assert "a file" in refused(ParameterError, tmp_path / "notes.txt").message
    assert "cannot read" in refused(SourceError, tmp_path / ("x" * 300)).message
    (home / "adapter_model.safetensors").write_bytes(b"broken")
    refused(LorakitError, home)
    assert hub.count("create") == 0
