"""Adapters that PEFT saved with added tokens: the records hold, and nobody gets other logits."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.formats.convert import repair

DATA = Path(__file__).parents[1] / "data"
BASE = DATA / "truth/bases/gemma3"
FOLDERS = sorted(path.parent for path in DATA.glob("added/gemma3/*/logits.npz"))
ORIGINAL = ("original_module.weight", "token_adapter.base_layer.weight")  # of the grown base


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_peft_computes_what_is_recorded(path):
    peft = pytest.importorskip("peft", reason="the oracle of this test")
    torch = pytest.importorskip("torch", reason="the oracle of this test")
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    from safetensors.torch import load_file

    model = transformers.AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float32, attn_implementation="eager"
    )
    stored = load_file(path / "adapter_model.safetensors")
    table = next(t for n, t in stored.items() if "embed_tokens" in n and n.endswith(ORIGINAL))
    model.resize_token_embeddings(len(table), mean_resizing=False)
    with torch.no_grad(), np.load(path / "logits.npz") as truth:
        model.get_input_embeddings().weight.copy_(table)
        model = peft.PeftModel.from_pretrained(model, path).eval()
        for index in range(3):
            found = model(torch.from_numpy(truth[f"ids{index}"])[None]).logits[0]
            np.testing.assert_allclose(found, truth[f"scale1_{index}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_we_read_them_with_all_their_rows(path):
    """More than the base has: it grows (tests/model/test_added_tokens.py has the logits)."""
    decoder = Base.open(BASE).decoder
    adapter = read_adapter(path, decoder)
    tables = [part for part in adapter.replacements if part.kind != "norm"]
    assert tables
    assert {part.value.shape[-1] for part in tables} == {decoder.hidden}


def test_a_table_below_replaced_rows_is_written_where_peft_looks_for_it(tmp_path):
    """Under the module's own name PEFT ignores it: new rows that were not trained are then lost."""
    path = DATA / "added/gemma3/tt"
    repair(path, tmp_path / "out")
    before, after = (load_file(p / "adapter_model.safetensors") for p in (path, tmp_path / "out"))
    below = {name for name in before if name.endswith("token_adapter.base_layer.weight")}
    assert len(below) == 2
    assert below == {name for name in after if name.endswith("token_adapter.base_layer.weight")}
    for name in below:
        np.testing.assert_array_equal(before[name], after[name])
        assert name.replace(".token_adapter.base_layer", "") not in after
