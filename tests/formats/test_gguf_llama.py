"""llama.cpp loads what we write, and computes what it does from its own converter's files."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from llama_library import need_llama
from lorakit.base.folder import Base
from lorakit.engines.llama.native import llama
from lorakit.formats.gguf import write_gguf
from lorakit.formats.peft import read_peft

TRUTH = Path(__file__).parents[1] / "data" / "truth"
IDS = [5, 17, 200, 33, 404, 8, 90]


def logits(base: Path, adapter: Path) -> np.ndarray:
    api = llama()
    parameters = api.llama_model_default_params()
    parameters.use_extra_bufts = False
    model = api.llama_model_load_from_file(str(base).encode(), parameters)
    lora = api.llama_adapter_lora_init(model, str(adapter).encode())
    assert lora
    context = api.llama_init_from_model(model, api.llama_context_default_params())
    adapters = (ctypes.c_void_p * 1)(lora)
    scales = (ctypes.c_float * 1)(1.0)
    api.llama_set_adapters_lora(context, adapters, 1, scales)
    tokens = (api.llama_token * len(IDS))(*IDS)
    assert api.llama_decode(context, api.llama_batch_get_one(tokens, len(IDS))) == 0
    found = np.ctypeslib.as_array(api.llama_get_logits(context), shape=(512,)).copy()
    api.llama_set_adapters_lora(context, None, 0, None)
    api.llama_adapter_lora_free(lora)
    api.llama_free(context)
    api.llama_model_free(model)
    return found


@pytest.mark.parametrize("base", ["gemma3", "llama"])
def test_same_logits_as_from_the_converter(tmp_path, base):
    need_llama()
    model = TRUTH / "gguf" / f"{base}.base.f32.gguf"
    path = tmp_path / "a.gguf"
    write_gguf(
        read_peft(TRUTH / "peft" / base / "plain"),
        path,
        Base.open(TRUTH / "bases" / base).decoder,
    )
    ours = logits(model, path)
    theirs = logits(model, TRUTH / "gguf" / f"{base}.plain.f32.gguf")
    np.testing.assert_array_equal(ours, theirs)
