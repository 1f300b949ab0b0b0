"""What an interleaving works on: an open model, what the caller knows of it, requests in flight.

The caller's knowledge (which adapters are loaded and active, what each stream has given) is kept
here and never read back from the model, so that the model can be checked against it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from naive import Change, Chosen, Naive, Question, Step, Text, could_differ

from lorakit.adapter import Adapter
from lorakit.errors import CancelledError, DeadlineError, LorakitError
from lorakit.model.adapters import LoadedAdapter
from lorakit.model.model import Model
from lorakit.runtime.generation import Completion, Stream

LONGEST_WAIT = 60.0  # seconds until a request counts as hung
MOST_CANDIDATES = 64  # places of changes that are tried for a request that ran freely
Policy = Literal["keep", "recompute"]


class DifferenceError(AssertionError):
    """The model said something else than its definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A change of the active set, seen from a request: it came after `low` to `high` pieces."""

    chosen: Chosen
    policy: Policy
    low: int
    high: int


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """A stream that is open. exact: it computes a token only when it is asked for a piece."""

    label: str
    stream: Stream
    question: Question
    live: bool
    exact: bool
    deadline: bool = False
    taken: list[str] = field(default_factory=list)
    changes: list[Span] = field(default_factory=list)

    @property
    def emitted(self) -> int:
        """How many pieces it has given or holds ready."""
        return len(self.taken) + len(self.stream._generation._unread)

    @property
    def done(self) -> bool:
        return self.stream._generation.done


@dataclass(slots=True, kw_only=True)
class World:
    """noise: by how much logits may differ from the reference's, from rounding alone."""

    model: Model
    naive: Naive
    pool: dict[str, Adapter]
    noise: float
    work: Path
    longest: int  # tokens of an answer
    loaded: dict[str, tuple[LoadedAdapter, str]] = field(default_factory=dict)  # with its digest
    active: dict[str, float] = field(default_factory=dict)
    flights: list[Flight] = field(default_factory=list)
    states: list[tuple[Path, tuple[int, ...], Chosen]] = field(default_factory=list)
    answers: list[tuple[int, ...]] = field(default_factory=list)  # prompts with their answers
    tally: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0  # the largest difference of a log probability that passed
    log: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def say(self, what: str) -> None:
        self.log.append(what)

    def number(self) -> int:
        return next(self._numbers)

    # Sets.

    def chosen(self, scales: dict[str, float] | None) -> Chosen:
        """What a request means by `adapters=`; None is the active set."""
        named = self.active if scales is None else scales
        return tuple((self.loaded[name][1], scale) for name, scale in named.items() if scale)

    @contextmanager
    def changing(self, active: dict[str, float], policy: Policy) -> Iterator[None]:
        """Around a call that makes `active` the active set."""
        following = [(f, f.emitted) for f in self.flights if f.live and not f.done]
        yield
        self.active = active
        for flight, before in following:
            high = before if flight.exact else flight.emitted
            span = Span(chosen=self.chosen(None), policy=policy, low=before, high=high)
            flight.changes.append(span)

    # Requests.

    def question(self, prompt, params, scales: dict[str, float] | None) -> Question:
        stops = frozenset(params.stop_tokens)
        if not params.ignore_eos:
            stops |= self.model._dialogue.stop_tokens
        return Question(
            prompt=tuple(prompt),
            params=params,
            chosen=self.chosen(scales),
            stops=stops,
            context=self.model.capabilities.context,
        )

    def check(self, label: str, question: Question, found: Completion) -> None:
        """A request whose set never changed."""
        self._judge(label, question, found, [()])

    def land(self, flight: Flight) -> None:
        """Wait for the end of a stream, and check it."""
        self.flights.remove(flight)
        try:
            found = flight.stream.result(LONGEST_WAIT)
        except CancelledError:
            raise DifferenceError(f"{flight.label} was cancelled by nobody") from None
        except DeadlineError:
            if not flight.deadline:
                raise
            self.end_early(flight)
        else:
            if not found.text.startswith("".join(flight.taken)):
                raise DifferenceError(f"{flight.label} gave {flight.taken}, then {found.text!r}")
            self._judge(flight.label, flight.question, found, self._candidates(flight, found))

    def end_early(self, flight: Flight) -> None:
        """Check what a stream had given when it was cancelled, or its time was over."""
        if flight.changes and not flight.exact:  # without its tokens their places are not known
            self.tally["unchecked"] += 1
            return
        changes = [Change(chosen=s.chosen, policy=s.policy, after=s.low) for s in flight.changes]
        text, steps = "".join(flight.taken), []
        shown = ""
        for step in self.naive.answer(flight.question, changes, "pieces"):
            if len(shown) >= len(text):
                break
            steps.append(step)
            shown += "".join(step.pieces)
            if not (shown.startswith(text) or text.startswith(shown)):
                self._differs(flight.label, flight.question, steps, None, f"{shown!r}, {text!r}")
                return
        self.tally["checked"] += 1

    def _candidates(self, flight: Flight, found: Completion) -> list[tuple[Change, ...]]:
        """All places at which the changes may have come, in numbers of tokens."""
        text, counts = Pieces(self, flight.question), [0]
        for choice in found.tokens:
            counts.append(text.after(choice.token))
        places = []
        for span in flight.changes:
            at = [n for n, count in enumerate(counts) if span.low <= count <= span.high]
            at = at or [len(found.tokens)]  # it came after the last token, whose text has two parts
            places.append(at[:1] if flight.exact else at)
        return [
            tuple(
                Change(chosen=span.chosen, policy=span.policy, after=at)
                for span, at in zip(flight.changes, chosen, strict=True)
            )
            for chosen in itertools.islice(itertools.product(*places), 100 * MOST_CANDIDATES)
            if list(chosen) == sorted(chosen)
        ]

    def _judge(self, label: str, question: Question, found: Completion, candidates: list) -> None:
        """Raise DifferenceError unless one of the candidates gives what was found."""
        if len(candidates) > MOST_CANDIDATES:
            self.tally["unchecked"] += 1
            return
        said = []
        for changes in candidates:
            steps: list[Step] = []
            fault, off = self._compare(question, changes, found, steps)
            if fault is None:
                self.tally["checked"] += 1
                if len(candidates) == 1:  # else it may be near, and another one exact
                    self.worst = max(self.worst, off)
                return
            said.append((fault, steps, changes))
        for _, steps, _ in said:
            if self._tie(question, steps, found):
                self.tally["ties"] += 1
                return
        said.sort(key=lambda entry: -len(entry[1]))
        fault, _, changes = said[0]
        raise DifferenceError(f"{label}: {fault}\n  {question}\n  changes {changes}")

    def _compare(
        self, question: Question, changes, found: Completion, steps: list[Step]
    ) -> tuple[str | None, float]:
        """What is wrong with an answer, if anything, and by how much log probabilities are off.

        `steps` are the reference's until there.
        """
        text, worst = "", 0.0
        believed = [choice.token for choice in found.tokens]
        for at, step in enumerate(self.naive.answer(question, changes, believed=believed)):
            steps.append(step)
            if at >= len(found.tokens):
                return f"it ends after {at} tokens", worst
            choice, wanted = found.tokens[at], step.choice
            if choice.token != wanted.token:
                return f"token {at} is {choice.token}, not {wanted.token}", worst
            pairs = [(choice.logprob or 0.0, wanted.logprob or 0.0)]
            pairs += [(a, b) for (_, a), (_, b) in zip(choice.top, wanted.top, strict=True)]
            off = max(abs(a - b) for a, b in pairs)
            if not off <= 2 * self.noise:
                return f"token {at} has a log probability that is off by {off:.2g}", off
            worst = max(worst, off)
            text += "".join(step.pieces)
        if len(found.tokens) != len(steps):
            return f"it goes on after {len(steps)} tokens", worst
        if (found.text, found.finish_reason) != (text, steps[-1].reason):
            said = f"{found.text!r} ({found.finish_reason})"
            return f"{said}, not {text!r} ({steps[-1].reason})", worst
        return None, worst

    def _tie(self, question: Question, steps: list[Step], found: Completion) -> bool:
        """Whether rounding alone explains the other token."""
        at = len(steps) - 1
        if at >= len(found.tokens) or found.tokens[at].token == steps[at].choice.token:
            return False
        before = [step.logits for step in steps[:-1]]
        token = found.tokens[at].token
        return could_differ(question, before, steps[-1].logits, token, self.noise)

    def _differs(self, label, question, steps, token, what) -> None:
        before = [step.logits for step in steps[:-1]]
        if not could_differ(question, before, steps[-1].logits, token, self.noise):
            raise DifferenceError(f"{label}: the text is not {what}\n  {question}")
        self.tally["ties"] += 1

    # The end.

    def settle(self) -> None:
        """End what is in flight; then nothing may be left over."""
        while self.flights:
            self.land(self.flights[0])
        left = self.model._runtime.call(left_over).result(LONGEST_WAIT)
        attached = len(self.model._runtime._scheduler.engine.attached)
        if attached != len(self.loaded):
            left["attached adapters"] = attached - len(self.loaded)
        if left := {what: count for what, count in left.items() if count}:
            raise DifferenceError(f"left over: {left}")
        said = [(info.name, info.digest, info.scale) for info in self.model.adapters]
        order = [*self.active, *(name for name in self.loaded if name not in self.active)]
        known = [(name, self.loaded[name][1], self.active.get(name)) for name in order]
        if said != known:
            raise DifferenceError(f"the model's adapters are {said}, not {known}")


class Pieces:
    """How many pieces an answer has had after each token."""

    def __init__(self, world: World, question: Question) -> None:
        self._text = Text(world.naive.decoder(), question.params.stop)
        self._stops = question.stops

    def after(self, token: int) -> int:
        if token not in self._stops:
            self._text.add(token)
        return self._text.count


def left_over(scheduler) -> dict[str, int]:
    """What an idle scheduler holds that it should not."""
    return {
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting),
        "parked": len(scheduler.parked),
        "sequences": len(scheduler.engine.sequences) - len(scheduler._prefixes),
    }


def expect(error: type[LorakitError], call, *args, **options) -> None:
    """A mistake of the caller's gets its error, and changes nothing."""
    try:
        call(*args, **options)
    except error:
        return
    raise DifferenceError(f"no {error.__name__} from {call}")


def some(r: random.Random, items):
    return r.choice(list(items))
