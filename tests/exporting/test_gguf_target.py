"""`lorakit.export(to="gguf")` as a whole: its files answer in llama.cpp as base and adapter."""

import json

import pytest

import lorakit
from folders import DATA
from llama_library import need_llama
from lorakit import demo
from lorakit.base.gguf import open_base
from lorakit.errors import MissingExtraError, UnsupportedError
from lorakit.exporting.targets import gguf
from lorakit.files.gguf import open_gguf

BASE = demo.base_path()
HOME = demo.adapter_path("home")
PROMPT = list(demo.examples("home", "values")[0].messages)
need_llama()


def answer(base, **options):
    with lorakit.open(base, **options) as model:
        return model.chat(PROMPT, temperature=0, max_tokens=24).text


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "home"
    return out, lorakit.export(BASE, out, to="gguf", adapter=HOME, quantize=["f32", "q8"])


def test_it_answers_as_base_and_adapter(merged):
    out, result = merged
    assert [file.path.name for file in result.files] == ["home-F32.gguf", "home-Q8_0.gguf"]
    assert result.files[0].parity.kl < 1e-6
    wanted = answer(BASE, adapter=HOME)
    assert answer(out / "home-F32.gguf") == wanted != answer(BASE)
    template = open_base(out / "home-F32.gguf").templates["default"]
    assert template == (BASE / "chat_template.jinja").read_text()
    said = json.loads(open_gguf(out / "home-F32.gguf", model=True).values["lorakit.export"].data)
    assert said["from"] == [{"name": "home", "scale": 1.0}]
    assert "-m home-F32.gguf" in (out / "README.md").read_text()


def test_a_gguf_base_becomes_a_folder_first(merged, tmp_path):
    """And back: the answer is the same, the name is that of the file."""
    out, _ = merged
    result = lorakit.export(out / "home-F32.gguf", tmp_path / "back", to="safetensors")
    assert result.files[0].parity.match == 1.0
    assert answer(tmp_path / "back") == answer(BASE, adapter=HOME)
    record = json.loads((tmp_path / "back/lorakit.json").read_text())
    assert record["base_name"] == "home-F32.gguf"


def test_kept_apart_it_is_two_files(tmp_path):
    out = tmp_path / "two"
    result = lorakit.export(BASE, out, to="gguf", adapter=HOME, mode="apart", quantize="Q4_0")
    parity = result.files[0].parity
    assert parity.apart.apart == parity.kl
    assert answer(out / "two-Q4_0.gguf") != answer(
        out / "two-Q4_0.gguf", adapter=out / "two-lora.gguf"
    )
    card = (out / "README.md").read_text()
    assert "--lora two-lora.gguf" in card
    assert "| adapter | `two-lora.gguf` |" in card


def test_parts_are_one_model(tmp_path):
    out = tmp_path / "parts"
    result = lorakit.export(
        BASE, out, to="gguf", adapter=HOME, quantize="f32", split_size=1_000_000
    )
    (file,) = result.files
    assert len(file.parts) > 2
    assert file.path.name.startswith("parts-F32-00001-of-")
    assert file.nbytes == sum(part.stat().st_size for part in file.parts)
    assert answer(file.path) == answer(BASE, adapter=HOME)


@pytest.mark.parametrize("name", ["dora", "alora"])
def test_an_adapter_that_gguf_cannot_hold_is_refused_before_anything(name, tmp_path):
    """An aLoRA adapter beside the model would act on every token in most programs of llama.cpp."""
    truth, phases = DATA / "truth", []
    with pytest.raises(UnsupportedError, match="beside"):
        lorakit.export(
            truth / "bases/llama",
            tmp_path / "out",
            to="gguf",
            adapter=truth / f"peft/llama/{name}",
            mode="apart",
            progress=lambda at: phases.append(at.phase),
        )
    assert set(phases) == {"preparing"}
    assert list(tmp_path.iterdir()) == []


def test_without_llama_cpp_nothing_is_compared_but_on_request(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise MissingExtraError("llama.cpp is missing")

    monkeypatch.setattr(gguf, "trial_vocabulary", missing)
    with pytest.raises(MissingExtraError):
        lorakit.export(BASE, tmp_path / "out", to="gguf")
    result = lorakit.export(BASE, tmp_path / "out", to="gguf", prove_it=False)
    assert result.files[0].parity is None
    assert any("not compared" in note for note in result.notes)
