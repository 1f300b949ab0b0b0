"""The proof of an export: the finished files in their runtime against base + adapter in float32.

Greedy answers first, on both sides; then logits on the prompts and on what the float32 side
answered, which is where a difference would show. Everything runs from the exported files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import CapabilityError
from lorakit.exporting.cases import Answer, Cases, cases_of
from lorakit.exporting.engine import running_engine
from lorakit.exporting.feeds import Scaled, lora_feeds, number_feeds
from lorakit.exporting.parity import Answers, Apart, Parity, ProofOptions, SideParity
from lorakit.exporting.running import Exported, ExportedModel, Feeds, Logits
from lorakit.files.atomic import spare_folder
from lorakit.graph import targets
from lorakit.merge import merge
from lorakit.model.model import Model
from lorakit.model.open import open as open_model
from lorakit.runtime.params import SamplingParams
from lorakit.training.evaluate.work import dialogue_of
from lorakit.verify.parity import ParityReport, PromptParity, compare

Kind = Literal["merged", "apart", "dynamic", "composed"]
OnDone = Callable[[int, int], None]  # runs that are done, and all
Named = Mapping[str, Scaled]
LAST = 64  # positions of a prompt, its answer included, whose logits are compared
AT_ONCE = 16  # of them: with a large vocabulary, float64 fills memory
BASE, PROBE = "base", "a random adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A set of adapters. scales: in the float32 model; feeds: in the export."""

    name: str
    scales: Mapping[str, float]
    feeds: Feeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is proven. exported: opens it. coarse: it has few bits; most: nats of KL that the form
    may cost. runtime: that it runs in, in words. stops: tokens that end an answer. dialogue: how
    it holds a conversation, where that is not as the base does. faults: of the files beside the
    weights. other: opens the other of merged and apart, so that both can be told by numbers.
    """

    exported: AbstractContextManager[Exported]
    form: str
    kind: Kind
    coarse: bool
    most: float
    runtime: str
    stops: frozenset[int]
    dialogue: Callable[[Model], Dialogue] = dialogue_of
    faults: Callable[[Cases], tuple[str, ...]] = lambda cases: ()
    other: AbstractContextManager[Exported] | None = None
    warnings: tuple[str, ...] = ()


def prove(
    subject: Subject,
    *,
    base: Base,
    adapters: Named,
    options: ProofOptions | None = None,
    context: int | None = None,
    progress: OnDone | None = None,
) -> Parity:
    """Compare an export with what it was made of.

    adapters: at their scales, by name. context: tokens that the export holds, where it is fewer
    than the base. progress: what it raises ends the proof.
    Raises what opening, reading and running raise; the caller asks `Parity.require`.
    """
    options = options or ProofOptions()
    tried, kind = dict(adapters), subject.kind
    if kind == "dynamic" and not tried:
        tried[PROBE] = (probe(base), 1.0)
    with (
        _reference(base, tried, kind) as (model, scales, said),
        subject.exported as exported,
        subject.other or nullcontext() as second,
    ):
        sides = _sides(exported, kind, tried, scales)
        dialogue = subject.dialogue(model)
        cases = cases_of(model, options, coarse=subject.coarse, context=context, dialogue=dialogue)
        run = _Run(model, exported, second, cases, subject.stops, _Counter(progress, len(sides)))
        faults = subject.faults(cases)
        found = tuple(run.side(side) for side in sides)
        apart = run.apart(kind, found[-1].kl) if second else None
    warnings = [
        f"{side.name} has no effect on these prompts: agreement proves nothing about it"
        for side in found
        if side.effect == 0
    ]
    return Parity(
        form=subject.form,
        kind=kind,
        most=subject.most,
        reference=said,
        runtime=subject.runtime,
        prompts=cases.said,
        sides=found,
        apart=apart,
        max_kl=options.max_kl,
        min_match=options.min_match,
        faults=faults,
        warnings=(*warnings, *subject.warnings),
    )


def probe(base: Base, rank: int = 4) -> Adapter:
    """An adapter of noise on every LoRA input, small beside the base: it shows that each of them
    reaches its module, which an export without adapters would not."""
    draw = np.random.default_rng(20261129)

    def factor(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return draw.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5)

    return Adapter(
        deltas=tuple(
            Delta(
                module=target.module,
                a=factor(rank, target.in_features),
                b=factor(target.out_features, rank),
                scale=0.05,
            )
            for target in targets(base.decoder).values()
        )
    )


@contextmanager
def _reference(
    base: Base, adapters: Named, kind: Kind
) -> Iterator[tuple[Model, Mapping[str, float], str]]:
    """Base + adapter in float32 on our engine, the scales to use, and what it is in words.

    What that engine cannot apply at run time, such as DoRA, is merged in float32.
    """
    engine = running_engine(base)
    with open_model(base.path, engine=engine) as model:
        try:
            for name, (adapter, _) in adapters.items():
                model.load_adapter(adapter, name)
        except CapabilityError:
            if kind != "merged":
                raise
        else:
            scales = {name: scale for name, (_, scale) in adapters.items()}
            what = "base + adapter" if adapters else "the base"
            yield model, scales, f"{what} in float32, lorakit's {engine} engine"
            return
    with spare_folder() as place:
        merge(base, list(adapters.values()), place / "merged", dtype="f32")
        with open_model(place / "merged", engine=engine) as model:
            yield model, {}, f"base + adapter merged in float32, lorakit's {engine} engine"


def _sides(
    exported: Exported, kind: Kind, adapters: Named, scales: Mapping[str, float]
) -> list[Side]:
    """The sets of adapters that the file can be asked for."""
    if kind == "composed":
        return [
            Side(name=BASE, scales={}, feeds=number_feeds(0)),
            *(
                Side(name=each, scales={each: scales[each]}, feeds=number_feeds(number))
                for number, each in enumerate(adapters, 1)
            ),
        ]
    if kind == "dynamic":
        assert isinstance(exported, ExportedModel)
        return [
            Side(name=BASE, scales={}, feeds=lora_feeds(exported, [])),
            *(
                Side(name=each, scales={each: scales[each]}, feeds=lora_feeds(exported, [scaled]))
                for each, scaled in adapters.items()
            ),
        ]
    return [Side(name=" + ".join(adapters) or BASE, scales=scales, feeds={})]


@dataclass(slots=True)
class _Counter:
    progress: OnDone | None
    sides: int
    done: int = 0

    def step(self, cases: int) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, 2 * cases * self.sides)


@dataclass(slots=True)
class _Run:
    """Both sides, open, and what they are asked. second: the other way of exporting."""

    model: Model
    exported: Exported
    second: Exported | None
    cases: Cases
    stops: frozenset[int]
    counter: _Counter
    others: list[PromptParity] = field(default_factory=list)  # of `second`

    def side(self, side: Side) -> SideParity:
        """One set of adapters, answers and logits."""
        before = [self._wanted(side, case.ids) for case in self.cases.cases]
        after = [
            self.exported.answer(case.ids, side.feeds, self.stops, self.cases.limit)
            for case in self.cases.cases
        ]
        total = _total(list(self._logits(side, before)))
        return SideParity(
            name=side.name,
            positions=total.tokens,
            max_difference=total.max_difference,
            kl=total.kl,
            top1=total.top1,
            effect=total.effect,
            answers=self._answers(before, after),
        )

    def apart(self, kind: Kind, mine: float) -> Apart:
        """Both ways of bringing the adapter into the form, by their KL."""
        theirs = _total(self.others).kl
        merged, apart = (mine, theirs) if kind == "merged" else (theirs, mine)
        return Apart(merged=merged, apart=apart)

    def _wanted(self, side: Side, ids: Sequence[int]) -> Answer:
        sampling = SamplingParams(max_tokens=self.cases.limit, temperature=0)
        completion = self.model.complete(ids, sampling=sampling, adapters=side.scales)
        self.counter.step(len(self.cases.cases))
        return tuple(choice.token for choice in completion.tokens)

    def _logits(self, side: Side, answers: Sequence[Answer]) -> Iterator[PromptParity]:
        """The last positions of each prompt with its answer, some at a time."""
        for case, answer in zip(self.cases.cases, answers, strict=True):
            ids = [*case.ids, *answer][: self.model.capabilities.context]
            keep = min(LAST, len(ids))
            one = self.model.logits(ids, adapters=side.scales)[-keep:]
            plain = self.model.logits(ids, adapters={})[-keep:] if side.scales else None
            yield from _compared(case.name, one, self.exported.logits(ids, side.feeds, keep), plain)
            if self.second is not None:
                other = self.second.logits(ids, {}, keep)
                self.others += _compared(case.name, one, other)
            self.counter.step(len(self.cases.cases))

    def _answers(self, before: Sequence[Answer], after: Sequence[Answer]) -> Answers:
        found = Answers(asked=len(before), same=0)
        for case, one, other in zip(self.cases.cases, before, after, strict=True):
            right = self.cases.right(case, other)
            found = replace(
                found,
                same=found.same + self.cases.same(case, one, other),
                calls=found.calls + bool(self.cases.calls(one)),
                wanted=found.wanted + (right is not None),
                right=found.right + bool(right),
                right_before=found.right_before + bool(self.cases.right(case, one)),
            )
        return found


def _compared(
    name: str, one: Logits, other: Logits, plain: Logits | None = None
) -> Iterator[PromptParity]:
    for begin in range(0, len(one), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        base = None if plain is None else plain[rows].astype(np.float64)
        yield compare(name, one[rows].astype(np.float64), other[rows].astype(np.float64), base)


def _total(parts: Sequence[PromptParity]) -> PromptParity:
    return ParityReport(one="", other="", tolerance=None, prompts=tuple(parts)).total
