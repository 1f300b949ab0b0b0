"""The same prompts, or the same examples, at many scales of the same adapters, in one batch.

Every answer is a row with its own scales, so that all run together. Of prompts there is, for each
scale, the text, the first token at which it leaves the base's, and the mean KL per token of the
answer at scale 1: KL(scale || base), and KL(scale || scale 1), in nats. Of examples, the share of
right answers as `evaluate` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from lorakit.effect.acting import Asked, acting, prompt_of
from lorakit.effect.diff import token_text
from lorakit.effect.likelihood import answer_rows, divergence, require_logits
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales
from lorakit.model.model import Model
from lorakit.model.types import Prompt, Request
from lorakit.runtime.generation import Completion
from lorakit.runtime.params import SamplingParams
from lorakit.training.data import Example
from lorakit.training.evaluate.answering import answers
from lorakit.training.evaluate.evaluating import evaluate_all
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.work import Rules
from lorakit.values import finite, shown

OnDone = Callable[[int, int], None]  # passes of the model that are done, and all
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
MAX_SCALES = 64
MAX_TOKENS = 48
BASE, FULL = 0.0, 1.0  # what the others are measured against


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleAnswer:
    """What one prompt gets at one scale. changed: the number of the first token that is not the
    base's, None where all are; was, now: the base's token there and this one, "" after the end."""

    text: str
    changed: int | None
    was: str = ""
    now: str = ""
    kl_base: float = 0.0
    kl_full: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePoint:
    """One scale. answers: of the prompts, in their order."""

    scale: float
    answers: tuple[ScaleAnswer, ...]

    @property
    def kl_base(self) -> float:
        """Mean over the prompts of KL(this scale || base), in nats per token."""
        return sum(each.kl_base for each in self.answers) / len(self.answers)

    @property
    def kl_full(self) -> float:
        """Mean over the prompts of KL(this scale || scale 1), in nats per token."""
        return sum(each.kl_full for each in self.answers) / len(self.answers)

    @property
    def changed(self) -> int:
        """How many answers are not the base's."""
        return sum(each.changed is not None for each in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Prompts over scales, which multiply those of `adapters`."""

    adapters: dict[str, float]
    points: tuple[ScalePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = [
            asdict(p) | {"kl_base": p.kl_base, "kl_full": p.kl_full, "changed": p.changed}
            for p in self.points
        ]
        return {"adapters": self.adapters, "points": points}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSweep:
    """Examples over scales, which multiply those of `adapters`."""

    adapters: dict[str, float]
    points: tuple[tuple[float, Evaluation], ...]

    @property
    def best(self) -> tuple[float, Evaluation]:
        """The scale that does best; of several the one nearest to 1."""
        return max(self.points, key=lambda point: (point[1].goal, -abs(point[0] - 1)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the single answers."""
        points = [{"scale": s} | found.to_dict(outcomes=False) for s, found in self.points]
        return {"adapters": self.adapters, "best_scale": self.best[0], "points": points}


def sweep(
    model: Model,
    prompts: Sequence[Asked],
    *,
    adapters: Scales | None = None,
    scales: Sequence[float] = SCALES,
    max_tokens: int = MAX_TOKENS,
    progress: OnDone | None = None,
) -> Sweep:
    """Answer prompts (texts, ids, messages or `chat_prompt`s) at each scale, greedily, and compare.

    adapters: as everywhere; None is the active set. All answers run in one batch of mixed rows, as
    far as the engine's `max_batch` goes; then each scale reads the answer of scale 1 once.
    Raises ParameterError (no prompt, adapter or scale), CapabilityError (a model behind a URL) and
    what `Model.batch` and `Model.logits` raise. Whoever interrupts it cancels what runs.
    """
    require_logits(model)
    chosen = acting(model, adapters)
    asked = _scales(scales)
    if isinstance(prompts, str):
        raise ParameterError("prompts are several, found one text", hint="give a list of prompts")
    if not prompts:
        raise ParameterError("there is no prompt to answer")
    read = [prompt_of(model, prompt) for prompt in prompts]
    run = list(dict.fromkeys([*asked, BASE, FULL]))
    count, passes = 0, 2 * len(run) * len(prompts)

    def done() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, passes)

    told: dict[tuple[float, int], Completion] = {}
    with closing(_answered(model, read, chosen, run, max_tokens)) as found:
        for key, completion in found:
            told[key] = completion
            done()
    rows = [
        _compared(
            model, prompt, {s: _at(chosen, s) for s in run}, {s: told[s, n] for s in run}, done
        )
        for n, prompt in enumerate(read)
    ]
    points = tuple(ScalePoint(scale=s, answers=tuple(row[s] for row in rows)) for s in asked)
    return Sweep(adapters=chosen, points=points)


