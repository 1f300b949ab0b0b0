"""Safetensors folders in transformers itself: base and adapter give their trainer's logits."""

import json

import numpy as np
import pytest

from exported_cases import ADAPTERS, GEMMA, LLAMA, TRUTH, base_of, held, scaled, truth
from lorakit.base.folder import Base
from lorakit.errors import AdapterError, UnsupportedError
from lorakit.exporting.safetensors import FORMS, expected_bytes, write_folder
from lorakit.files.safetensors import write_safetensors
from lorakit.formats import read_adapter

NAMED = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def run(folder, ids):
    """transformers' logits of a folder in float32: [tokens, vocabulary]."""
    torch = pytest.importorskip("torch", reason="the oracle is transformers")
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model.eval()(torch.tensor(np.asarray(ids))[None]).logits[0].numpy()


@pytest.mark.parametrize("case", ADAPTERS)
def test_transformers_gives_the_trainers_logits(case, out):
    base = base_of(case)
    write_folder(base, scaled(case), out, "none")
    for ids, expected, step in truth(case):
        assert np.abs(run(out, ids)[::step] - expected).max() < 2e-4
    ids, expected, step = truth(case)[0]  # the broken variant: a merge that does nothing
    assert np.abs(run(base.path, ids)[::step] - expected).max() > 1e-3


def test_without_an_adapter_it_is_the_base_byte_for_byte(out):
    (file,) = write_folder(Base.open(GEMMA), [], out, "none")
    assert file.read_bytes() == (GEMMA / file.name).read_bytes()
    config, before = (json.loads((each / "config.json").read_text()) for each in (out, GEMMA))
    assert before.items() <= config.items()  # and RoPE's base for older readers
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (GEMMA / name).read_bytes()
    assert not (out / "base_logits.npz").exists()


@pytest.mark.parametrize("form", FORMS)
def test_forms_bytes_and_progress(form, out):
    base, done = Base.open(LLAMA), []
    adapters = [(read_adapter(TRUTH / "peft/llama/plain"), 0.5)]
    files = write_folder(base, adapters, out, form, on_bytes=done.append)
    size = sum(file.stat().st_size for file in files)
    assert expected_bytes(base, adapters, form) == size == done[-1]
    assert {dtype for dtype, _, _ in held(out).values()} == {NAMED.get(form, "F32")}
    ids = np.arange(5, 29)
    near = np.abs(run(out, ids) - run(base.path, ids)).max()
    assert np.isfinite(near)
    assert near > 1e-3


def test_the_files_of_a_base_stay_its_files_with_an_index(tmp_path, out):
    base, folder = Base.open(LLAMA), tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_bytes((LLAMA / "config.json").read_bytes())
    homes = {}
    for n in range(3):
        name = f"model-0000{n + 1}-of-00003.safetensors"
        some = {key: base.tensors[key] for key in sorted(base.tensors)[n::3]}
        homes |= dict.fromkeys(some, name)
        with (folder / name).open("wb") as file:
            write_safetensors(file, some, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": homes}))
    case = "truth/peft/llama/plain"
    files = write_folder(Base.open(folder), scaled(case), out, "f16")
    assert [file.name for file in files] == sorted(set(homes.values()))
    written = json.loads((out / index.name).read_text())
    assert written["weight_map"] == homes
    assert written["metadata"]["total_size"] == sum(t.size * 2 for t in base.tensors.values())
    assert np.abs(run(out, truth(case)[0][0]) - truth(case)[0][1]).max() < 0.05


def test_an_adapter_that_no_weights_express_is_refused_first(out):
    adapters = [(read_adapter(TRUTH / "peft/llama/alora"), 1.0)]
    with pytest.raises(UnsupportedError, match="invocation"):
        expected_bytes(Base.open(LLAMA), adapters, "none")
    with pytest.raises(UnsupportedError, match="invocation"):
        write_folder(Base.open(LLAMA), adapters, out, "none")
    assert list(out.iterdir()) == []


def test_values_that_the_dtype_cannot_hold_are_told(out):
    adapters = [(read_adapter(TRUTH / "peft/llama/plain"), 1e7)]
    with pytest.raises(AdapterError, match="beyond what float16 can hold"):
        write_folder(Base.open(LLAMA), adapters, out, "f16")
