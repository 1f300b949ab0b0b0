"""GGUF files in every form and in parts, and what a failure leaves."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from gguf_bases import FAMILIES, SHAPE, arrays, logits, make_base, model_of, written
from gguf_files import changed
from llama_library import need_llama
from lorakit.base.folder import Base
from lorakit.engines.llama.quantize import quantize
from lorakit.engines.llama.quantize_types import MIXES
from lorakit.errors import FormatError, LorakitError, ParameterError, UnsupportedError
from lorakit.exporting.gguf import expected_bytes, write_gguf
from lorakit.files import gguf_stream
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.files.rounding import ROUNDINGS
from lorakit.merge.gguf.tensors import Source

OWN = tuple(ROUNDINGS)
# Rows of 256 values, as K-quants need; the tensors of 96 take what llama.cpp falls back to.
WIDE = SHAPE | {"model_type": "llama", "hidden_size": 256, "intermediate_size": 288}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("wide") / "base", WIDE, ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("small") / "base", FAMILIES["llama"])


# Forms.


@pytest.mark.parametrize("form", MIXES)
def test_a_form_is_what_quantising_the_f32_file_gives(wide, tmp_path, form):
    """What that gives is recorded of llama.cpp: types, order, rounding."""
    if form not in OWN:
        need_llama()
    ours = written(wide, tmp_path / "ours.gguf", form)
    theirs = quantize(written(wide, tmp_path / "f32.gguf"), tmp_path / "theirs.gguf", type=form)
    assert ours.read_bytes() == theirs.path.read_bytes()
    assert expected_bytes(model_of(wide), form) == ours.stat().st_size
    kinds = {tensor.kind for tensor in open_gguf(ours, model=True).tensors.values()}
    assert MIXES[form].usual in kinds


@pytest.mark.parametrize("form", MIXES)
def test_llama_cpp_opens_every_form(wide, tmp_path, form):
    need_llama()
    right = logits(written(wide, tmp_path / "f32.gguf"))
    found = logits(written(wide, tmp_path / "q.gguf", form))
    assert np.isfinite(found).all()
    difference = np.sqrt(np.mean((found - right) ** 2))
    near = {"F32": 0.0, "F16": 0.005, "BF16": 0.03, "Q8_0": 0.1}
    assert difference <= near[form] if form in near else difference > 0.1


@pytest.mark.parametrize("name", ["gemma3", "qwen3 experts", "gpt2", "phi3 long"])
@pytest.mark.parametrize("form", OWN)
def test_types_are_those_of_llama_cpps_converter(tmp_path, name, form):
    """Matrices take the form's; norms, biases, routers, positions and factors stay F32."""
    path = written(make_base(tmp_path / "base", FAMILIES[name]), tmp_path / "m.gguf", form)
    for tensor, stored in open_gguf(path, model=True).tensors.items():
        kept = len(stored.shape) == 1 or tensor.endswith("_norm.weight")
        kept |= "ffn_gate_inp" in tensor or tensor == "position_embd.weight"
        assert stored.kind == ("F32" if kept else form), tensor


def test_rows_that_no_block_divides_take_f16(tmp_path):
    need_llama()
    config = SHAPE | {"model_type": "llama", "hidden_size": 80, "intermediate_size": 64}
    folder = make_base(tmp_path / "base", config)
    path = written(folder, tmp_path / "m.gguf", "Q8_0")
    kinds = {name: tensor.kind for name, tensor in open_gguf(path, model=True).tensors.items()}
    assert kinds["blk.0.ffn_up.weight"] == "F16"  # rows of 80
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert np.abs(logits(path) - logits(written(folder, tmp_path / "f32.gguf"))).max() < 0.1


