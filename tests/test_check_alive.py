"""check: is an adapter alive, do its values survive half precision, what does its folder bring."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from folders import DATA
from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.check import check, is_dead, lost
from lorakit.errors import FormatError
from lorakit.formats import read_adapter
from lorakit.formats.brought import check_brought
from lorakit.formats.convert import convert
from lorakit.formats.peft import write_peft

TRUTH = DATA / "truth"
LLAMA = Base.open(TRUTH / "bases/llama")
PLAIN = read_adapter(TRUTH / "peft/llama/plain")


def warned(adapter):
    return [m.item for m in check(adapter, LLAMA) if m.severity == "warning"]


def changed(**change):
    """PLAIN with something else in each delta, made from it."""
    return replace(
        PLAIN,
        deltas=tuple(
            replace(d, **{name: make(d) for name, make in change.items()}) for d in PLAIN.deltas
        ),
    )


def test_zeros_do_nothing_and_are_said():
    for dead in (
        changed(b=lambda d: np.zeros_like(d.b)),
        changed(a=lambda d: np.zeros_like(d.a)),
        changed(scale=lambda d: 0.0),
    ):
        assert is_dead(dead)
        assert "effect" in warned(dead)
    assert not is_dead(PLAIN)
    assert "effect" not in warned(PLAIN)
    one = (replace(PLAIN.deltas[0], b=np.zeros_like(PLAIN.deltas[0].b)), *PLAIN.deltas[1:])
    assert not is_dead(replace(PLAIN, deltas=one))
    saved = read_adapter(TRUTH / "peft/llama/trainable_tokens")
    assert not is_dead(Adapter(replacements=saved.replacements))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_rounding_loses(dtype):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((40, 40)).astype(np.float32)
    assert lost(array, np.float16) < 1e-3
    assert lost(array * np.float32(1e-9), np.float16) == 1.0
    assert lost(array * np.float32(1e-9), np.float32) == 0.0
    assert lost(np.zeros((3, 3), dtype), np.float16) == 0.0


def test_values_that_half_precision_loses_are_said_and_not_written(tmp_path):
    tiny = changed(a=lambda d: d.a * np.float32(1e-8), b=lambda d: d.b * np.float32(1e4))
    assert "half precision" in warned(tiny)
    assert "half precision" not in warned(PLAIN)
    write_peft(tiny, tmp_path / "tiny")
    for to, name in (("peft", "a"), ("mlx", "b"), ("gguf", "c.gguf"), ("ort", "d.onnx_adapter")):
        with pytest.raises(FormatError, match="too small"):
            convert(tmp_path / "tiny", tmp_path / name, to=to, base=LLAMA, dtype="f16")
    assert convert(tmp_path / "tiny", tmp_path / "e", to="peft", dtype="bf16")
    assert convert(TRUTH / "peft/llama/plain", tmp_path / "f", to="peft", dtype="f16")


@pytest.fixture
def brought(tmp_path):
    """An adapter's folder that brings the base's own tokenizer and template."""
    folder = tmp_path / "brought"
    shutil.copytree(TRUTH / "peft/llama/plain", folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (LLAMA.path / name).exists():
            shutil.copy(LLAMA.path / name, folder / name)
    return folder


def test_a_template_and_a_tokenizer_of_its_own_are_said(brought):
    assert check_brought(brought, LLAMA) == ()
    assert check_brought(TRUTH / "peft/llama/plain", LLAMA) == ()
    (brought / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert [m.item for m in check_brought(brought, LLAMA)] == ["chat template"]
    tokenizer = json.loads((brought / "tokenizer.json").read_text())
    (brought / "tokenizer.json").write_text(json.dumps(tokenizer))  # spelt otherwise, the same
    assert [m.item for m in check_brought(brought, LLAMA)] == ["chat template"]
    more = {"id": 512, "content": "<|new|>", "special": True}
    tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", ()), more]
    (brought / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = check_brought(brought, LLAMA)
    assert [m.item for m in found] == ["chat template", "tokenizer"]
    assert "<|new|>" in found[1].found
    (brought / "tokenizer.json").write_text("{")
    assert "JSON" in check_brought(brought, LLAMA)[1].found
    (brought / "chat_template.jinja").write_text("{% if %}")  # which is left out where it runs
    broken = check_brought(brought, LLAMA)[0]
    assert broken.expected == "one that can be read"
    assert "not valid Jinja" in broken.found


def test_a_delta_of_experts_and_a_bias_count():
    bias = Delta(module="m", a=np.ones((1, 2), "f4"), b=np.zeros((2, 1), "f4"), scale=1.0,
                 bias=np.ones(2, "f4"))  # fmt: skip
    assert not is_dead(Adapter(deltas=(bias,)))
