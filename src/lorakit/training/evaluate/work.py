"""What an evaluation has to do, made and checked as a whole before any of it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from lorakit.chat.dialogue import Dialogue
from lorakit.errors import (
    BaseModelError,
    ContextFullError,
    FormatError,
    LorakitError,
    ParameterError,
    UnknownAdapterError,
)
from lorakit.model.adapters import Scales, as_scales
from lorakit.model.model import Model
from lorakit.model.types import ChatPrompt
from lorakit.runtime.prompts import larger_context
from lorakit.text.tokenizer import TextTokenizer
from lorakit.training.data import Example
from lorakit.training.evaluate.judging import Judge
from lorakit.training.evaluate.outcome import expected_calls, expected_text
from lorakit.training.render import Rendered, Renderer
from lorakit.values import shown, truth, whole

BATCH = 32  # requests in a batch; open the model with a max_batch of as many
SHORT = 40  # characters: answers in words that are longer have no one right text
MARGIN = 32  # tokens that an answer may be long beyond twice the longest wanted one


@dataclass(frozen=True, slots=True)
class Rules:
    """How it is evaluated; see `evaluate`. alone: so many examples run one by one, to be timed.

    scored: what a scorer is called in reports.
    """

    declare: bool = False
    batch: int = BATCH
    max_tokens: int | None = None
    judge: Judge = field(default_factory=Judge)
    scored: str = "text"
    alone: int = 0

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        for name, value in (("declare", self.declare), ("ordered", self.judge.ordered)):
            if not truth(value):
                raise ParameterError(f"{name} must be True or False, found {shown(value)}")
        limits = {"batch": (1, 1024), "alone": (0, 1024), "max_tokens": (1, 1 << 20)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is None and name == "max_tokens":
                continue
            if not (whole(value) and least <= value <= most):
                raise ParameterError(
                    f"{name} must be a whole number from {least} to {most}, found {shown(value)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The examples, by their places in the list: prompts to answer, and rows to find likely."""

    examples: tuple[Example, ...]
    prompts: Mapping[int, Sequence[int]]
    rows: Mapping[int, tuple[Rendered, ...]]
    max_tokens: int


def plan(
    examples: Sequence[Example],
    rules: Rules,
    renderer: Renderer,
    tokenizer: TextTokenizer,
    context: int,
    *,
    longest: int = 0,
) -> Work:
    """Render everything. longest: as in Capabilities.

    Raises ParameterError, FormatError, BaseModelError, ContextFullError.
    """
    examples = tuple(examples)
    if not examples:
        raise ParameterError("there is nothing to evaluate: the list of examples is empty")
    answered = {place for place, _ in to_answer(examples, rules)}
    prompts: dict[int, Sequence[int]] = {}
    rows: dict[int, tuple[Rendered, ...]] = {}
    faults: list[str] = []
    for place, example in enumerate(examples):
        try:
            if place in answered:
                prompts[place] = _prompt(example, rules, renderer)
            else:
                rows[place] = renderer.render(example, rules.declare)
        except BaseModelError:  # of the base, not of this example
            raise
        except LorakitError as error:
            said = "; ".join([error.message, *error.items[:3]])
            faults.append(said if said.startswith(example.place) else f"{example.place}: {said}")
    if faults:
        raise FormatError(f"{len(faults)} examples cannot be rendered", items=faults)
    _require_room(examples, prompts, rows, context, longest)
    longest = rules.max_tokens or _longest_answer((examples[p] for p in prompts), tokenizer)
    return Work(examples=examples, prompts=prompts, rows=rows, max_tokens=longest)


def _prompt(example: Example, rules: Rules, renderer: Renderer) -> Sequence[int]:
    """What a model is asked; of a conversation with its tools, which need not be in it."""
    ids, reasons = renderer.prompt_and_state(example, rules.declare)
    return ChatPrompt(ids, reasons=reasons, tools=example.tools) if example.messages else ids


def to_answer(examples: Sequence[Example], rules: Rules) -> list[tuple[int, Example]]:
    """The examples for which an answer is generated, with their places.

    Those of calls, and those in words where a scorer judges them or their texts are so short that
    one of them is the right one. Of the others only the likelihood of the text is measured.
    """
    words = [each for each in examples if each.task in ("chat", "completion")]
    scorer = rules.judge.scorer
    if scorer is not None and (texts := [each for each in examples if each.task == "text"]):
        raise ParameterError(
            "a text without a prompt has no answer that could be scored",
            items=[each.place for each in texts[:20]],
            hint='give {"prompt": ..., "completion": ...}, or leave the scorer out',
        )
    lengths = [len(expected_text(each)) for each in words]
    in_words = scorer is not None or (bool(lengths) and median(lengths) <= SHORT)
    tasks = ("calls", "chat", "completion") if in_words else ("calls",)
    return [(place, each) for place, each in enumerate(examples) if each.task in tasks]


def dialogue_of(model: Model) -> Dialogue:
    """The template and the tool format of an open model, of a GGUF file too."""
    templates = model.base.templates if model.base.is_gguf else None
    return Dialogue(model.base.path, model.tokenizer, templates)


def require_dialogue(dialogue: Dialogue, examples: Sequence[Example]) -> None:
    """Refuse a base without a template for what has messages, and one whose calls could not be
    read. Raises BaseModelError."""
    if any(each.messages for each in examples):
        dialogue.template  # noqa: B018  # says so where there is none
    if any(expected_calls(each) for each in examples) and dialogue.tool_format is None:
        raise BaseModelError(
            "the base's chat template writes tool calls in no format that lorakit knows",
            hint="evaluate a base that calls tools",
        )


def require_adapters(model: Model, settings: Iterable[Scales | None]) -> None:
    """All adapters that are named, before anything runs. Raises UnknownAdapterError."""
    named = {name for scales in settings if scales is not None for name in as_scales(scales)}
    if missing := sorted(name for name in named if model.find(name) is None):
        loaded = ", ".join(sorted(info.name for info in model.adapters)) or "none"
        raise UnknownAdapterError(
            f"no adapter named {', '.join(map(repr, missing))} is loaded",
            hint=f"loaded adapters: {loaded}",
        )


def _require_room(
    examples: Sequence[Example],
    prompts: Mapping[int, Sequence[int]],
    rows: Mapping[int, tuple[Rendered, ...]],
    context: int,
    longest: int,
) -> None:
    lengths = {place: len(ids) + 1 for place, ids in prompts.items()}
    lengths |= {place: max(len(row.ids) for row in found) for place, found in rows.items()}
    long = [(examples[place], n) for place, n in sorted(lengths.items()) if n > context]
    if long:
        larger = larger_context(context, longest)
        raise ContextFullError(
            f"{len(long)} examples do not fit the context of {context} tokens",
            items=[f"{example.place}: {n} tokens" for example, n in long],
            hint=f"{larger}, or leave them out" if larger else "leave them out, or shorten them",
        )


def _longest_answer(examples: Iterable[Example], tokenizer: TextTokenizer) -> int:
    """Tokens that an answer may have: twice the longest wanted one, written as JSON, and some."""

    def length(example: Example) -> int:
        calls: list[Any] = [{call.name: dict(call.arguments)} for call in expected_calls(example)]
        text = expected_text(example) + (json.dumps(calls, ensure_ascii=False) if calls else "")
        return len(tokenizer.encode(text, special=False))

    return 2 * max(map(length, examples), default=0) + MARGIN
