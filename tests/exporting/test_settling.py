"""Merged or kept apart: decided by the numbers of the proof, where nobody chose."""

import json
from dataclasses import replace

import pytest

import lorakit
from folders import DATA
from lorakit.errors import FormatError, ParityError
from lorakit.exporting import export as exporting
from lorakit.exporting.parity import Apart, ProofOptions

BASE, HOME = DATA / "truth/bases/llama", DATA / "truth/peft/llama/plain"


def made(tmp_path, monkeypatch, both, **options):
    """An export whose proof says `both` of merging and keeping apart."""
    prove = exporting.prove

    def say(subject, **more):
        alone = replace(subject, other=None)
        return replace(prove(alone, **more), apart=both)

    monkeypatch.setattr(exporting, "prove", say)
    return lorakit.export(BASE, tmp_path / "out", adapter=str(HOME), quantize="q8", **options)


@pytest.mark.parametrize(
    ("merged", "apart", "mode", "kind"),
    [
        (0.02, 0.01, None, "apart"),
        (0.02, 0.019, None, "merged"),
        (0.01, 0.02, None, "merged"),
        (0.02, 0.01, "merged", "merged"),
    ],
)
def test_the_more_accurate_way_is_taken_unless_one_was_chosen(
    merged, apart, mode, kind, tmp_path, monkeypatch
):
    both = Apart(merged=merged, apart=apart)
    result = made(tmp_path, monkeypatch, both, mode=mode)
    out = tmp_path / "out"
    assert result.kind == kind
    about = json.loads((out / "config.json").read_text())["transformers.js_config"]["lorakit"]
    assert about["adapters"] == kind
    (parity,) = json.loads((out / "parity.json").read_text())["files"].values()
    assert parity["adapters"] == kind
    assert parity["apart"] == {"merged": merged, "apart": apart}
    assert both.sentence("q8") in (out / "README.md").read_text()
    assert sorted(path.name for path in (out / "onnx").iterdir()) == [
        "model_quantized.onnx",
        "model_quantized.onnx_data",
    ]


def test_what_is_beyond_the_users_limit_leaves_nothing(tmp_path):
    options = ProofOptions(max_kl=1e-9)
    with pytest.raises(ParityError) as caught:
        lorakit.export(BASE, tmp_path / "out", adapter=str(HOME), quantize="q4", proof=options)
    assert "its limit is 1e-09" in caught.value.items[0]
    assert list(tmp_path.glob("**/*.onnx*")) == []
    assert not (tmp_path / "out").exists()


def test_examples_that_cannot_be_read_are_refused_before_the_long_work(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    phases = []
    with pytest.raises(FormatError):
        lorakit.export(
            BASE,
            tmp_path / "out",
            proof=ProofOptions(evaluation=tmp_path / "bad.jsonl"),
            progress=lambda at: phases.append(at.phase),
        )
    assert phases == ["preparing"]
    assert not (tmp_path / "out").exists()
