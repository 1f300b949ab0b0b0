"""Quantising, against files and rows that llama.cpp itself wrote, and what it refuses."""

import json
import platform
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_cases import TRUTH, base_file, logits_of, make_engine

from gguf_files import split
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama import quantize_values
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.quantize import TYPES, quantize
from lorakit.engines.llama.quantize_values import LARGEST, rounding
from lorakit.errors import (
    FormatError,
    MissingExtraError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)
from lorakit.files import gguf_stream
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import gguf_head, packed, write_gguf_file
from projector import write_projector
from quantize_cases import (
    MODELS,
    hard_rows,
    noise,
    recorded,
    row_digests,
    summary,
    write_model,
)

BASE = base_file("gemma3")
TOKENS = np.array([1, 5, 30, 70, 200, 400, 17], np.int64)
RECORDED = recorded()
BLOCKS = [kind for kind in RECORDED["rows"] if kind not in ("F16", "BF16")]
# Rounding to blocks is ggml's C code. A compiler that contracts a * b + c to one operation (arm's
# do, GCC with FMA does) rounds up to 1 block in 100 otherwise; the error is as large.
EXACT = sys.platform == "linux" and platform.machine() == "x86_64"
SAME = 1.0 if EXACT else 0.9


def write(path, tensors, **more):
    """A model of one layer. more: values beside those that it must have, "__" for a dot."""
    values = {
        "general.architecture": Value("str", "llama"),
        "llama.block_count": Value("u32", 1),
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    with path.open("wb") as file:
        write_gguf_file(file, values, tensors)
    return path


def matrix(*shape, seed=0):
    return noise(shape, seed)


def logits(path):
    options = LlamaOptions(threads=1, context=64)
    engine = LlamaEngine(open_gguf_base(path), options)
    found = logits_of(engine, TOKENS)
    engine.close()
    return found


# What is written.


@pytest.mark.parametrize("name", MODELS)
def test_files_are_those_that_llama_cpp_writes(tmp_path, name):
    source = write_model(name, tmp_path / "source.gguf")
    for file_type, expected in RECORDED["models"][name].items():
        quantize(source, tmp_path / f"{file_type}.gguf", type=file_type, threads=2)
        found = summary(tmp_path / f"{file_type}.gguf")
        assert found["types"] == expected["types"], file_type
        assert not EXACT or found == expected, file_type


@pytest.mark.parametrize("kind", RECORDED["rows"])
def test_rows_are_rounded_as_llama_cpp_rounds_them(kind):
    def share(rows):
        found = row_digests(kind, rounding([kind])[kind](rows.reshape(-1)))
        return np.mean([a == b for a, b in zip(found, RECORDED["rows"][kind].split(), strict=True)])

    assert share(hard_rows()) >= SAME
    assert share(hard_rows() * np.float32(1.02)) < 0.5  # rows of zeros stay


def test_q8_0_is_close_and_reports_progress(tmp_path):
    steps = []
    done = quantize(
        BASE, tmp_path / "q.gguf", type="q8_0", threads=1, progress=lambda *step: steps.append(step)
    )
    assert done.type == "Q8_0"
    assert done.bytes_after == (tmp_path / "q.gguf").stat().st_size < done.bytes_before
    assert done.fallbacks == ()
    assert [at for at, _, _ in steps] == list(range(1, steps[0][1] + 1))
    assert "token_embd.weight" in {name for _, _, name in steps}
    difference = np.abs(logits(done.path) - logits(BASE)).max()
    assert 0 < difference < 0.1


def test_what_is_quantised_already_is_refused_or_copied(tmp_path):
    done = quantize(BASE, tmp_path / "q.gguf", type="Q8_0")
    with pytest.raises(UnsupportedError, match=r"already quantised(.|\n)*42 tensors are Q8_0"):
        quantize(done.path, tmp_path / "again.gguf", type="Q4_0")
    assert [file.name for file in tmp_path.iterdir()] == ["q.gguf"]
    again = quantize(done.path, tmp_path / "again.gguf", type="Q8_0")
    assert again.path.read_bytes() == done.path.read_bytes()


def test_fallbacks_for_odd_row_lengths_are_listed(tmp_path):
    done = quantize(BASE, tmp_path / "q.gguf", type="Q4_K_M", threads=1)
    assert ("blk.0.attn_q.weight", 64, "q4_K", "q5_0") in done.fallbacks
    assert np.isfinite(logits(done.path)).all()


def test_a_projector_is_quantised_and_runs(tmp_path):
    source = write_projector(tmp_path / "mmproj.gguf")
    done = quantize(source, tmp_path / "q.gguf", type="F16")
    kinds = {name: tensor.kind for name, tensor in open_gguf(done.path, model=True).tensors.items()}
    assert (kinds["v.blk.0.attn_q.weight"], kinds["v.patch_embd.weight"]) == ("F16", "F32")
    make_engine(done.path).close()


def test_neither_threads_nor_pieces_change_a_byte(tmp_path, monkeypatch):
    source = write(tmp_path / "s.gguf", {"a.weight": matrix(40, 256), "b.weight": matrix(9, 256)})
    whole = quantize(source, tmp_path / "1.gguf", type="Q4_K_M", threads=1).path.read_bytes()
    monkeypatch.setattr(gguf_stream, "PIECE", 512)
    pieces = quantize(source, tmp_path / "7.gguf", type="Q4_K_M", threads=7).path.read_bytes()
    assert pieces == whole


@pytest.mark.parametrize(("ahead", "most"), [(3, 4), (1000, 100)])
def test_few_pieces_are_in_memory_at_once(ahead, most):
    begun, done = [], 0

    def items():
        for number in range(100):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        found = gguf_stream.in_order(pool, lambda number: number, items(), ahead)
        for expected in range(100):
            assert next(found) == expected
            done = max(done, len(begun) - expected)
    assert done == most  # 1000: with no bound all are


def test_other_alignments_are_kept(tmp_path):
    tensors = {"a.weight": matrix(1, 2, 32), "b.weight": matrix(2, 32)}
    plain = write(tmp_path / "plain.gguf", tensors)
    file = open_gguf(plain)
    keys = {**file.stored, "general.alignment": packed(Value("u32", 256))}
    infos = [(name, "F32", array.shape) for name, array in tensors.items()]
    content = gguf_head(keys, infos, 256)
    content += b"".join(array.tobytes() for array in tensors.values())
    (tmp_path / "wide.gguf").write_bytes(content)
    results = [
        open_gguf(quantize(path, path.with_suffix(".q8"), type="Q8_0").path)
        for path in (plain, tmp_path / "wide.gguf")
    ]
    for name in tensors:
        left, right = (result.tensors[name] for result in results)
        assert (left.kind, left.shape) == (right.kind, right.shape) == ("Q8_0", (2, 32))
        assert left.raw.tobytes() == right.raw.tobytes()


# What needs no library, and what does.


def test_floats_and_q8_0_need_no_library(tmp_path, monkeypatch):
    def missing():
        raise MissingExtraError("no library")

    monkeypatch.setattr(quantize_values, "llama", missing)
    source = write(tmp_path / "s.gguf", {"a.weight": matrix(4, 32)})
    for kind in ("F16", "BF16", "F32", "Q8_0"):
        done = quantize(source, tmp_path / f"{kind}.gguf", type=kind)
        assert open_gguf(done.path).tensors["a.weight"].kind == kind
    with pytest.raises(MissingExtraError):
        quantize(source, tmp_path / "q.gguf", type="Q4_0")
    assert not (tmp_path / "q.gguf").exists()


# Models in several parts.


def test_parts_become_one_file(tmp_path):
    tensors = {
        f"blk.0.{part}.weight": matrix(2, 64, seed=seed) for seed, part in enumerate("abcde")
    }
    source = write(tmp_path / "s.gguf", tensors)
    whole = quantize(source, tmp_path / "1.gguf", type="Q5_0")
    parts = quantize(split(source, tmp_path / "m"), tmp_path / "2.gguf", type="Q5_0")
    assert parts.path.read_bytes() == whole.path.read_bytes()
    assert parts.bytes_before > whole.bytes_before


def test_parts_that_are_not_all_there_are_refused(tmp_path):
    source = write(tmp_path / "s.gguf", {f"{part}.weight": matrix(2, 32) for part in "abcd"})
    first, out = split(source, tmp_path / "m"), tmp_path / "out.gguf"
    second = tmp_path / "m-00002-of-00002.gguf"
    with pytest.raises(SourceError, match=r"part 2 of 2(.|\n)*m-00001-of-00002"):
        quantize(second, out, type="Q8_0")
    second.unlink()
    with pytest.raises(SourceError, match="m-00002-of-00002"):
        quantize(first, out, type="Q8_0")
    assert not out.exists()


# What is refused.


def test_the_error_for_an_unknown_type_lists_the_known_ones(tmp_path):
    with pytest.raises(ParameterError) as caught:
        quantize(BASE, tmp_path / "q.gguf", type="Q7")
    assert caught.value.items == tuple(TYPES)
    with pytest.raises(ParameterError, match="threads must be"):
        quantize(BASE, tmp_path / "q.gguf", type="Q8_0", threads=0)


def test_sources_that_are_not_models_are_refused(tmp_path):
    (tmp_path / "noise.gguf").write_bytes(b"noise" * 100)
    (tmp_path / "cut.gguf").write_bytes(BASE.read_bytes()[:20_000])
    nameless = BASE.read_bytes().replace(b"general.architecture", b"general.Architecture")
    (tmp_path / "nameless.gguf").write_bytes(nameless)
    out = tmp_path / "out.gguf"
    for source, kind, words in [
        (tmp_path / "missing.gguf", SourceError, "no file"),
        (tmp_path / "noise.gguf", FormatError, "not a GGUF file"),
        (tmp_path / "cut.gguf", FormatError, "cut.gguf"),
        (tmp_path / "nameless.gguf", FormatError, "general.architecture"),
        (TRUTH / "gguf" / "gemma3.plain.f32.gguf", UnsupportedError, "'adapter'"),
    ]:
        with pytest.raises(kind, match=words):
            quantize(source, out, type="Q8_0")
    assert not out.exists()


def test_an_architecture_that_nobody_knows_takes_the_general_rules(tmp_path):
    source = tmp_path / "new.gguf"
    source.write_bytes(BASE.read_bytes().replace(b"gemma3", b"gemmaX"))
    new, known = (
        quantize(path, tmp_path / f"{number}.gguf", type="Q4_K_M").path.read_bytes()
        for number, path in enumerate((source, BASE))
    )
    assert new == known.replace(b"gemma3", b"gemmaX")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "IQ3_S"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.weight", "a_norm.weight"])
def test_values_that_are_not_finite_are_refused(tmp_path, kind, value, name):
    bad = matrix(3, 256)
    bad[1, 7] = value
    source = write(tmp_path / "s.gguf", {name: bad, "b.weight": matrix(3, 256)})
    with pytest.raises(FormatError, match=f"{name} has values that are not finite"):
        quantize(source, tmp_path / "q.gguf", type=kind)
    assert not (tmp_path / "q.gguf").exists()


def test_factors_that_are_not_finite_are_refused(tmp_path):
    source = write(tmp_path / "s.gguf", {"a.weight": matrix(2, 32), "b.weight": matrix(2, 32)})
    done = quantize(source, tmp_path / "q.gguf", type="Q8_0").path
    content = bytearray(done.read_bytes())
    content[-96:-94] = np.float16(np.inf).tobytes()  # the last 68 bytes, padded
    done.write_bytes(content)
    with pytest.raises(FormatError, match="not finite"):
        quantize(done, tmp_path / "again.gguf", type="Q8_0")


@pytest.mark.parametrize("kind", ["F16", *BLOCKS])
@pytest.mark.parametrize("value", [1e9, -1e13, 1e19, 3.4e38])
def test_values_that_a_type_cannot_hold_are_refused(kind, value):
    values = matrix(1024)
    values[300] = value
    with pytest.raises(OverflowError, match="values up to"):
        rounding([kind])[kind](values)


def test_the_error_for_such_values_names_the_tensor(tmp_path):
    source = write(tmp_path / "s.gguf", {"a.weight": matrix(2, 32) * np.float32(1e6)})
    with pytest.raises(UnsupportedError, match=r"a.weight has values up to \S+, which F16"):
        quantize(source, tmp_path / "q.gguf", type="F16")
    assert quantize(source, tmp_path / "q.gguf", type="BF16").bytes_after > 0


@pytest.mark.parametrize("largest", [LARGEST, np.inf])
def test_without_the_bound_native_code_ends_the_process(largest):
    code = (
        "import sys, numpy as np\n"
        "from lorakit.engines.llama import quantize_values as v\n"
        "v.LARGEST = float(sys.argv[1])\n"
        "try: v.rounding(['IQ3_S'])['IQ3_S'](np.full(256, 1e30, np.float32))\n"
        "except OverflowError: print('refused')\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(largest)], capture_output=True, text=True, check=False
    )
    assert (child.returncode == 0, child.stdout == "refused\n") == ((largest == LARGEST,) * 2)


# Where it is written.


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "q.gguf").write_bytes(b"mine")
    with pytest.raises(WriteError, match="exists"):
        quantize(BASE, tmp_path / "q.gguf", type="Q8_0")
    assert (tmp_path / "q.gguf").read_bytes() == b"mine"


