"""The folder that a run leaves."""

import errno
import json
import xml.etree.ElementTree as ET

import pytest
import yaml
from huggingface_hub import ModelCard
from made_up import TOOLS, exact

import lorakit
from lorakit import demo
from lorakit.base.folder import Base
from lorakit.check import check
from lorakit.errors import ParameterError, WriteError
from lorakit.formats import read_adapter
from lorakit.training import bundle
from lorakit.training.bundle import DataFile, Trained, require_place, write_bundle
from lorakit.training.facts import read_facts


@pytest.fixture(scope="module")
def base():
    return Base.open(demo.base_path())


def trained(base, **more):
    known = {
        "adapter": read_adapter(demo.adapter_path("home")),
        "base": base,
        "base_model": "org/tiny",
        "tools": TOOLS,
        "declared": 0.0,
        "settings": {"seed": 3},
        "data": [DataFile(role="train", name="train.jsonl", sha256="ab" * 32, examples=900)],
        "steps": 600,
        "seconds": 88.8,
        "measured": {"after": exact(96, 100), "before": exact(3, 100), "kept": exact(89, 100)},
        "log": [{"event": "step", "step": 1, "loss": 0.5, "rate": 0.1}],
    }
    return Trained(**(known | more))


def test_the_folder_holds_the_adapter_and_all_that_is_known_of_it(base, tmp_path):
    folder = tmp_path / "lamps"
    written = write_bundle(folder, trained(base))
    assert {file.name for file in folder.iterdir()} == bundle.OWN_FILES
    read = read_adapter(folder)
    assert read == written == read_adapter(demo.adapter_path("home"))
    assert read.precondition.fingerprint == base.fingerprint
    assert list(check(read, base)) == []
    facts = read_facts(folder)
    assert facts["name"] == "lamps"
    assert facts["base"] == {
        "name": "org/tiny", "fingerprint": base.fingerprint, "architecture": "gemma3_text",
    }  # fmt: skip
    assert facts["prompt"]["tool_format"] == "functiongemma"
    assert facts["prompt"]["tools"] == list(TOOLS)
    assert "start_function_call" in facts["prompt"]["template"]
    assert facts["default_scale"] == 1.0
    assert facts["adapter"]["digest"] == read.digest
    assert facts["data"][0]["sha256"] == "ab" * 32
    assert facts["training"]["settings"] == {"seed": 3}
    assert facts["evaluation"]["after"]["exact"]["count"] == 96
    assert "96%" in facts["verdict"][0]
    ET.parse(folder / "curves.svg")
    assert json.loads((folder / "metrics.jsonl").read_text())["step"] == 1
    with lorakit.open(base.path) as model:
        model.load_adapter(folder)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT with the newest transformers
def test_peft_loads_it(base, tmp_path):
    peft = pytest.importorskip("peft", reason="compared with PEFT")
    transformers = pytest.importorskip("transformers", reason="compared with PEFT")
    write_bundle(tmp_path / "lamps", trained(base))
    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "lamps")
    assert loaded.peft_config["default"].base_model_name_or_path == "org/tiny"


def test_the_card_is_one_that_a_hub_reads(base, tmp_path):
    write_bundle(tmp_path / "lamps", trained(base))
    card = ModelCard.load(tmp_path / "lamps/README.md")
    assert card.data.base_model == "org/tiny"
    assert card.data.base_model_relation == "adapter"
    assert card.data.library_name == "peft"
    assert "function-calling" in card.data.tags
    for text in ("# lamps", "calls right in 96%", "| exact match | 96.0%", "| `set_lights` | 96 |"):
        assert text in card.text


def test_names_of_others_cannot_break_the_card(base, tmp_path):
    odd = 'a: "b"\n---\n# c | `d`'
    write_bundle(tmp_path / "x", trained(base, base_model=odd))
    text = (tmp_path / "x/README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == odd
    assert "\n# c" not in text


def test_nothing_is_overwritten_unasked(base, tmp_path):
    folder = tmp_path / "lamps"
    write_bundle(folder, trained(base))
    with pytest.raises(ParameterError, match="not empty"):
        write_bundle(folder, trained(base))
    write_bundle(folder, trained(base, steps=7), overwrite=True)
    assert read_facts(folder)["training"]["steps"] == 7
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ParameterError, match="holds other files") as raised:
        require_place(folder, overwrite=True)
    assert raised.value.items == ("thesis.txt",)
    with pytest.raises(ParameterError, match="is a file"):
        require_place(folder / "thesis.txt", overwrite=True)
    require_place(tmp_path / "new", overwrite=False)


def test_a_full_disk_leaves_what_was_there(base, tmp_path, monkeypatch):
    folder = tmp_path / "lamps"
    write_bundle(folder, trained(base))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle, "write_synced", full)
    with pytest.raises(WriteError, match="No space left"):
        write_bundle(folder, trained(base, steps=7), overwrite=True)
    assert read_facts(folder)["training"]["steps"] == 600
    assert [file.name for file in tmp_path.iterdir()] == ["lamps"]


def test_equal_runs_give_equal_bytes(base, tmp_path):
    for name in ("a", "b"):
        write_bundle(tmp_path / name / "lamps", trained(base))
    for file in sorted((tmp_path / "a/lamps").iterdir()):
        assert file.read_bytes() == (tmp_path / "b/lamps" / file.name).read_bytes()


def test_a_folder_without_facts_has_none():
    assert read_facts(demo.adapter_path("home")) is None
