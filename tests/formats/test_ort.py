"""ONNX Runtime adapters: read what Olive wrote, write what onnxruntime reads, refuse the rest."""

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.errors import FormatError, LorakitError, ParameterError, UnsupportedError
from lorakit.formats import read_adapter, sniff
from lorakit.formats.ort import read_ort, read_parameters, write_ort

TRUTH = Path(__file__).parent.parent / "data/truth"
OLIVE = {"gemma3/plain": "gemma3.plain", "llama/rslora": "llama.rslora"}


@pytest.mark.parametrize("name", OLIVE)
def test_what_olive_wrote_is_the_peft_adapter(name):
    """Whose logits the engine's tests compare with PEFT's."""
    path = TRUTH / "ort" / f"{OLIVE[name]}.olive.onnx_adapter"
    assert sniff(path) == "ort"
    found, peft = read_adapter(path), read_adapter(TRUTH / "peft" / name)
    assert found.modules == peft.modules
    for ours, theirs in zip(found.deltas, peft.deltas, strict=True):
        np.testing.assert_array_equal(ours.a, theirs.a)
        np.testing.assert_allclose(ours.b, theirs.b * np.float32(theirs.scale), rtol=1e-6)


@st.composite
def adapters(draw):
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]))
    names = draw(st.sets(st.text("abc_0", min_size=1, max_size=9), min_size=1, max_size=4))
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
    shapes = {name: draw(sizes) for name in names}
    return Adapter(
        deltas=tuple(
            Delta(
                module=name,
                a=rng.standard_normal((rank, n_in)).astype(dtype),
                b=rng.standard_normal((n_out, rank)).astype(dtype),
                scale=1.0,
            )
            for name, (rank, n_in, n_out) in shapes.items()
        )
    )


@settings(max_examples=60, deadline=None)
@given(adapters())
def test_written_is_read_as_the_same_here_and_by_onnxruntime(adapter):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "a", Path(folder) / "b"
        write_ort(adapter, first)
        found = read_ort(first).in_memory()
        assert found == adapter
        write_ort(found, second)
        assert first.read_bytes() == second.read_bytes()
        file = onnxruntime.AdapterFormat.read_adapter(str(first))
        theirs = file.get_parameters()  # views of it, which does not live as long as they
        ours = read_parameters(first)
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            assert tuple(value.shape()) == ours[name].shape
            if ours[name].dtype != ml_dtypes.bfloat16:
                np.testing.assert_array_equal(value.numpy(), ours[name])


def delta(module="q", rank=2, **more):
    ones = np.ones((3, 3), np.float32)
    return Delta(module=module, **{"a": ones[:rank], "b": ones[:, :rank], "scale": 2.0} | more)


def test_the_scale_is_folded_into_b(tmp_path):
    write_ort(Adapter(deltas=(delta(scale=-1.5),)), tmp_path / "a")
    (found,) = read_ort(tmp_path / "a").deltas
    assert found.scale == 1.0
    assert (found.b == -1.5).all()


def test_what_the_format_cannot_say_is_listed_in_one_error(tmp_path):
    ones = np.ones((2, 3, 3), np.float32)
    adapter = Adapter(
        deltas=(delta("table", site=Site.INPUT), delta("experts", a=ones, b=ones)),
        replacements=(Replacement(name="model.norm.weight", value=ones[0, 0]),),
        magnitudes=(Magnitude(module="dora", value=ones[0, 0]),),
        invocation_tokens=(1,),
    )
    with pytest.raises(UnsupportedError) as caught:
        write_ort(adapter, tmp_path / "out")
    for said in ("table", "experts", "model.norm", "dora", "invocation"):
        assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ParameterError):
        write_ort(Adapter(deltas=(delta(),)), tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_damaged_files_are_refused_or_read_but_never_trusted(tmp_path):
    """Every cut, and every byte outside the data set to 255."""
    write_ort(Adapter(deltas=(delta(),)), tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    for index in range(len(good)):
        for name, content in (
            ("cut", good[:index]),
            ("high", good[:index] + b"\xff" + good[index + 1 :]),
        ):
            path = tmp_path / f"{name}{index}"
            path.write_bytes(content)
            try:
                read_ort(path)
            except LorakitError:
                continue
            assert name == "high"


def test_unknown_names_are_refused(tmp_path):
    path = tmp_path / "a"
    write_ort(Adapter(deltas=(delta(),)), path)
    path.write_bytes(path.read_bytes().replace(b"lora_B", b"lora_C"))
    with pytest.raises(UnsupportedError, match="graph input"):
        read_ort(path)
    path.write_bytes(b"\0" * 4 + b"TORT" + b"\0" * 30)
    with pytest.raises(FormatError):
        read_adapter(path)