def test_an_output_that_another_wrote_meanwhile_is_kept(tmp_path):
    output = tmp_path / "q.gguf"
    with pytest.raises(WriteError, match="exists"):
        quantize(BASE, output, type="Q8_0", progress=lambda *_: output.write_bytes(b"theirs"))
    assert [file.name for file in tmp_path.iterdir()] == ["q.gguf"]
    assert output.read_bytes() == b"theirs"


def test_a_full_disk_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(WriteError, match="disk full"):
            quantize(BASE, tmp_path / "q.gguf", type="Q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_work_and_leaves_nothing(tmp_path):
    seen = []

    def interrupt(at, of, name):
        seen.append(at)
        if at == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        quantize(BASE, tmp_path / "q.gguf", type="Q8_0", progress=interrupt)
    assert seen == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    def lorakit(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lorakit", "quantize", *map(str, arguments)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = lorakit(BASE, tmp_path / "q.gguf", "--type", "Q4_K_M")
    assert "tensors took q5_0, as q4_K does not divide their rows" in done.stdout, done.stderr
    failed = lorakit(BASE, tmp_path / "q.gguf", "--type", "nope", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["code"] == "parameter_invalid"


def test_the_docs_name_every_type():
    text = (TRUTH.parents[2] / "docs" / "llama.md").read_text("utf-8")
    section = text.split("## Smaller files\n")[1].split("\n## ")[0]
    assert set(TYPES) <= set(re.findall(r"[A-Z0-9_]+", section))
