"""The scheduler on the fake engine, whose logits give away any stale or mixed-up KV cache."""

import time

import numpy as np
import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import abandoned
from lorakit.errors import (
    CancelledError,
    ClosedError,
    ContextFullError,
    DeadlineError,
    EngineError,
    ParameterError,
)
from lorakit.runtime.computations import HiddenOf, LogitsOf
from lorakit.runtime.generation import Completion, Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.prompts import check_prompt
from lorakit.runtime.scheduler import Scheduler
from runtime_cases import Numbers, adapter


def request(
    scheduler, prompt, adapters=None, *, stops=(), lookahead=None, deadline=None, **options
):
    generation = Generation(
        tuple(prompt),
        SamplingParams(**{"max_tokens": 8, **options}),
        adapters=adapters,
        lookahead=lookahead,
        deadline=deadline,
    )
    scheduler.add(Job(generation, Numbers(), frozenset(stops)))
    return generation


def drain(scheduler):
    while scheduler.step():
        pass


def compute(scheduler, computation):
    scheduler.add(computation)
    drain(scheduler)
    return computation.future.result(0)


def text(prompt, adapters=(), **options):
    """What a cold engine says, with `adapters` given as (seed, scale)."""
    scheduler = Scheduler(FakeEngine())
    chosen = tuple(
        (scheduler.adapters.attach(str(seed), scheduler.engine.prepare(adapter(seed))), scale)
        for seed, scale in adapters
    )
    generation = request(scheduler, prompt, chosen, **options)
    drain(scheduler)
    return generation.result().text


@pytest.fixture
def scheduler():
    return Scheduler(FakeEngine())


def test_rows_of_a_batch_equal_cold_runs(scheduler):
    prompts = [[i, *range(i)] for i in range(1, 12)]
    generations = [request(scheduler, prompt) for prompt in prompts]
    drain(scheduler)
    assert [g.result().text for g in generations] == [text(prompt) for prompt in prompts]


def test_a_long_prompt_joins_in_chunks_while_others_decode(scheduler):
    first = request(scheduler, [1], max_tokens=20)
    scheduler.step()
    second = request(scheduler, list(range(50)))
    drain(scheduler)
    mixed = [rows for rows in scheduler.engine.steps if len(rows) == 2 and len(rows[1].tokens) > 1]
    assert [len(rows[1].tokens) for rows in mixed] == [16, 16, 16, 2]
    assert first.result().text == text([1], max_tokens=20)
    assert second.result().text == text(list(range(50)))


def test_short_prompts_share_a_chunk(scheduler):
    generations = [request(scheduler, [i] * 6) for i in range(1, 5)]
    drain(scheduler)
    first = [len(row.tokens) for row in scheduler.engine.steps[0]]
    assert first == [6, 6, 4]  # a chunk is 16 tokens here
    assert [g.result().text for g in generations] == [text([i] * 6) for i in range(1, 5)]


def test_running_out_of_memory_fails_the_request_alone(scheduler):
    def exhaust(rows):
        if any(len(row.tokens) > 10 for row in rows):
            raise MemoryError

    scheduler.engine.before_step = exhaust
    small, large = request(scheduler, [1, 2]), request(scheduler, [3] * 12)
    drain(scheduler)
    assert small.result().text == text([1, 2])
    with pytest.raises(EngineError) as caught:
        large.result()
    assert caught.value.code == "out_of_memory"


def test_a_sequence_that_cannot_be_opened_fails_its_request_alone(scheduler, monkeypatch):
    def refuse(self):
        raise EngineError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "open_sequence", refuse)
        failed = request(scheduler, [1, 2])
        drain(scheduler)
    later = request(scheduler, [1, 2])
    drain(scheduler)
    with pytest.raises(EngineError, match="no more"):
        failed.result()
    assert later.result().text == text([1, 2])