def test_values_of_any_dtype_are_rounded_once(tmp_path):
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        folder = make_base(tmp_path / np.dtype(dtype).name, WIDE, dtype)
        values = Base.open(folder).tensor("model.layers.0.mlp.up_proj.weight")
        for form, kept in (("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)):
            path = written(folder, folder / f"{form}.gguf", form)
            assert np.array_equal(arrays(path)["blk.0.ffn_up.weight"], values.astype(kept))


def test_q8_0_is_bit_for_bit_ggmls(monkeypatch):
    need_llama()
    from lorakit.engines.llama.native import llama
    from lorakit.engines.llama.quantize_values import _to_blocks

    rng = np.random.default_rng(0)
    ties = rng.integers(-254, 255, (512, 32)).astype(np.float32) / 2
    ties[:, 0] = 127
    beside = np.nextafter(ties, rng.choice([-1e9, 1e9], ties.shape).astype(np.float32))
    beside[:, 0] = 127
    sizes = 10.0 ** rng.uniform(-44, 6, (512, 1)) * rng.standard_normal((512, 32))
    rows = np.concatenate([ties, beside, sizes.astype(np.float32), np.zeros((1, 32), np.float32)])
    theirs = _to_blocks(llama(), "Q8_0", rows)
    ours = ROUNDINGS["Q8_0"](rows)
    assert np.array_equal(ours, theirs)
    to_even = np.rint(rows * (127 / np.abs(ties[0, 0])))[:512].astype(np.int8)
    assert not np.array_equal(to_even, ours.reshape(-1, 34)[:512, 2:].view(np.int8))


def test_neither_threads_nor_pieces_change_a_byte(wide, tmp_path, monkeypatch):
    model = model_of(wide)
    whole = write_gguf(model, tmp_path / "1.gguf", "Q8_0", threads=1)[0].read_bytes()
    monkeypatch.setattr(gguf_stream, "PIECE", 600)
    assert write_gguf(model, tmp_path / "5.gguf", "Q8_0", threads=5)[0].read_bytes() == whole


# Parts.


def sizes(path):
    """Of a file's tensors, padded."""
    return [-(-t.raw.nbytes // 32) * 32 for t in open_gguf(path, model=True).tensors.values()]


@pytest.mark.parametrize("form", ["F16", "Q8_0"])
def test_parts_are_named_marked_and_cut_as_llama_gguf_split_does(small, tmp_path, form):
    whole = open_gguf(written(small, tmp_path / "w.gguf", form), model=True, vocabulary=True)
    paths = write_gguf(model_of(small), tmp_path / "m.gguf", form, split_size=40_000)
    count = len(paths)
    assert count > 3
    assert [path.name for path in paths] == [
        f"m-{at + 1:05}-of-{count:05}.gguf" for at in range(count)
    ]
    parts = [open_gguf(path, model=True, vocabulary=True) for path in paths]
    marks = {
        "split.count": Value("u16", count),
        "split.tensors.count": Value("i32", len(whole.tensors)),
    }
    for at, part in enumerate(parts):
        assert {k: v for k, v in part.values.items() if k.startswith("split.")} == {
            **marks,
            "split.no": Value("u16", at),
        }
        assert at == 0 or len(part.values) == 3
    kept = {k: v for k, v in parts[0].stored.items() if not k.startswith("split.")}
    assert kept == dict(whole.stored)
    for part, following in pairwise(paths):  # each is as full as it can be
        assert sum(sizes(part)) <= 40_000 or len(sizes(part)) == 1
        assert sum(sizes(part)) + sizes(following)[0] > 40_000
    joined = open_gguf_model(paths[0])
    assert {n: t.raw.tobytes() for n, t in joined.tensors.items()} == {
        n: t.raw.tobytes() for n, t in whole.tensors.items()
    }


def test_llama_cpp_opens_parts_by_the_first(small, tmp_path):
    need_llama()
    right = logits(written(small, tmp_path / "w.gguf", "Q8_0"))
    paths = write_gguf(model_of(small), tmp_path / "m.gguf", "Q8_0", split_size=30_000)
    assert np.array_equal(logits(paths[0]), right)
    unmarked = dict.fromkeys(("split.no", "split.count", "split.tensors.count"))
    with pytest.raises(LorakitError):
        logits(changed(paths[0], tmp_path / "unmarked.gguf", unmarked))


def test_what_fits_is_one_file(small, tmp_path):
    one = written(small, tmp_path / "w.gguf", "F16")
    paths = write_gguf(model_of(small), tmp_path / "m.gguf", "F16", split_size=1 << 30)
    assert [path.name for path in paths] == ["m.gguf"]
    assert paths[0].read_bytes() == one.read_bytes()


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1G"])
def test_a_split_size_is_a_number_of_bytes(small, tmp_path, size):
    with pytest.raises(ParameterError, match="split_size"):
        write_gguf(model_of(small), tmp_path / "m.gguf", "F16", split_size=size)
    assert list(tmp_path.iterdir()) == []


def test_more_parts_than_can_be_open_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.exporting.gguf.write.MAX_PARTS", 3)
    with pytest.raises(ParameterError, match="3 is the limit"):
        write_gguf(model_of(small), tmp_path / "m.gguf", "F16", split_size=1)


# Failures.


def with_values(model, name, change):
    """A model one of whose tensors has other values."""
    source = model.tensors[name]
    values = np.concatenate([np.array(block, np.float32) for block in source.blocks()])
    change(values)
    other = Source(shape=source.shape, blocks=lambda: iter([values]))
    return replace(model, tensors={**model.tensors, name: other})


@pytest.mark.parametrize("form", [*OWN, "Q4_K_M"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.2.ffn_up.weight", "blk.2.attn_norm.weight"])
def test_values_that_are_not_finite_are_refused(wide, tmp_path, form, value, name):
    if form not in OWN:
        need_llama()
    model = with_values(model_of(wide), name, lambda values: values.__setitem__((-1, 7), value))
    with pytest.raises(FormatError, match=f"{name} has values that are not finite"):
        write_gguf(model, tmp_path / "m.gguf", form)
    with pytest.raises(FormatError):
        write_gguf(model, tmp_path / "m.gguf", form, split_size=100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["F16", "Q8_0"])
def test_values_that_a_form_cannot_hold_are_refused(wide, tmp_path, form):
    name = "blk.2.ffn_up.weight"
    model = with_values(model_of(wide), name, lambda values: values.__setitem__((3, 5), 1e9))
    with pytest.raises(UnsupportedError, match=rf"{name} has values up to 1e\+09, which {form}"):
        write_gguf(model, tmp_path / "m.gguf", form)
    assert write_gguf(model, tmp_path / "m.gguf", "BF16")


def test_progress_counts_bytes_and_may_end_the_work(small, tmp_path):
    seen = []
    model = model_of(small)
    path = write_gguf(model, tmp_path / "m.gguf", "F16", on_bytes=seen.append)[0]
    stored = sum(t.raw.nbytes for t in open_gguf(path, model=True).tensors.values())
    assert seen == sorted(seen)
    assert seen[-1] == stored
    path.unlink()

    def stop(done):
        if done > stored // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(model, path, "F16", split_size=30_000, on_bytes=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(small, tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_gguf(model_of(small), tmp_path / "m.gguf", "F16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


NO_LIBRARY = """
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "gguf", "llama_cpp", "xllamacpp"]))
from pathlib import Path
from lorakit.base.folder import Base
from lorakit.exporting.gguf import gguf_model, write_gguf
model = gguf_model(Base.open(sys.argv[1]), name="m", templates={})
for form in ("F32", "F16", "BF16", "Q8_0"):
    write_gguf(model, Path(sys.argv[2]) / f"{form}.gguf", form)
loaded = [name for name in ("onnxruntime", "lorakit.engines.llama.native") if name in sys.modules]
print(loaded)
"""


def test_floats_and_q8_0_load_no_engine(small, tmp_path):
    command = [sys.executable, "-c", NO_LIBRARY, str(small), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["BF16", "F16", "F32", "Q8_0"]
