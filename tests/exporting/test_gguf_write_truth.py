"""Adapters merged into GGUF files give what PEFT and mlx-lm recorded of them, in llama.cpp."""

import numpy as np
import pytest

import lorakit
from folders import DATA
from gguf_bases import written
from llama_library import need_llama
from lorakit.base.folder import Base
from lorakit.errors import UnsupportedError
from lorakit.formats import read_adapter
from lorakit.merge.view import merged_view

TRUTH = DATA / "truth"
FOLDERS = sorted(path.parent for source in ("peft", "mlx") for path in
                 (TRUTH / source).glob("*/*/logits.npz"))  # fmt: skip
CASES = {path.relative_to(TRUTH).as_posix(): path for path in FOLDERS}
OWN_TESTS = ("alora", "pickle_bin")  # acts on some tokens alone, which no merge can; needs torch
# ggml looks GELU up in a table of float16, which shifts large logits of a DoRA by 4e-3.
NEAR = {"gemma3": 5e-3, "llama": 2e-4}


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith(OWN_TESTS)])
def test_merged_adapters_give_the_recorded_logits(tmp_path, case):
    need_llama()
    name = case.split("/")[1]
    base = Base.open(TRUTH / "bases" / name)
    adapter = read_adapter(CASES[case], base.decoder)
    path = written(merged_view(base, [(adapter, 1.0)]), tmp_path / "m.gguf")
    with np.load(CASES[case] / "logits.npz") as file:
        truth = dict(file)
    with lorakit.open(path, engine="llama", threads=1) as model, np.load(
        base.path / "base_logits.npz"
    ) as plain:  # fmt: skip
        for index in range(3):
            expected = truth[f"scale1_{index}"]
            found = np.array(model.logits(truth[f"ids{index}"].tolist()))
            assert np.abs(found - expected).max() < NEAR[name]
            assert np.abs(plain[f"logits{index}"] - expected).max() > 20 * NEAR[name]


def test_an_adapter_of_some_tokens_alone_is_refused():
    base = Base.open(TRUTH / "bases/llama")
    adapter = read_adapter(TRUTH / "peft/llama/alora", base.decoder)
    with pytest.raises(UnsupportedError):
        merged_view(base, [(adapter, 1.0)])