def sweep_examples(
    model: Model,
    examples: Sequence[Example],
    *,
    adapters: Scales | None = None,
    scales: Sequence[float] = SCALES,
    rules: Rules | None = None,
    progress: OnDone | None = None,
) -> ExampleSweep:
    """Evaluate examples whose answers are known at each scale, all in one batch of mixed rows.

    rules: as of `evaluate`. Raises what `evaluate` raises.
    """
    chosen = acting(model, adapters)
    asked = _scales(scales)
    settings = {str(s): _at(chosen, s) for s in asked}
    found = evaluate_all(model, examples, settings, rules or Rules(), progress=progress)
    points = tuple((s, found[str(s)]) for s in asked)
    return ExampleSweep(adapters=chosen, points=points)


def _scales(scales: Sequence[float]) -> list[float]:
    """Each once, ascending. Raises ParameterError."""
    faults = [shown(scale) for scale in scales if not finite(scale)]
    if faults:
        raise ParameterError("scales must be finite numbers", items=faults)
    found = sorted({float(scale) for scale in scales})
    if not 1 <= len(found) <= MAX_SCALES:
        raise ParameterError(f"give 1 to {MAX_SCALES} scales, found {len(found)}")
    return found


def _at(adapters: Mapping[str, float], scale: float) -> dict[str, float]:
    return {name: own * scale for name, own in adapters.items()}


def _answered(
    model: Model,
    prompts: Sequence[Prompt],
    adapters: Mapping[str, float],
    scales: Sequence[float],
    max_tokens: int,
) -> Generator[tuple[tuple[float, int], Completion]]:
    greedy = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    keys = [(scale, n) for n in range(len(prompts)) for scale in scales]
    requests = [
        Request(prompt=prompts[n], adapters=_at(adapters, scale), sampling=greedy)
        for scale, n in keys
    ]
    with closing(answers(model, requests, 2 * model.capabilities.max_batch)) as found:
        yield from zip(keys, found, strict=True)


def _compared(
    model: Model,
    prompt: Prompt,
    settings: Mapping[float, Mapping[str, float]],
    told: Mapping[float, Completion],
    done: Callable[[], None],
) -> dict[float, ScaleAnswer]:
    """One prompt at every scale; only the two references' rows are kept beside the one at hand."""
    ids = [choice.token for choice in told[FULL].tokens]
    base = answer_rows(model, prompt, ids, settings[BASE])
    full = answer_rows(model, prompt, ids, settings[FULL])
    found = {}
    for scale, completion in told.items():
        kept = {BASE: base, FULL: full}.get(scale)
        rows = answer_rows(model, prompt, ids, settings[scale]) if kept is None else kept
        done()
        found[scale] = ScaleAnswer(
            text=completion.text,
            **_change(model, told[BASE], completion),
            kl_base=float(divergence(rows, base).mean()),
            kl_full=float(divergence(rows, full).mean()),
        )
    return found


def _change(model: Model, base: Completion, other: Completion) -> dict[str, Any]:
    """Where an answer leaves the base's; the end of one that is a part of the other counts."""
    pairs = zip_longest(*([choice.token for choice in each.tokens] for each in (base, other)))
    for place, (was, now) in enumerate(pairs):
        if was != now:
            texts = ("" if token is None else token_text(model, token) for token in (was, now))
            return {"changed": place, **dict(zip(("was", "now"), texts, strict=True))}
    return {"changed": None}
