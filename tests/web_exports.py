"""Exported graphs without the rest of an export, for tests of what is proven of them."""

import shutil

import numpy as np

from folders import DATA
from lorakit.base.folder import Base
from lorakit.graph.composed import Composed
from lorakit.graph.web import build_web, with_inputs, without_adapters
from lorakit.graph.weights import FileStore

BASES = DATA / "truth/bases"
COMPANIONS = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "config.json"),
)


def apart(adapters, chosen):
    """What adds adapters as weights of the graph, for `build_web`."""
    return lambda writer, dtype: Composed(
        writer=writer, adapters=adapters, dtype=dtype, chosen=chosen
    )


def build(base, folder, form="none", kind="merged", adapters=()):
    """One file onnx/model.onnx with its weights; a folder that a proof takes. Returns the file."""
    base = base if isinstance(base, Base) else Base.open(BASES / base)
    adapting = {
        "merged": without_adapters,
        "apart": apart(adapters, False),
        "composed": apart(adapters, True),
        "dynamic": with_inputs(base.decoder),
    }[kind]
    (folder / "onnx").mkdir(parents=True)
    file, store = folder / "onnx/model.onnx", FileStore(folder / "onnx", "model.onnx_data")
    file.write_bytes(build_web(base, form, store, context=512, adapting=adapting))
    store.close()
    for name in COMPANIONS:
        if (base.path / name).exists():
            shutil.copy(base.path / name, folder / name)
    return file


def ids(base, number=1):
    """Tokens whose logits are recorded."""
    with np.load(BASES / base / "base_logits.npz") as file:
        return file[f"ids{number}"].tolist()
