"""Images through llama.cpp: what mtmd's own loop computes, reused and adapted like text."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from llama_cases import TRUTH, base_file, make_engine, truth_adapter

from lorakit.adapter import Adapter, Delta
from lorakit.chat.images import illustrated_prompt
from lorakit.chat.template import ChatTemplate
from lorakit.engines.llama.native import llama, mtmd
from lorakit.engines.llama.tokenizer import LlamaTokenizer
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
from lorakit.runtime.computations import LogitsOf
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.prompts import check_prompt
from lorakit.runtime.sampling import SamplingParams
from lorakit.runtime.scheduler import Scheduler
from lorakit.text.image_ids import Image, digest_of, pseudo_ids
from projector import POSITIONS, png, write_projector

BEFORE, AFTER = [1, 20, 30, 40, 50, 60], [70, 80, 90]


class Numbers:
    """Shows token ids as text."""

    def step(self, token):
        return f"{token} "

    def flush(self):
        return ""


@pytest.fixture(scope="module")
def projector(tmp_path_factory):
    return write_projector(tmp_path_factory.mktemp("vision") / "mmproj.gguf")


@pytest.fixture
def engine(projector):
    engine = make_engine(projector)
    yield engine
    engine.close()


def prompt(image):
    return [*BEFORE, *image.ids, *AFTER]


def last_logits(engine, image, adapters=(), logits="last"):
    sequence = engine.open_sequence()
    tokens = np.array(prompt(image), np.int64)
    row = Row(
        sequence=sequence, tokens=tokens, adapters=adapters, logits=logits, images=image.images
    )
    result = engine.forward([row])[0].copy()
    engine.close_sequence(sequence)
    return result


def ask(scheduler, tokens, images, adapters=()):
    generation = Generation(
        tuple(tokens), SamplingParams(max_tokens=6), adapters=adapters, images=images
    )
    scheduler.add(Job(generation, Numbers(), frozenset()))
    return generation


def drain(scheduler):
    while scheduler.step():
        pass


def mtmd_logits(engine, content):
    """The same prompt through llama.cpp's own helper, on a context of its own."""
    api, low = mtmd(), llama()
    params = low.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0
    params.flash_attn_type, params.swa_full = 0, True
    context = low.llama_init_from_model(engine._model, params)
    vision = engine._vision._context
    buffer = (ctypes.c_uint8 * len(content)).from_buffer_copy(content)
    bitmap = api.mtmd_helper_bitmap_init_from_buf(vision, buffer, len(content), False)
    text = api.mtmd_input_text(b"<__media__>", 11, False, True)
    chunks = api.mtmd_input_chunks_init()
    assert api.mtmd_tokenize(vision, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1) == 0
    past = ctypes.c_int32(0)

    def run(tokens):
        held = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = low.llama_batch_get_one(held, len(tokens))
        assert low.llama_decode(context, batch) == 0
        past.value += len(tokens)

    run(BEFORE)
    position = low.llama_pos(past.value)
    code = api.mtmd_helper_eval_chunks(
        vision, context, chunks, past.value, 0, 256, False, ctypes.byref(position)
    )
    assert code == 0
    run(AFTER)
    found = np.ctypeslib.as_array(low.llama_get_logits_ith(context, -1), (512,)).copy()
    api.mtmd_input_chunks_free(chunks)
    api.mtmd_bitmap_free(bitmap)
    low.llama_free(context)
    return found


def test_logits_are_those_of_llama_cpps_own_loop(engine):
    for seed in (1, 2):
        content = png(seed)
        ours = last_logits(engine, engine.encode_image(content))[-1]
        assert np.abs(ours - mtmd_logits(engine, content)).max() < 1e-5


def test_an_image_is_its_positions_and_the_texts_around_it(engine):
    image = engine.encode_image(png(1))
    (vectors,) = image.images.values()
    negative = [token for token in image.ids if token < 0]
    assert vectors.shape == (POSITIONS, 64)
    assert vectors.dtype == np.float32
    assert len(negative) == POSITIONS
    tokenizer = LlamaTokenizer(base_file("gemma3"))
    start = image.ids.index(negative[0])
    assert tokenizer.decode(image.ids[:start]) == "<start_of_image>"
    assert tokenizer.decode(image.ids[start + POSITIONS :]) == "<end_of_image>"
    assert not engine._vision.causal


