"""The table of docs/formats.md, cell by cell: every adapter of tests/data/truth, in every format.

The table is the list of cases, so that it cannot say anything else than what these tests found.
"""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import lorakit
from commands import invoke
from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import ParameterError, UnsupportedError
from lorakit.formats import FORMATS, read_adapter
from lorakit.formats.convert import convert
from lorakit.merge import merge

TRUTH = DATA / "truth"
TITLES = ["adapter", "read", "runs on", "merged", *FORMATS]
ATOL = 2e-4
RECORDS = {  # where a file's name does not lead to the adapter that it was made of
    "gguf/gemma3.rslora.folded.f32.gguf": "peft/gemma3/rslora",
}
STRONGER = {"gguf/gemma3.rslora.f32.gguf": math.sqrt(8)}  # its scale is alpha / r, and r is 8
# mlx-lm's own numbers at scale 0.5 are 1.25e-3 from float64 there: two ill-conditioned tokens.
LOOSE = {("mlx/llama/lora", 0.5): 3e-3}
HALF = {"f16": 0.004, "bf16": 0.04}  # of the adapter's effect, by what is stored


def table() -> dict[str, dict[str, str]]:
    """The rows of docs/formats.md's table, by adapter and column."""
    page = (DATA.parents[1] / "docs/formats.md").read_text("utf-8")
    lines = page.split("## What was tested")[1].split("\n## ")[0].splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert cells[0] == TITLES
    rows = [dict(zip(TITLES, row, strict=True)) for row in cells[2:]]
    return {row["adapter"].strip("`"): row for row in rows}


TABLE = table()
CONVERSIONS = [(case, to) for case in TABLE for to in FORMATS]
HALVES = [
    (case, to, dtype)
    for case in ("peft/llama/plain", "peft/gemma3/patterns", "peft/gemma3/dora")
    for to in FORMATS
    for dtype in ("f16", "bf16")
    if not TABLE[case][to].startswith("no: ") and (to, dtype) != ("gguf", "bf16")
]
MERGES = [  # tests/test_merge.py merges the folders that it can merge
    case
    for case in TABLE
    if not (TABLE[case]["read"] == "yes" == TABLE[case]["merged"] and case.count("/") == 2)
]


def base_of(case: str) -> str:
    return "gemma3" if "gemma3" in case else "llama"


@cache
def base(name: str) -> Base:
    return Base.open(TRUTH / "bases" / name)


