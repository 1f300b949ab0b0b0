"""What a report says, and that structure is told without reading values."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.adapter import Adapter, Delta, Replacement
from lorakit.formats.peft import read_peft, write_peft
from lorakit.inspect.report import delta_norm, inspect

TRUTH = Path(__file__).parents[1] / "data/truth/peft"


def test_a_report_of_what_peft_wrote():
    adapter = read_peft(TRUTH / "gemma3/patterns")
    report = inspect(adapter)
    assert report.format == "peft"
    assert report.base == "fixtures/gemma3"
    assert report.ranks == {4: 6, 8: 35, 16: 1}
    assert report.scales == {0.5: 1, 1.0: 1, 2.0: 28, 4.0: 12}
    assert report.dtypes == {"float32": adapter.parameters}
    assert report.nbytes == 4 * report.parameters
    assert report.norm is None
    assert report.digest is None
    assert report.metadata["peft"]["r"] == 8
    first = report.modules[0]
    assert (first.module, first.rank, first.alpha) == ("model.layers.0.mlp.down_proj", 8, 16)
    assert (first.in_features, first.out_features) == (128, 64)


def test_norms_and_digest_are_there_when_asked_for():
    adapter = read_peft(TRUTH / "llama/bf16")
    report = inspect(adapter, values=True)
    assert report.digest == adapter.digest
    norms = []
    for d, module in zip(adapter.deltas, report.modules, strict=True):
        full = d.scale * d.b.astype(np.float64) @ d.a.astype(np.float64)
        norms.append(np.linalg.norm(full))
        assert module.norm == pytest.approx(norms[-1], rel=1e-9)
    assert report.norm == pytest.approx(np.linalg.norm(norms))


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    scale=st.floats(-8, 8),
    experts=st.none() | st.integers(1, 3),
    dtype=st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]),
)
def test_the_norm_is_that_of_the_product(shape, scale, experts, dtype):
    rank, n_in, n_out = shape
    lead = () if experts is None else (experts,)
    rng = np.random.default_rng(rank)
    a = rng.standard_normal((*lead, rank, n_in)).astype(dtype)
    b = rng.standard_normal((*lead, n_out, rank)).astype(dtype)
    full = scale * (b.astype(np.float64) @ a.astype(np.float64))
    norm = delta_norm(Delta(module="m", a=a, b=b, scale=scale))
    assert norm == pytest.approx(float(np.sqrt((full**2).sum())), rel=1e-9, abs=1e-30)


def test_a_report_becomes_json_whatever_is_in_it():
    nan = Delta(module="m", a=np.full((1, 2), np.nan), b=np.ones((2, 1)), scale=1)
    odd = {"format": 3, "nested": {1: float("inf"), "path": Path("x"), "list": (1, None, True)}}
    norm = Replacement(name="norm.weight", value=np.ones(2))
    report = inspect(Adapter(deltas=(nan,), replacements=(norm,), metadata=odd), values=True)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["norm"] == "nan"
    assert content["modules"][0]["norm"] == "nan"
    assert content["metadata"]["nested"] == {"1": "inf", "path": "x", "list": [1, None, True]}
    assert content["replacements"] == ["replacement of norm.weight"]
    assert content["format"] is None


def test_nothing_but_headers_is_read_for_structure(tmp_path):
    """A gigabyte whose data is a hole in the file: reading it would take a second and more."""
    shape = (64, 1 << 21)
    small = Adapter(
        deltas=(Delta(module="m", a=np.ones((1, 1), "f4"), b=np.ones((1, 1), "f4"), scale=1),)
    )
    write_peft(small, tmp_path / "a")
    weights = tmp_path / "a/adapter_model.safetensors"
    size = 4 * shape[0] * shape[1]
    header = json.dumps(
        {
            "base_model.model.m.lora_A.weight": {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [0, size],
            },
            "base_model.model.m.lora_B.weight": {
                "dtype": "F32",
                "shape": shape[::-1],
                "data_offsets": [size, 2 * size],
            },
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    config = tmp_path / "a/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 64}))
    report = inspect(read_peft(tmp_path / "a"))
    assert report.nbytes == 1 << 30