def test_images_change_the_answer_and_differ(engine):
    one, two = engine.encode_image(png(1)), engine.encode_image(png(2))
    assert one.ids != two.ids
    assert np.abs(last_logits(engine, one) - last_logits(engine, two)).max() > 0.05
    again = engine.encode_image(png(1))
    assert again.ids == one.ids
    np.testing.assert_array_equal(last_logits(engine, one), last_logits(engine, again))


def test_logits_of_all_positions_but_those_within_the_image(engine):
    image = engine.encode_image(png(1))
    found = last_logits(engine, image, logits="all")
    tokens = np.array(prompt(image))
    empty = np.isnan(found).all(1)
    assert empty.sum() == POSITIONS - 1
    assert (tokens[empty] < 0).all()
    assert not np.isnan(found[~empty]).any()
    assert np.abs(found[-1] - last_logits(engine, image)[-1]).max() < 1e-5


def test_adapters_change_image_turns(engine):
    image = engine.encode_image(png(1))
    handle = engine.attach(engine.prepare(truth_adapter("gemma3", "plain")))
    base = last_logits(engine, image)
    adapted = last_logits(engine, image, ((handle, 1.0),))
    assert np.abs(adapted - base).max() > 0.01
    np.testing.assert_array_equal(last_logits(engine, image), base)


def test_rows_with_and_without_images_run_together(engine):
    image = engine.encode_image(png(1))
    alone = last_logits(engine, image)
    with_image, plain = engine.open_sequence(), engine.open_sequence()
    tokens = np.array(prompt(image), np.int64)
    text = np.array([1, 5, 6, 7], np.int64)
    found = engine.forward(
        [
            Row(sequence=plain, tokens=text),
            Row(sequence=with_image, tokens=tokens, images=image.images),
        ]
    )
    assert np.abs(found[1] - alone).max() < 1e-3
    other = engine.open_sequence()
    kept = found[0].copy()
    assert np.abs(engine.forward([Row(sequence=other, tokens=text)])[0] - kept).max() < 1e-3


def test_the_same_image_again_is_reused_and_equals_a_cold_run(engine, projector):
    one, two = engine.encode_image(png(1)), engine.encode_image(png(2))
    warm = Scheduler(engine)
    handle = warm.attach("plain", warm.engine.prepare(truth_adapter("gemma3", "plain")))
    turns = [
        (prompt(one), one.images, ()),
        ([*prompt(one), 100, 101, 102], one.images, ()),
        (prompt(two), two.images, ()),
        (prompt(one), one.images, ((handle, 1.0),)),
        ([*prompt(one), *two.ids, 5], {**one.images, **two.images}, ()),
        (prompt(one), one.images, ()),
        ([*BEFORE, *one.ids], one.images, ()),
        ([*BEFORE, *one.ids[: len(one.ids) - 15]], one.images, ()),
    ]
    found = []
    for tokens, images, adapters in turns:
        generation = ask(warm, tokens, images, adapters)
        drain(warm)
        found.append(generation.result())
    for (tokens, images, adapters), warm_result in zip(turns, found, strict=True):
        cold_engine = make_engine(projector)
        cold = Scheduler(cold_engine)
        cold_handle = cold.attach("plain", cold.engine.prepare(truth_adapter("gemma3", "plain")))
        generation = ask(cold, tokens, images, tuple((cold_handle, s) for _, s in adapters))
        drain(cold)
        assert generation.result().text == warm_result.text
        cold_engine.close()
    shared = len(BEFORE) + len(one.ids)
    assert found[0].cached_tokens == 0
    assert found[1].cached_tokens >= shared + len(AFTER)
    begin = len(BEFORE) + next(at for at, token in enumerate(one.ids) if token < 0)
    assert found[2].cached_tokens == begin  # the same text up to another image
    assert found[3].cached_tokens == 0  # another adapter set
    assert found[4].cached_tokens >= shared


