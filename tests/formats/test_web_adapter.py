"""Web adapters: what is written is the adapter with its scale in B; everything else is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import (
    FormatError,
    LorakitError,
    MismatchError,
    ParameterError,
    UnsupportedError,
)
from lorakit.files.safetensors import open_safetensors
from lorakit.formats import read_adapter, sniff
from lorakit.formats.convert import convert
from lorakit.formats.web import read_web, write_web

TRUTH = Path(__file__).parent.parent / "data/truth"
PLAIN = ["peft/gemma3/rslora", "peft/gemma3/patterns", "peft/llama/bf16", "mlx/llama/lora"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_real_adapter_comes_back_with_its_scale_in_b(name, tmp_path):
    source, path = read_adapter(TRUTH / name), tmp_path / "home.safetensors"
    write_web(source, path)
    assert sniff(path) == "web"
    found = read_adapter(path)
    assert found.modules == tuple(sorted(source.modules))
    by_name = {d.module: d for d in source.deltas}
    for delta in found.deltas:
        wanted = by_name[delta.module]
        b = wanted.b.astype(np.float32) * np.float32(wanted.scale)
        np.testing.assert_array_equal(delta.a, wanted.a.astype(np.float32))
        np.testing.assert_array_equal(delta.b, b)
        assert delta.scale == 1.0
    again = tmp_path / "again" / "home.safetensors"
    write_web(found, again)
    assert again.read_bytes() == path.read_bytes()


def test_names_shapes_and_metadata_are_those_of_the_graphs_inputs(tmp_path):
    base = Base.open(TRUTH / "bases/llama")
    path = tmp_path / "home.safetensors"
    convert(TRUTH / "peft/llama/rslora", path, to="web", base=base)
    file = open_safetensors(path)
    shapes = base.decoder.modules()
    rank = 0
    for name, array in file.tensors.items():
        module, _, half = name.rpartition(".")
        shape = shapes[module]
        rank = max(rank, array.shape[1 if half == "lora_A" else 0])
        assert array.dtype == np.float32
        assert {"lora_A": shape.in_features, "lora_B": shape.out_features}[half] in array.shape
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert file.metadata == {
        "format": "lorakit-web",
        "version": "1",
        "adapter": "home",
        "base": base.fingerprint,
        "base_name": file.metadata["base_name"],
        "rank": str(rank),
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
    }
    assert read_web(path).precondition.fingerprint == base.fingerprint


def test_it_is_held_to_the_base_that_it_names(tmp_path):
    path = tmp_path / "a.safetensors"
    convert(TRUTH / "peft/llama/plain", path, to="web", base=Base.open(TRUTH / "bases/llama"))
    other = Base.open(TRUTH / "bases/gemma3")
    with pytest.raises(MismatchError):
        convert(path, tmp_path / "b", to="peft", base=other)


def test_half_precision_is_kept_and_its_rounding_said(tmp_path):
    source = TRUTH / "peft/llama/rslora"
    report = convert(source, tmp_path / "half.safetensors", to="web", dtype="f16")
    found = read_adapter(tmp_path / "half.safetensors")
    assert {d.b.dtype.name for d in found.deltas} == {"float16"}
    (note,) = report.notes
    assert "stored as f16: rounded by up to 0.0" in note
    wide = convert(source, tmp_path / "wide.safetensors", to="web", dtype="f32")
    assert wide.notes == ()


def test_rounding_to_zero_is_counted(tmp_path):
    a = np.array([[1.0, 1e-9]], np.float32)
    delta = Delta(module="q", a=a, b=np.ones((3, 1), np.float32), scale=1.0)
    write_web(Adapter(deltas=(delta,)), tmp_path / "a")
    report = convert(tmp_path / "a", tmp_path / "b", to="web", dtype="f16")
    assert report.notes == (
        "stored as f16: rounded by up to 1e-07% of a tensor's largest value; "
        "1 of 5 values became 0",
    )


def delta(module="q", **more):
    ones = np.ones((3, 3), np.float32)
    return Delta(module=module, **{"a": ones, "b": ones, "scale": 2.0} | more)


def test_what_inputs_cannot_say_is_listed_in_one_error(tmp_path):
    ones = np.ones((2, 3, 3), np.float32)
    adapter = Adapter(
        deltas=(
            delta("table", site=Site.INPUT),
            delta("experts", a=ones, b=ones),
            delta("lm_head"),
            delta("biased", bias=ones[0, 0]),
        ),
        replacements=(Replacement(name="model.norm.weight", value=ones[0, 0]),),
        magnitudes=(Magnitude(module="dora", value=ones[0, 0]),),
        invocation_tokens=(1,),
    )
    with pytest.raises(UnsupportedError) as caught:
        write_web(adapter, tmp_path / "out")
    for said in ("table", "experts", "lm_head", "biased", "model.norm", "dora", "invocation"):
        assert any(item.startswith(said) for item in caught.value.items), said
    assert list(tmp_path.iterdir()) == []


def test_a_scale_that_float32_or_float16_cannot_hold_is_refused(tmp_path):
    large = Adapter(deltas=(delta(scale=1e5),))
    with pytest.raises(FormatError, match="too large"):
        write_web(large, tmp_path / "a", dtype="f16")
    with pytest.raises(FormatError, match="too large"):
        write_web(
            replace(large, deltas=(delta(scale=1e38, b=np.full((3, 3), 10, "f4")),)),
            tmp_path / "a",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ParameterError):
        write_web(Adapter(deltas=(delta(),)), tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_every_cut_and_every_changed_byte_is_refused(tmp_path):
    """The digest covers the data, the checks of the header all else but names and notes."""
    write_web(Adapter(deltas=(delta(),)), tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    begin = 8 + int.from_bytes(good[:8], "little")
    path = tmp_path / "bad"
    for index in range(len(good)):
        path.write_bytes(good[:index])
        with pytest.raises(LorakitError):
            read_web(path)
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        if index >= begin:
            with pytest.raises(FormatError, match="digest"):
                read_web(path)
            continue
        try:
            assert sniff(path) == "web"
            found = read_adapter(path)
        except LorakitError:
            continue
        assert all(d.rank == 3 for d in found.deltas)  # a letter of a name alone
