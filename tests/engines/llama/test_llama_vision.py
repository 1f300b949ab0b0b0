"""Images through llama.cpp: logits as in mtmd's own loop; KV and adapters work as with text."""

import ctypes

import numpy as np
import pytest
from llama_cases import TRUTH, base_file, make_engine, truth_adapter
from vision_cases import AFTER, BEFORE, last_logits, prompt

from lorakit.chat.images import illustrated_prompt
from lorakit.chat.template import ChatTemplate
from lorakit.engines.llama.native import llama, mtmd
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.engines.protocol import Row
from lorakit.errors import (
    EngineError,
    ParameterError,
)
from lorakit.runtime.computations import LogitsOf
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.prompts import check_prompt
from lorakit.runtime.scheduler import Scheduler
from lorakit.text.image_ids import Image, digest_of, pseudo_ids
from projector import POSITIONS, png
from runtime_cases import Numbers


@pytest.fixture
def engine(projector):
    engine = make_engine(projector)
    yield engine
    engine.close()


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
    """The same prompt through llama.cpp's own helper, in a separate context."""
    api, low = mtmd(), llama()
    params = low.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0
    params.flash_attn_type, params.swa_full = 0, True
    context = low.llama_init_from_model(engine._model, params)
    vision = engine._vision._context
    buffer = (ctypes.c_uint8 * len(content)).from_buffer_copy(content)
    options = api.mtmd_helper_init_opt_default()
    read = api.mtmd_helper_bitmap_init_from_buf(vision, buffer, len(content), False, options)
    text = api.mtmd_input_text(b"<__media__>", 11, False, True)
    chunks = api.mtmd_input_chunks_init()
    assert api.mtmd_tokenize(vision, chunks, text, (ctypes.c_void_p * 1)(read.bitmap), 1) == 0
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
    api.mtmd_bitmap_free(read.bitmap)
    low.llama_free(context)
    return found


def test_logits_are_those_of_llama_cpps_own_loop(engine):
    for seed in (1, 2):
        content = png(seed)
        ours = last_logits(engine, engine.encode_image(content))[-1]
        assert np.abs(ours - mtmd_logits(engine, content)).max() < 1e-5


def test_an_image_is_positions_with_text_around_them(engine):
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
    handle = warm.adapters.attach("plain", warm.engine.prepare(truth_adapter("gemma3", "plain")))
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
        cold_handle = cold.adapters.attach(
            "plain", cold.engine.prepare(truth_adapter("gemma3", "plain"))
        )
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


def test_a_causal_image_may_exceed_the_micro_batch(projector):
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