@cache
def record(case: str) -> dict[str, np.ndarray]:
    name = case if case.count("/") == 2 else f"peft/{base_of(case)}/{case.split('.')[1]}"
    with np.load(TRUTH / RECORDS.get(case, name) / "logits.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def models():
    """Models by engine and base, opened when they are first asked for."""
    opened = {}

    def model(engine: str, name: str):
        if engine == "torch":
            pytest.importorskip("torch", reason="only the torch engine applies it")
            pytest.importorskip("transformers", reason="the torch engine needs the extra torch")
        if (engine, name) not in opened:
            opened[engine, name] = lorakit.open(base(name).path, engine=engine, threads=1)
        return opened[engine, name]

    yield model
    for each in opened.values():
        each.close()


def is_pickled(case):
    """Whether a case needs torch to be read."""
    if "pickle" in case:
        pytest.importorskip("torch", reason="adapter_model.bin is read by torch")
    return "pickle" in case


def read(case: str, decoder=None):
    return read_adapter(TRUTH / case, decoder, allow_pickle=is_pickled(case))


def write(case: str, target: Path, to: str, with_base: bool, dtype: str | None = None):
    given = base(base_of(case)) if with_base else None
    pickled = is_pickled(case)
    return convert(TRUTH / case, target, to=to, base=given, dtype=dtype, allow_pickle=pickled)


def same(model, adapter, case: str, scales=(1.0, 0.5), share: float = 0.0) -> None:
    """An adapter gives the recorded logits; `share` of its effect may be lost to rounding."""
    if "f16" in case:
        share = max(share, HALF["f16"])
    loaded, truth = model.load_adapter(adapter, "case"), record(case)
    try:
        for scale in scales:
            own = {"case": scale * STRONGER.get(case, 1.0)}
            for index in range(3):
                if (key := f"scale{scale:g}_{index}") not in truth:
                    continue
                ids = truth[f"ids{index}"].tolist()
                found = model.logits(ids, adapters=own)
                atol = LOOSE.get((case, scale), ATOL)
                if share:
                    plain = model.logits(ids, adapters={})
                    atol += share * float(np.abs(truth[key] - plain).max())
                np.testing.assert_allclose(found, truth[key], rtol=0, atol=atol, err_msg=key)
    finally:
        loaded.unload()


def scales_of(case: str, to: str) -> tuple[float, ...]:
    """Replaced rows that became a delta follow the scale, so that 0.5 means something else."""
    return (1.0,) if "trainable_tokens" in case and to != "peft" else (1.0, 0.5)


def test_the_table_lists_every_adapter_once():
    folders = [path.parent for path in TRUTH.glob("*/*/*/logits.npz")]
    files = [*TRUTH.glob("ort/*.onnx_adapter"), *TRUTH.glob("gguf/*.gguf")]
    names = {path.relative_to(TRUTH).as_posix() for path in (*folders, *files)}
    assert set(TABLE) == {name for name in names if ".base." not in name}
    text = (DATA.parents[1] / "docs/formats.md").read_text("utf-8")
    assert all(text.count(f"| `{name}` |") == 1 for name in TABLE)


@pytest.mark.parametrize("case", TABLE)
def test_an_adapter_gives_its_recorded_logits(models, case):
    cell = TABLE[case]["read"]
    if cell == "with the base":
        with pytest.raises(UnsupportedError, match="base"):
            read(case)
    elif cell == "if allowed":
        with pytest.raises(UnsupportedError, match="pickle"):
            read_adapter(TRUTH / case)
    else:
        assert cell == "yes"
        assert read(case) == read(case, base(base_of(case)).decoder)
    adapter = read(case, base(base_of(case)).decoder)
    kind = TABLE[case]["runs on"]
    same(models(kind, base_of(case)), adapter, case)


@pytest.mark.parametrize("with_base", [True, False], ids=["base", "alone"])
@pytest.mark.parametrize(("case", "to"), CONVERSIONS)
def test_a_conversion_gives_the_logits_or_is_refused_for_the_reason(
    models, tmp_path, case, to, with_base
):
    cell, target = TABLE[case][to], tmp_path / "out"
    if cell == "yes" or (cell == "with the base" and with_base):
        write(case, target, to, with_base)
        adapter = read_adapter(target, base(base_of(case)).decoder)
        kind = "onnx" if scales_of(case, to) == (1.0,) else TABLE[case]["runs on"]
        same(models(kind, base_of(case)), adapter, case, scales_of(case, to))
        return
    with pytest.raises((UnsupportedError, ParameterError)) as caught:
        write(case, target, to, with_base)
    reasons = ["replaced rows", "base"] if cell == "with the base" else [cell.removeprefix("no: ")]
    reasons += [] if with_base else ["base"]  # what cannot even be read without it
    assert any(reason in str(caught.value) for reason in reasons)
    if TABLE[case]["merged"].startswith("no: "):
        assert "merge the adapter" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(("case", "to", "dtype"), HALVES)
def test_half_precision_loses_a_small_share_of_the_effect(models, tmp_path, case, to, dtype):
    write(case, tmp_path / "out", to, True, dtype)
    adapter = read_adapter(tmp_path / "out", base(base_of(case)).decoder)
    same(models(TABLE[case]["runs on"], base_of(case)), adapter, case, share=HALF[dtype])


@pytest.mark.parametrize("case", MERGES)
def test_a_merged_base_gives_the_recorded_logits(tmp_path, case):
    adapter = read(case, base(base_of(case)).decoder)
    scale = STRONGER.get(case, 1.0)
    if TABLE[case]["merged"].startswith("no: "):
        with pytest.raises(UnsupportedError) as caught:
            merge(base(base_of(case)), [(adapter, scale)], tmp_path / "out")
        assert TABLE[case]["merged"].removeprefix("no: ") in str(caught.value)
        return
    assert TABLE[case]["merged"] == "yes"
    merge(base(base_of(case)), [(adapter, scale)], tmp_path / "out")
    truth, share = record(case), HALF["f16"] if "f16" in case else 0.0
    with lorakit.open(tmp_path / "out", threads=1) as model:
        for index in range(3):
            expected = truth[f"scale1_{index}"]
            atol = ATOL + share * float(np.abs(expected).max())
            found = model.logits(truth[f"ids{index}"].tolist())
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("case", "to"),
    [("peft/llama/rslora", "gguf"), ("mlx/llama/lora", "peft"), ("peft/gemma3/dora", "ort")],
)
def test_the_command_says_the_same(models, tmp_path, case, to):
    name, target = base_of(case), tmp_path / "out"
    where = str(TRUTH / "bases" / name)
    done = invoke("convert", TRUTH / case, target, "--to", to, "--base", where, "--json")
    if TABLE[case][to].startswith("no: "):
        assert done.code == 1
        assert not target.exists()
        assert TABLE[case][to].removeprefix("no: ") in str(done.error or done)
        return
    assert done.code == 0, done
    assert json.loads(done.stdout)["format"] == to
    same(models("onnx", name), read_adapter(target, base(name).decoder), case)
