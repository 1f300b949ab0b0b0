"""`lorakit.export` and its command: the folder is whole, opens in onnxruntime, and is refused early
or leaves nothing."""

import json
import shutil

import numpy as np
import pytest

import lorakit
from lorakit import AdapterConfig, demo
from lorakit.base.folder import Base
from lorakit.cli import run_line
from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    MismatchError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)
from lorakit.exporting.running import ExportedModel
from lorakit.files.cache import digest_of
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.merge.view import merged_view
from onnx_cases import DATA

BASE = demo.base_path()
HOME = AdapterConfig(demo.adapter_path("home"))
TRUTH = DATA / "truth"
FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """All of an export, proven."""
    place = tmp_path_factory.mktemp("exports") / "home"
    result = lorakit.export(BASE, place, adapter=HOME, mode="merged", quantize=["none", "q8"])
    return place, result


def test_the_folder_is_what_transformers_js_loads(merged):
    place, result = merged
    config = json.loads((place / "config.json").read_text())
    page = config["transformers.js_config"]
    assert set(page["use_external_data_format"]) == {"model.onnx", "model_quantized.onnx"}
    assert page["dtype"] == "fp32"
    assert page["lorakit"]["base"] == Base.open(BASE).fingerprint
    assert page["lorakit"]["adapters"] == "merged"
    assert config["max_position_embeddings"] == result.context == 1024
    template = json.loads((place / "tokenizer_config.json").read_text())["chat_template"]
    assert template == (BASE / "chat_template.jinja").read_text()
    stops = json.loads((place / "generation_config.json").read_text())["eos_token_id"]
    assert {2, 5} <= set(stops)
    record = json.loads((place / "lorakit.json").read_text())
    paths = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert set(record["files"]) == paths - {"lorakit.json"}
    assert paths >= FILES | {"README.md", "parity.json", "onnx/model.onnx_data"}
    assert all(digest_of(place / name) == digest for name, digest in record["files"].items())
    assert result.nbytes == sum((place / name).stat().st_size for name in paths)


def test_the_result_says_how_close_it_is(merged):
    place, result = merged
    exact, small = result.files
    assert exact.path == place / "onnx/model.onnx"
    assert exact.parity.kl < 1e-9 < small.parity.kl < 0.01
    assert small.parity.apart is not None
    said = json.loads((place / "parity.json").read_text())["files"]
    assert said["model_quantized.onnx"]["kl"] == small.parity.kl
    assert json.dumps(result.to_dict())


def test_what_is_no_export_is_not_called_one():
    with pytest.raises(SourceError) as found:
        lorakit.open(BASE.parent / "adapters/home")
    assert "export" not in str(found.value)


def test_a_context_is_what_it_holds(tmp_path):
    lorakit.export(BASE, tmp_path / "out", quantize="none", context=16, proof=None, prove_it=False)
    model = ExportedModel(tmp_path / "out/onnx/model.onnx")
    assert model.logits(range(16), {}, 1).shape == (1, 1024)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["max_position_embeddings"] == 16


@pytest.mark.parametrize("name", ["plain", "rslora", "embed_lmhead", "dora"])
def test_a_view_is_what_a_merge_writes(name, tmp_path):
    """Tensor by tensor, untied heads and DoRA included."""
    base, adapter = Base.open(TRUTH / "bases/llama"), read_adapter(TRUTH / f"peft/llama/{name}")
    merge(base, [(adapter, 0.5)], tmp_path / "merged", dtype="f32")
    written, view = Base.open(tmp_path / "merged"), merged_view(base, [(adapter, 0.5)])
    assert set(view.tensors) == set(written.tensors)
    changed = 0
    for module in view.decoder.modules():
        one, other = view.weight(module), written.weight(module)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        changed += not np.allclose(one, base.weight(module), atol=1e-4)
    assert changed  # a view of nothing would not be found otherwise


def copied_base(folder, without):
    shutil.copytree(BASE, folder)
    for name in without:
        (folder / name).unlink()
    return folder


def refused(error, tmp_path, base=BASE, **options):
    """What is said before anything is written."""
    phases = []
    with pytest.raises(error) as found:
        lorakit.export(base, tmp_path / "out", progress=lambda p: phases.append(p.phase), **options)
    assert set(phases) == {"preparing"}
    assert not (tmp_path / "out").exists()
    return found.value


