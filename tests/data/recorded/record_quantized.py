"""Record what llama.cpp's own llama_model_quantize and ggml_quantize_chunk write.

    PYTHONPATH=tests python tests/data/recorded/record_quantized.py

Needs llama-cpp-python, compiled; it writes quantized.json beside itself, and says where lorakit's
output differs. The models are those of tests/quantize_cases.py. `models` holds, by
model and file type, the types of the tensors and the SHA-256 of the whole file; `rows`, by tensor
type, a digest of each of some rows. Compilers that contract a * b + c round some rows otherwise.
"""

import ctypes
import json
import os
import tempfile
from pathlib import Path

import llama_cpp.llama_cpp as llama_cpp
import numpy as np

from lorakit.engines.llama.quantize import TYPES, quantize
from lorakit.files.gguf_types import TYPE_NUMBERS, stored_size
from quantize_cases import MODELS, RECORDED, hard_rows, row_digests, summary, write_model

KINDS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "TQ1_0", "TQ2_0", "F16", "BF16",
)  # fmt: skip


@llama_cpp.llama_log_callback
def quiet(*_):
    pass


def theirs(source, output, number):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = number, 1
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), params):
        raise SystemExit(f"llama.cpp cannot quantise {source}")


def of_model(name, folder):
    source = write_model(name, folder / "source.gguf")
    found = {}
    for file_type, number in TYPES.items():
        theirs(source, folder / "theirs.gguf", number)
        found[file_type] = summary(folder / "theirs.gguf")
        quantize(source, folder / "ours.gguf", type=file_type)
        if summary(folder / "ours.gguf") != found[file_type]:
            print(f"differs: {name}, {file_type}")
        (folder / "ours.gguf").unlink()
    return found


def of_rows(kind):
    rows = hard_rows()
    out = np.empty(stored_size(kind, rows.size), np.uint8)
    chunk = ctypes.CDLL(str(_base_library())).ggml_quantize_chunk
    chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p,
    )  # fmt: skip
    chunk(TYPE_NUMBERS[kind], rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
    return row_digests(kind, out)


def _base_library():
    return next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))


if __name__ == "__main__":
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    with tempfile.TemporaryDirectory() as folder:
        models = {name: of_model(name, Path(folder)) for name in MODELS}
    content = {"models": models, "rows": {kind: " ".join(of_rows(kind)) for kind in KINDS}}
    RECORDED.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