def test_interleaved_prompts_and_adapters_equal_cold_runs(scheduler):
    handles = {
        seed: scheduler.adapters.attach(str(seed), scheduler.engine.prepare(adapter(seed)))
        for seed in (1, 2, 3)
    }
    random = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        prompt = [5] * int(random.integers(1, 6)) + random.integers(0, 3, 4).tolist()
        chosen = [(int(s), float(random.choice([1.0, 0.5]))) for s in random.permutation([1, 2, 3])]
        cases.append((prompt, chosen[: random.integers(0, 3)]))
    generations = [
        request(scheduler, prompt, tuple((handles[seed], scale) for seed, scale in chosen))
        for prompt, chosen in cases
    ]
    drain(scheduler)
    for generation, (prompt, chosen) in zip(generations, cases, strict=True):
        assert generation.result().text == text(prompt, chosen)
    assert any(generation.result().cached_tokens for generation in generations)


def test_prefix_reuse_takes_over_forks_and_never_crosses_keys(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    prompt = list(range(20))
    first = request(scheduler, prompt)
    drain(scheduler)
    whole = prompt + [choice.token for choice in first.result().tokens]
    longer = request(scheduler, [*whole, 3])  # continues the conversation
    drain(scheduler)
    sibling = request(scheduler, [*prompt[:10], 9, 9])  # shares its beginning
    other = request(scheduler, prompt, ((handle, 1.0),))  # same tokens, other adapters
    drain(scheduler)
    assert longer.result().cached_tokens == len(whole) - 1
    assert sibling.result().cached_tokens == 10
    assert other.result().cached_tokens == 0
    assert other.result().text == text(prompt, [(1, 1.0)])
    assert longer.result().text == text([*whole, 3])


def test_the_same_prompt_again_runs_only_its_last_token(scheduler):
    prompt = list(range(20))
    request(scheduler, prompt)
    drain(scheduler)
    again = request(scheduler, prompt)
    drain(scheduler)
    assert again.result().cached_tokens == 19
    assert again.result().text == text(prompt)


@pytest.mark.parametrize("least", [1, 2, 3])
def test_rows_of_prompts_are_as_long_as_the_engine_wants(least):
    """In chunks, beside others, and where the prefix is known; 1 is the broken variant."""
    random, found = np.random.default_rng(0), []
    engine = FakeEngine(
        prompt_row=least, before_step=lambda rows: found.extend(len(row.tokens) for row in rows)
    )
    scheduler = Scheduler(engine)
    prompts = [[5] * int(random.integers(least, 60)) + [int(i) % 3] * 2 for i in range(60)]
    generations = []
    for prompt in prompts:
        generations += [request(scheduler, prompt, max_tokens=1) for _ in range(2)]
        if random.integers(3) == 0:
            drain(scheduler)
    drain(scheduler)
    assert all(generation.result().tokens for generation in generations)
    assert sum(generation.result().cached_tokens > 0 for generation in generations) > 60
    assert min(found) == least


def test_running_requests_share_their_prefix(scheduler):
    prompt = list(range(12))
    request(scheduler, [*prompt, 1], max_tokens=30)
    for _ in range(3):
        scheduler.step()
    second = request(scheduler, [*prompt, 2])
    drain(scheduler)
    assert second.result().cached_tokens == 12
    assert second.result().text == text([*prompt, 2])


def test_idle_sequences_are_evicted_when_the_engine_is_full(scheduler):
    for i in range(40):
        request(scheduler, [i % 60, i // 2, 7])
    drain(scheduler)
    assert len(scheduler.engine._states) <= scheduler.engine.max_sequences


def test_a_change_of_the_active_set_keeps_kv_or_recomputes_it(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    for policy, same_as_cold in (("keep", False), ("recompute", True)):
        scheduler.activate((), "keep")
        generation = request(scheduler, [1, 2, 3], max_tokens=10)
        for _ in range(5):
            scheduler.step()
        scheduler.activate(((handle, 0.5),), policy)
        drain(scheduler)
        tokens = [choice.token for choice in generation.result().tokens]
        cold = text([1, 2, 3, *tokens[:5]], [(1, 0.5)], max_tokens=5)
        assert ("".join(f"{t} " for t in tokens[5:]) == cold) is same_as_cold
        assert generation.result().adapters == (("a", 0.5),)


def test_kv_of_a_changed_sequence_is_reused_only_up_to_the_change(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    generation = request(scheduler, [1, 2, 3], max_tokens=10)
    for _ in range(4):
        scheduler.step()
    scheduler.activate(((handle, 1.0),), "keep")
    drain(scheduler)
    tokens = [1, 2, 3, *(choice.token for choice in generation.result().tokens)]
    explicit = request(scheduler, tokens, ())
    drain(scheduler)
    assert explicit.result().cached_tokens == 6  # the prompt and three tokens ran as the base
    assert explicit.result().text == text(tokens)


def test_explicit_adapters_ignore_the_active_set(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    generation = request(scheduler, [1, 2], ())
    scheduler.step()
    scheduler.activate(((handle, 1.0),), "recompute")
    drain(scheduler)
    assert generation.result().text == text([1, 2])


def test_a_retired_adapter_is_freed_after_its_last_request(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    generation = request(scheduler, [1, 2], ((handle, 1.0),))
    scheduler.retire(handle)
    scheduler.step()
    assert handle in scheduler.engine._adapters
    drain(scheduler)
    assert generation.result().text == text([1, 2], [(1, 1.0)])
    assert generation.result().adapters == (("a", 1.0),)
    assert handle not in scheduler.engine._adapters


def test_stop_tokens_strings_and_lengths(scheduler):
    whole = text([4, 4], max_tokens=6).split()
    by_token = request(scheduler, [4, 4], stops={int(whole[3])})
    by_text = request(scheduler, [4, 4], stop=f"{whole[2]} {whole[3]}")
    by_length = request(scheduler, [4, 4], max_tokens=3)
    nothing = request(scheduler, [4, 4], max_tokens=0)
    drain(scheduler)
    assert (by_token.result().text.split(), by_token.result().finish_reason) == (whole[:3], "stop")
    assert (by_text.result().text.split(), by_text.result().finish_reason) == (whole[:2], "stop")
    assert (by_length.result().text.split(), by_length.result().finish_reason) == (
        whole[:3],
        "length",
    )
    assert (nothing.result().text, nothing.result().finish_reason) == ("", "length")


def test_nothing_ends_an_answer_before_min_tokens(scheduler):
    whole = text([4, 4], max_tokens=6).split()
    ends = {int(whole[1])}
    by_token = request(scheduler, [4, 4], stops=ends, min_tokens=3)
    by_text = request(scheduler, [4, 4], stop=whole[1], min_tokens=2)
    at_once = request(scheduler, [4, 4], stop=whole[1], min_tokens=1)
    drain(scheduler)
    assert len(by_token.result().tokens) > 3
    assert not ends & {choice.token for choice in by_token.result().tokens[:3]}
    assert by_text.result().text.split()[:2] == whole[:2]
    assert at_once.result().text.split() == whole[:1]


def test_the_end_of_the_context_ends_a_generation(scheduler):
    generation = request(scheduler, [1] * 250, max_tokens=100)
    drain(scheduler)
    assert generation.result().finish_reason == "length"
    assert len(generation.result().tokens) == 256 - 250 + 1


def test_prompts_that_cannot_run_are_refused():
    with pytest.raises(ContextFullError, match="256"):
        check_prompt([1] * 256, 256, 64)
    with pytest.raises(ParameterError, match="64"):
        check_prompt([1, 64], 256, 64)
    with pytest.raises(ParameterError, match="-1"):
        check_prompt([1, -1], 256, 64)


def test_cancelled_and_overdue_requests_end_before_their_next_token(scheduler):
    cancelled = request(scheduler, [1])
    overdue = request(scheduler, [2], deadline=time.monotonic() + 0.005)
    waiting = [request(scheduler, [3], deadline=time.monotonic() - 1) for _ in range(5)]
    scheduler.step()
    cancelled.cancel()
    time.sleep(0.01)
    scheduler.step()
    for generation, error in [(cancelled, CancelledError), (overdue, DeadlineError)]:
        with pytest.raises(error):
            generation.result()
    for generation in waiting:
        with pytest.raises(DeadlineError):
            generation.result()
    assert not scheduler.running


def test_a_failing_row_fails_alone(scheduler):
    def fail(rows):
        if any(9 in row.tokens for row in rows):
            raise EngineError("a nine")

    good = request(scheduler, [1, 2])
    bad = request(scheduler, [9, 9])
    scheduler.engine.before_step = fail
    drain(scheduler)
    with pytest.raises(EngineError, match="a nine"):
        bad.result()
    good.result()


def test_paused_streams_leave_their_places_and_sequences_to_others():
    scheduler = Scheduler(FakeEngine(max_batch=2, max_sequences=3))
    streams = [request(scheduler, [i], lookahead=1, max_tokens=5) for i in range(6)]
    drain(scheduler)
    assert all(not stream.done for stream in streams)
    busy = [request(scheduler, [i, i]) for i in range(6)]
    drain(scheduler)
    assert [g.result().text for g in busy] == [text([i, i]) for i in range(6)]
    pieces = [""] * 6
    while any(not stream.done or stream._unread for stream in streams):
        for i, stream in enumerate(streams):
            if not stream.done or stream._unread:
                pieces[i] += stream.next_piece()
            drain(scheduler)
    assert pieces == [text([i], max_tokens=5) for i in range(6)]


def test_unread_streams_that_fill_the_batch_do_not_hold_up_others(scheduler):
    streams = [request(scheduler, [i], lookahead=0) for i in range(6)]
    prompt = request(scheduler, [7, 7], max_tokens=2)
    drain(scheduler)
    assert prompt.done
    assert not any(stream.done for stream in streams)


def test_slow_readers_do_not_starve_a_fresh_request():
    scheduler = Scheduler(FakeEngine(max_batch=2, max_sequences=3))
    streams = [request(scheduler, [i], lookahead=1, max_tokens=40) for i in range(8)]
    drain(scheduler)
    fresh = request(scheduler, [9, 9], max_tokens=1)
    for step in range(10):
        streams[step % 8]._unread.clear()  # each reader takes its piece in turn
        scheduler.step()
    assert fresh.done


def test_a_prompt_that_continues_a_running_answer_does_not_wait_for_it(scheduler):
    running = request(scheduler, list(range(40)), max_tokens=100)
    for _ in range(60):
        scheduler.step()
    answer = [int(token) for token in "".join(running._unread).split()]
    replay = request(scheduler, [*range(40), *answer[:30], 1], max_tokens=1)
    other = request(scheduler, [1], max_tokens=1)
    for _ in range(5):
        scheduler.step()
    assert other.done
    assert replay.done
    assert not running.done


def test_logits_find_room_beside_paused_streams():
    scheduler = Scheduler(FakeEngine(max_batch=2, max_sequences=2))
    for i in range(2):
        request(scheduler, [i], lookahead=1)
    drain(scheduler)
    assert compute(scheduler, LogitsOf([1, 2, 3], ())).shape == (3, 64)


def test_computations_wait_for_a_sequence_as_requests_do():
    scheduler = Scheduler(FakeEngine(max_batch=2, max_sequences=2))
    running = [request(scheduler, [i], max_tokens=5) for i in range(4)]
    logits, hidden = LogitsOf([1, 2, 3], ()), HiddenOf([1, 2], ())
    scheduler.add(logits)
    scheduler.add(hidden)
    scheduler.step()
    assert not logits.future.done()
    drain(scheduler)
    assert logits.future.result(0).shape == (3, 64)
    assert len(hidden.future.result(0)) == 2
    assert all(generation.done for generation in running)


def test_a_computation_takes_the_set_that_is_active_when_it_is_queued(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    under = compute(scheduler, LogitsOf([1, 2], ((handle, 1.0),)))
    scheduler.activate(((handle, 1.0),), "keep")
    queued = LogitsOf([1, 2], None)
    scheduler.add(queued)
    scheduler.activate((), "keep")
    scheduler.retire(handle)  # held until the computation has run
    drain(scheduler)
    np.testing.assert_array_equal(queued.future.result(0), under)
    assert handle not in scheduler.engine._adapters


@pytest.mark.parametrize(("lookahead", "policy", "pinned"), [
    (0, "keep", False),  # nothing was sampled: the new set acts on all of it
    (1, "keep", True),  # what is computed anew is computed as it was
    (1, "recompute", False),
])  # fmt: skip
def test_a_parked_stream_holds_the_adapters_of_its_history(lookahead, policy, pinned):
    scheduler = Scheduler(FakeEngine(max_batch=2, max_sequences=2))
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    scheduler.activate(((handle, 1.0),), "keep")
    streams = [request(scheduler, [i, 9], lookahead=lookahead, max_tokens=4) for i in range(2)]
    drain(scheduler)
    request(scheduler, [5], (), max_tokens=1)
    drain(scheduler)
    (parked,) = scheduler.parked
    scheduler.activate((), policy)
    scheduler.retire(handle)
    for job in scheduler.running:
        job.generation.cancel()
    drain(scheduler)
    assert (handle in scheduler.engine._adapters) is pinned
    parked.generation._run_free()
    drain(scheduler)
    assert handle not in scheduler.engine._adapters
    assert any(stream.done and isinstance(stream._outcome, Completion) for stream in streams)


def test_a_full_prefix_cache_lets_the_oldest_go(scheduler):
    scheduler = Scheduler(FakeEngine(max_sequences=4))
    prompts = [[1, 2, 10 + i, 20 + i, 30 + i] for i in range(7)]  # all share their beginning
    for prompt in prompts:
        request(scheduler, prompt)
        drain(scheduler)
    again = [request(scheduler, prompt) for prompt in prompts[4:]]
    drain(scheduler)
    assert [g.result().cached_tokens for g in again] == [4, 4, 4]


def test_a_long_prefix_that_several_share_is_computed_once(scheduler):
    shared = list(range(60))
    generations = [request(scheduler, [*shared, 60 + i]) for i in range(4)]
    drain(scheduler)
    computed = sum(len(row.tokens) for rows in scheduler.engine.steps for row in rows)
    assert computed <= 60 + 4 + 4 * 8
    assert [g.result().text for g in generations] == [text([*shared, 60 + i]) for i in range(4)]


def test_logits_of_all_positions_come_from_a_cold_sequence(scheduler):
    handle = scheduler.adapters.attach("a", scheduler.engine.prepare(adapter(1)))
    request(scheduler, list(range(40)))
    drain(scheduler)
    ours = compute(scheduler, LogitsOf(range(40), ((handle, 1.0),)))
    cold = Scheduler(FakeEngine())
    other = cold.adapters.attach("b", cold.engine.prepare(adapter(1)))
    np.testing.assert_array_equal(ours, compute(cold, LogitsOf(range(40), ((other, 1.0),))))
    assert ours.shape == (40, 64)


def test_an_interrupt_that_comes_late_does_not_end_what_nobody_can_cancel(scheduler, monkeypatch):
    expected = compute(scheduler, LogitsOf([1, 2, 3], ()))
    for name in ("forward", "hidden"):
        late, run = [CancelledError("late")] * 2, getattr(scheduler.engine, name)

        def interrupted(given, late=late, run=run):
            if late:
                raise late.pop()
            return run(given)

        monkeypatch.setattr(scheduler.engine, name, interrupted)
    np.testing.assert_array_equal(compute(scheduler, LogitsOf([1, 2, 3], ())), expected)

    def closing(rows):
        raise CancelledError("closing")

    monkeypatch.setattr(scheduler.engine, "forward", closing)
    before = abandoned.set(lambda: True)
    with pytest.raises(ClosedError):
        compute(scheduler, LogitsOf([1, 2, 3], ()))
    abandoned.reset(before)