def test_what_cannot_be_exported_is_refused_at_once(tmp_path, monkeypatch):
    refused(CapabilityError, tmp_path, DATA / "families/phi3")
    assert (
        refused(
            BaseModelError, tmp_path, copied_base(tmp_path / "mute", ["chat_template.jinja"])
        ).code
        == "template_missing"
    )
    assert (
        refused(
            BaseModelError, tmp_path, copied_base(tmp_path / "wordless", ["tokenizer.json"])
        ).code
        == "tokenizer_missing"
    )
    refused(MismatchError, tmp_path, adapter=TRUTH / "peft/llama/plain")
    refused(ParameterError, tmp_path, quantize="q5")
    refused(ParameterError, tmp_path, quantize=[])
    refused(ParameterError, tmp_path, mode="composed")
    refused(ParameterError, tmp_path, context=4096)
    refused(ParameterError, tmp_path, context=15)
    limits = lorakit.ProofOptions(max_kl=0)
    refused(ParameterError, tmp_path, proof=limits, prove_it=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    refused(WriteError, tmp_path)


def test_adapters_that_inputs_cannot_say_are_refused(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(TRUTH / "bases/gemma3", base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BASE / name, base / name)
    for name in ("dora", "embed_tied"):
        adapter = TRUTH / f"peft/gemma3/{name}"
        for mode in ("dynamic", "composed", "apart"):
            refused(UnsupportedError, tmp_path, base, adapter=adapter, mode=mode)
        lorakit.export(
            base, tmp_path / name, adapter=adapter, mode="merged", quantize="none", prove_it=False
        )


def test_another_folder_is_not_replaced(merged, tmp_path):
    place, _ = merged
    before = digest_of(place / "lorakit.json")
    with pytest.raises(ParameterError, match="exists"):
        lorakit.export(BASE, place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/diary.txt").write_text("dear diary")
    with pytest.raises(ParameterError, match="something else"):
        lorakit.export(BASE, tmp_path / "mine", overwrite=True)
    assert digest_of(place / "lorakit.json") == before
    again = tmp_path / "again"
    for quantize in ("none", "fp16"):
        lorakit.export(BASE, again, quantize=quantize, overwrite=True, prove_it=False)
    assert (again / "onnx/model_fp16.onnx").exists()
    assert not (again / "onnx/model.onnx").exists()
    (again / "onnx/diary.txt").write_text("dear diary")
    with pytest.raises(ParameterError, match="something else") as found:
        lorakit.export(BASE, again, overwrite=True)
    assert found.value.items == ("onnx/diary.txt",)
    assert (again / "onnx/diary.txt").exists()


def test_a_proof_stays_within_the_context(tmp_path):
    for context in (16, 64):
        place = tmp_path / str(context)
        result = lorakit.export(BASE, place, adapter=HOME, quantize="none", context=context)
        assert result.files[0].parity.kl < 1e-9


def test_an_adapter_at_scale_0_is_the_base(tmp_path):
    none = AdapterConfig(demo.adapter_path("home"), scale=0.0)
    result = lorakit.export(BASE, tmp_path / "out", adapter=none, mode="merged")
    assert result.files[0].parity.kl < 0.05


@pytest.mark.parametrize("phase", ["converting", "quantising", "verifying"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_stopped_leaves_nothing(phase, error, tmp_path):
    seen = []

    def stop(at):
        seen.append(at.phase)
        if at.phase == phase and at.done:
            raise error

    with pytest.raises(error):
        lorakit.export(BASE, tmp_path / "out", quantize=["none", "q8"], progress=stop)
    assert seen[-1] == phase
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    words = ["export", str(BASE), "--to", "onnx", "-o", str(tmp_path / "out"), "--json"]
    words += ["-a", f"{HOME.path}:0.5", "--adapters", "dynamic", "--quantize", "none,fp16"]
    run_line(words)
    said = json.loads(capsys.readouterr().out)
    assert [file["form"] for file in said["files"]] == ["none", "fp16"]
    assert said["files"][0]["parity"]["sides"][1]["name"] == "home"
    record = json.loads((tmp_path / "out/lorakit.json").read_text())
    assert record["adapters"] == "dynamic"
    assert record["from"][0]["scale"] == 0.5


def test_an_absolute_scale_replaces_the_files_own(tmp_path, capsys):
    own = read_adapter(HOME.path).deltas[0].scale
    for place, said in (("absolute", f":={2 * own}"), ("relative", ":2")):
        words = ["export", str(BASE), "--to", "safetensors", "-o", str(tmp_path / place)]
        run_line([*words, "-a", f"{HOME.path}{said}", "--no-proof"])
    one, other = (tmp_path / place / "model.safetensors" for place in ("absolute", "relative"))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes() != (BASE / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "compose", ["", "home=HOME,home=HOME", "HOME,HOME"], ids=["nothing", "one name", "one folder"]
)
def test_no_adapter_of_compose_is_lost(compose, tmp_path):
    words = compose.replace("HOME", str(demo.adapter_path("home")))
    line = ["export", str(BASE), "--to", "onnx", "-o", str(tmp_path / "out"), "--compose", words]
    with pytest.raises(ParameterError):
        run_line(line)
    assert not (tmp_path / "out").exists()
