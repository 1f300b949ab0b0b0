"""llama.cpp loads what we write, and computes what it does from its own converter's files."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from lorakit.base.folder import Base
from lorakit.formats.gguf import write_gguf
from lorakit.formats.peft import read_peft

TRUTH = Path(__file__).parents[1] / "data" / "truth"
IDS = [5, 17, 200, 33, 404, 8, 90]


def logits(llama_cpp, base: Path, adapter: Path) -> np.ndarray:
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(str(base).encode(), parameters)
    lora = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
    assert lora
    context = llama_cpp.llama_init_from_model(model, llama_cpp.llama_context_default_params())
    adapters = (type(lora) * 1)(lora)
    scales = (ctypes.c_float * 1)(1.0)
    llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales)
    tokens = (llama_cpp.llama_token * len(IDS))(*IDS)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(IDS))) == 0
    found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(512,)).copy()
    llama_cpp.llama_set_adapters_lora(context, None, 0, None)
    llama_cpp.llama_adapter_lora_free(lora)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return found


@pytest.mark.parametrize("base", ["gemma3", "llama"])
def test_same_logits_as_from_the_converter(tmp_path, base):
    llama_cpp = pytest.importorskip("llama_cpp", reason="the oracle is llama.cpp")
    model = TRUTH / "gguf" / f"{base}.base.f32.gguf"
    path = tmp_path / "a.gguf"
    write_gguf(
        read_peft(TRUTH / "peft" / base / "plain"),
        path,
        Base.open(TRUTH / "bases" / base).decoder,
    )
    ours = logits(llama_cpp, model, path)
    theirs = logits(llama_cpp, model, TRUTH / "gguf" / f"{base}.plain.f32.gguf")
    np.testing.assert_array_equal(ours, theirs)
