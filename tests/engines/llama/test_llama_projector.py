"""Projector files: what is refused, what crashes only a child process, and when they are closed."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from llama_cases import TRUTH, make_engine
from vision_cases import last_logits

from lorakit.adapter import Adapter, Delta
from lorakit.engines.llama.native import mtmd
from lorakit.engines.protocol import Row
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    EngineError,
    FormatError,
    LorakitError,
    MismatchError,
    ParameterError,
    SourceError,
    UnsupportedError,
)
from projector import png, write_projector


@pytest.fixture
def engine(projector):
    engine = make_engine(projector)
    yield engine
    engine.close()


def test_a_model_without_a_projector_refuses_images():
    engine = make_engine()
    with pytest.raises(CapabilityError, match="mmproj"):
        engine.encode_image(png(1))
    sequence = engine.open_sequence()
    with pytest.raises(ParameterError, match="no projector"):
        engine.forward([Row(sequence=sequence, tokens=np.array([-1, -2]))])
    engine.close()


def test_files_that_are_not_a_projector_of_the_model_are_refused(tmp_path):
    wide = write_projector(tmp_path / "wide.gguf", embedding=128)
    text = TRUTH / "gguf" / "gemma3.base.f32.gguf"
    (tmp_path / "noise").write_bytes(b"noise")
    (tmp_path / "cut.gguf").write_bytes(wide.read_bytes()[:3000])
    for path, kind, words in [
        (tmp_path / "missing.gguf", SourceError, "no projector file"),
        (tmp_path / "noise", FormatError, "not a GGUF file"),
        (tmp_path / "cut.gguf", FormatError, "cut.gguf"),
        (text, FormatError, "'gemma3', not 'clip'"),
        (wide, EngineError, "n_embd = 128"),
    ]:
        engine = make_engine()
        with pytest.raises(kind, match=words):
            engine.open_vision(path)
        assert len(last_text(engine)) == 512  # the model is as it was
        engine.close()


def with_number(content, key, value):
    at = content.index(key) + len(key) + 4
    return content[:at] + value.to_bytes(4, "little") + content[at + 4 :]


def test_a_projector_that_crashes_llama_cpp_is_refused(projector, tmp_path):
    broken = tmp_path / "mmproj.gguf"
    engine = make_engine()
    for key, value in [(b"vision.image_size", 1000), (b"vision.patch_size", 1)]:
        broken.write_bytes(with_number(projector.read_bytes(), key, value))
        with pytest.raises(FormatError, match="crashes"):
            engine.open_vision(broken)
    assert np.isfinite(last_text(engine)).all()
    engine.close()


def last_text(engine):
    sequence = engine.open_sequence()
    return engine.forward([Row(sequence=sequence, tokens=np.array([1, 2, 3]))])[0][-1]


def test_an_adapter_on_the_vision_tower_is_refused(engine):
    a, b = np.ones((2, 16), np.float32), np.ones((16, 2), np.float32)
    name = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    with pytest.raises(MismatchError, match="vision_tower"):
        engine.attach(engine.prepare(Adapter(deltas=(Delta(module=name, a=a, b=b, scale=1.0),))))


def test_images_after_close(projector):
    engine = make_engine(projector)
    image = engine.encode_image(png(1))
    vision = engine._vision
    engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        engine.encode_image(png(1))
    with pytest.raises(ClosedError):
        vision.encode(png(1))
    with pytest.raises(ClosedError):
        last_logits(engine, image)


def test_closing_while_images_are_encoded(projector):
    engine = make_engine(projector)
    errors, begun = [], threading.Event()

    def encode(first):
        try:
            for seed in range(first, first + 10_000):
                engine.encode_image(png(seed))
                begun.set()
        except LorakitError as error:
            errors.append(error)

    threads = [threading.Thread(target=encode, args=(n * 10_000,)) for n in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    engine.close()
    for thread in threads:
        thread.join(30)
    assert [error.code for error in errors] == ["closed", "closed"]


HOSTILE = """
import os, sys
import numpy as np
sys.path += sys.argv[1].split(os.pathsep)
from llama_cases import make_engine
from projector import png
from lorakit.errors import LorakitError
engine = make_engine(sys.argv[2])
rng = np.random.default_rng(0)
whole = png(1)
gif = b"GIF89a\\x08\\x00\\x08\\x00\\x80\\x00\\x00" + bytes(range(6))
jpeg = b"\\xff\\xd8\\xff\\xc0\\x00\\x11\\x08\\x00\\x08\\x00\\x08\\x03\\x01\\x22\\x00\\x02\\x11\\x01"
bmp = b"BM" + bytes(8) + bytes([54, 0, 0, 0, 40, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 1, 0, 24, 0])
cases = [whole[:n] for n in range(0, len(whole), 7)] + [b"BM", b"RIFF1234WAVEfmt ", b"OggS", b"ID3"]
for seed in (whole, gif + bytes(60), jpeg + bytes(200), bmp + bytes(100)):
    for _ in range(120):
        broken = bytearray(seed)
        for at in rng.integers(8, len(broken), 3):
            broken[at] = rng.integers(256)
        cases.append(bytes(broken))
refused = 0
for case in cases:
    try:
        engine.encode_image(case)
    except LorakitError as error:
        refused += error.code in ("format_invalid", "format_unsupported")
assert refused > len(cases) // 2, (refused, len(cases))
engine.encode_image(whole)
engine.close()
print("alive")
"""


def test_hostile_images_never_crash_the_process(projector):
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, os.pathsep.join(sys.path), str(projector)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


LEFT_OPEN = """
import os, sys
sys.path += sys.argv[1].split(os.pathsep)
from llama_cases import make_engine
from projector import png
engine = make_engine(sys.argv[2])
engine.encode_image(png(1))
print("end")
"""


def test_a_process_that_forgets_to_close_ends_cleanly(projector):
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, os.pathsep.join(sys.path), str(projector)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_two_models_with_projectors_at_once(projector, tmp_path):
    other = write_projector(tmp_path / "other.gguf", seed=5)
    one, two = make_engine(projector), make_engine(other)
    first, second = one.encode_image(png(1)), two.encode_image(png(1))
    assert first.ids != second.ids  # ids depend on the vectors, not on the file
    alone = last_logits(one, first)
    two.close()
    np.testing.assert_array_equal(last_logits(one, first), alone)
    one.close()


def test_positions_in_two_dimensions_are_refused(projector, monkeypatch):
    monkeypatch.setattr(mtmd(), "mtmd_decode_use_mrope", lambda context: True)
    engine = make_engine()
    with pytest.raises(CapabilityError, match="M-RoPE"):
        engine.open_vision(projector)
    engine.close()


def test_image_formats(engine):
    bmp = b"BM" + (54 + 192).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    bmp += (40).to_bytes(4, "little") + (8).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    assert engine.encode_image(bmp + bytes(range(192))).images
    with pytest.raises(UnsupportedError):
        engine.encode_image(b"RIFF\0\0\0\0WEBPVP8 ")