def test_scoring_a_prompt_with_an_image(engine):
    image = engine.encode_image(png(1))
    scheduler, scored = Scheduler(engine), LogitsOf(prompt(image), (), image.images)
    scheduler.add(scored)
    while scheduler.step():
        pass
    found = scored.future.result(0)
    assert np.abs(found[-1] - last_logits(engine, image)[-1]).max() < 1e-5


def test_a_causal_image_may_outgrow_the_micro_batch(projector):
    wide, narrow = make_engine(projector), make_engine(projector, micro_batch=32)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, 64)).astype(np.float32)
    digest = digest_of(vectors)
    image = Image(tuple(pseudo_ids(digest, 70)), {digest: vectors})
    with pytest.raises(EngineError, match="micro_batch=70"):
        last_logits(narrow, image)
    wide._vision.causal = narrow._vision.causal = True
    difference = np.abs(last_logits(wide, image) - last_logits(narrow, image)).max()
    wide._vision.causal = False
    assert difference < 1e-4
    assert np.abs(last_logits(wide, image) - last_logits(narrow, image)).max() > 1e-2
    wide.close()
    narrow.close()


def test_a_chat_with_an_image(engine):
    template = ChatTemplate.open(TRUTH / "bases" / "gemma3")
    tokenizer = LlamaTokenizer(base_file("gemma3"))
    parts = [{"type": "text", "text": "What is "}, {"type": "image", "bytes": png(3)}]
    ids, images = illustrated_prompt(
        template,
        lambda text: tokenizer.encode(text, special=False),
        engine.encode_image,
        [{"role": "user", "content": parts}],
    )
    shown = tokenizer.decode([token for token in ids if token >= 0])
    assert shown == "user: What is <start_of_image><end_of_image>\nassistant: "
    check_prompt(ids, 256, 512, images)
    with pytest.raises(ParameterError, match="token ids"):
        check_prompt(ids, 256, 512)
    scheduler = Scheduler(engine)
    generation = ask(scheduler, ids, images)
    drain(scheduler)
    assert len(generation.result().tokens) == 6


def test_rows_with_parts_of_images_are_refused(engine):
    image = engine.encode_image(png(1))
    negative = [token for token in image.ids if token < 0]
    sequence = engine.open_sequence()
    (digest,) = image.images
    for tokens, images in [
        (negative[:2], image.images),
        (negative[1:], image.images),
        (negative, {}),
        (negative, {digest: np.zeros((POSITIONS, 32), np.float32)}),
    ]:
        with pytest.raises(ParameterError, match="whole images"):
            engine.forward([Row(sequence=sequence, tokens=np.array(tokens), images=images)])
    assert engine.length(sequence) == 0


def test_a_model_without_a_projector_takes_no_images():
    engine = make_engine()
    with pytest.raises(CapabilityError, match="mmproj"):
        engine.encode_image(png(1))
    sequence = engine.open_sequence()
    with pytest.raises(ParameterError, match="no projector"):
        engine.forward([Row(sequence=sequence, tokens=np.array([-1, -2]))])
    engine.close()


def test_files_that_are_no_projector_for_the_model(tmp_path):
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


def test_a_projector_that_ends_the_process_is_refused(projector, tmp_path):
    broken = tmp_path / "mmproj.gguf"
    engine = make_engine()
    for key, value in [(b"vision.image_size", 1000), (b"vision.patch_size", 1)]:
        broken.write_bytes(with_number(projector.read_bytes(), key, value))
        with pytest.raises(FormatError, match="ends the process"):
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


def test_hostile_pictures_leave_the_process_alive(projector):
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
    assert first.ids != second.ids  # ids follow what the model is given, not the file
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


def test_pictures_of_all_formats_are_seen(engine):
    bmp = b"BM" + (54 + 192).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    bmp += (40).to_bytes(4, "little") + (8).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    assert engine.encode_image(bmp + bytes(range(192))).images
    with pytest.raises(UnsupportedError):
        engine.encode_image(b"RIFF\0\0\0\0WEBPVP8 ")
