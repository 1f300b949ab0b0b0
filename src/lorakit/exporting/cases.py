"""What an export is compared on: a user's examples, else texts; and how answers are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.chat.calls import ToolCall
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.messages import Message
from lorakit.errors import BaseModelError, FormatError, ParameterError
from lorakit.exporting.parity import ProofOptions
from lorakit.files.cache import digest_of
from lorakit.model.model import Model
from lorakit.text.tokenizer import Tokenizer
from lorakit.training.data import Example, read_examples
from lorakit.training.evaluate.matching import match_calls, schemas_of
from lorakit.training.evaluate.outcome import expected_calls
from lorakit.training.evaluate.work import Rules, dialogue_of, plan, require_dialogue
from lorakit.training.render import Renderer
from lorakit.verify.prompts import SAMPLES, prompts_for, samples_for

MOST_CASES = 24  # examples that are compared, evenly over the file
ANSWER = 24  # tokens of an answer to a text
GREETING: list[Message] = [{"role": "user", "content": "Hello, who are you?"}]
Answer = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt. example: what is known of the right answer."""

    name: str
    ids: Sequence[int]
    example: Example | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """All of them, said in words; limit: tokens of an answer."""

    cases: tuple[Case, ...]
    said: str
    limit: int
    dialogue: Dialogue
    model: Model = field(repr=False)

    def calls(
        self, answer: Answer, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[ToolCall, ...]:
        """The tool calls of an answer. tools: those that it may call, where they are known."""
        stops = self.dialogue.stop_tokens
        text = self.model.tokenizer.decode([t for t in answer if t not in stops], continuing=True)
        return self.dialogue.parse(text, tools=tools).tool_calls

    def same(self, case: Case, one: Answer, other: Answer) -> bool:
        """Whether two answers call the same tools alike, or are the same where none is called."""
        tools = case.example.tools if case.example else ()
        mine, theirs = self.calls(one, tools), self.calls(other, tools)
        if not mine and not theirs:
            return one == other
        return all(pair.exact for pair in match_calls(mine, theirs, schemas_of(tools)))

    def right(self, case: Case, answer: Answer) -> bool | None:
        """Whether an answer has the wanted calls; None where that is not known."""
        if case.example is None or case.example.task != "calls":
            return None
        tools = case.example.tools
        found = self.calls(answer, tools)
        pairs = match_calls(expected_calls(case.example), found, schemas_of(tools))
        return all(pair.exact for pair in pairs)


def cases_of(
    model: Model,
    options: ProofOptions,
    *,
    coarse: bool,
    context: int | None = None,
    dialogue: Dialogue | None = None,
) -> Cases:
    """The cases for an open model with its adapters loaded; with their answers they are no longer
    than `context`. coarse: what rounding costs is measured, on text only. dialogue: where it is not
    the model's own.

    Raises SourceError, FormatError, BaseModelError and ContextFullError for an evaluation file that
    cannot be read or rendered.
    """
    dialogue = dialogue or dialogue_of(model)
    context = min(context or model.capabilities.context, model.capabilities.context)
    if options.evaluation is None:
        handles = [model.find(info.name) for info in model.adapters]
        adapters = [handle.adapter for handle in handles if handle is not None]
        prompts = samples_for(model.tokenizer, context)
        prompts |= prompts_for(model.tokenizer, model.capabilities.vocabulary, adapters)
        if coarse:
            del prompts["random ids"]
        limit = min(ANSWER, context // 2)
        cut = {name: ids[: context - limit] for name, ids in prompts.items()}
        found = tuple(Case(name=name, ids=ids) for name, ids in cut.items())
        said = f"{len(found)} built-in prompts"
        return Cases(cases=found, said=said, limit=limit, dialogue=dialogue, model=model)
    path = options.evaluation
    given = read_examples(path).require()
    examples = spread(given)
    require_dialogue(dialogue, examples)
    renderer = Renderer(dialogue, model.tokenizer, context)
    work = plan(examples, Rules(declare=options.declare), renderer, model.tokenizer, context)
    found = tuple(
        Case(
            name=example.place,
            ids=work.prompts[place] if place in work.prompts else work.rows[place][-1].ids[:-1],
            example=example,
        )
        for place, example in enumerate(work.examples)
    )
    count = f"{len(found)} of {len(given)}" if len(given) > len(found) else f"{len(found)}"
    said = f"{count} examples of {path.name} (SHA-256 {digest_of(path)[:16]})"
    limit = min(work.max_tokens, context - max(len(case.ids) for case in found))
    return Cases(cases=found, said=said, limit=limit, dialogue=dialogue, model=model)


def spread(examples: Sequence[Example]) -> tuple[Example, ...]:
    """At most MOST_CASES of them, at equal distances."""
    count = min(MOST_CASES, len(examples))
    return tuple(examples[len(examples) * place // count] for place in range(count))


def token_faults(folder: Path, cases: Cases, *, declare: bool) -> tuple[str, ...]:
    """Where an export's own tokenizer and template give other tokens than the base's."""
    own, theirs = Tokenizer.open(folder), cases.model.tokenizer
    dialogue = Dialogue(folder, own)
    faults = [
        f"its tokenizer gives other tokens for the text {name!r}"
        for name, text in SAMPLES.items()
        if own.encode(text, special=True) != theirs.encode(text, special=True)
    ]
    renderer = Renderer(dialogue, own, cases.model.capabilities.context)
    for case in cases.cases:
        if case.example is not None and case.example.messages:
            ids = renderer.prompt(case.example, declare)
            if ids != list(case.ids[: len(ids)]):
                faults.append(f"its template gives other tokens for {case.name}")
    try:
        expected = cases.dialogue.prompt(GREETING)
    except (BaseModelError, FormatError, ParameterError):  # none, or one that wants other turns
        return tuple(faults)
    if dialogue.prompt(GREETING) != expected:
        faults.append("its template gives other tokens for a conversation")
    return tuple(faults)
