"""`evaluate`: run a model over examples with one set of adapters, or several in one mixed batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from lorakit.chat.calls import ParsedReply
from lorakit.model.adapters import Scales
from lorakit.model.model import Model
from lorakit.model.types import ChatPrompt, Request
from lorakit.runtime.params import SamplingParams
from lorakit.training.data import Example
from lorakit.training.evaluate.answering import answers
from lorakit.training.evaluate.constrained import Constrained, prompts_of, require_constrained
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.judging import Judge
from lorakit.training.evaluate.outcome import Outcome
from lorakit.training.evaluate.perplexity import loss_of
from lorakit.training.evaluate.scorers import Scorer
from lorakit.training.evaluate.work import (
    BATCH,
    Rules,
    Work,
    dialogue_of,
    plan,
    require_adapters,
    require_dialogue,
)
from lorakit.training.render import Renderer

OnDone = Callable[[int, int], None]  # examples that are done, and all
Settings = Mapping[str, Scales | None]
Prompts = Mapping[str, Mapping[int, Sequence[int]]]  # of each setting, by the examples' places


def evaluate(
    model: Model,
    examples: Sequence[Example],
    *,
    adapters: Scales | None = None,
    declare: bool = False,
    constrained: Constrained = False,
    batch: int = BATCH,
    max_tokens: int | None = None,
    scorer: Scorer | None = None,
    ordered: bool = False,
    progress: OnDone | None = None,
) -> Evaluation:
    """What the model makes of the last turn of each example.

    adapters: as everywhere; None is the active set. declare: with the declarations of the tools in
    the prompt. constrained: True keeps what begins as a call to the tools, as `chat` does, declared
    or not; "required" has every answer call; examples without tools are answered freely. Prompts
    are the same in any case. batch: requests at a time, of which `max_batch` run together.
    max_tokens: None allows twice the longest wanted answer. scorer: judges answers in place of the
    comparison that fits the task. ordered: calls of one turn have to come in the given order.
    Raises ParameterError, UnknownAdapterError, BaseModelError (template_missing), FormatError and
    ContextFullError before anything runs, and then what generation raises.
    """
    judge = Judge(scorer=scorer, ordered=ordered)
    rules = Rules(declare=declare, batch=batch, max_tokens=max_tokens, judge=judge)
    settings, modes = {"": adapters}, {"": constrained}
    return evaluate_all(model, examples, settings, rules, constrained=modes, progress=progress)[""]


def evaluate_all(
    model: Model,
    examples: Sequence[Example],
    settings: Settings,
    rules: Rules,
    *,
    constrained: Mapping[str, Constrained] | None = None,
    progress: OnDone | None = None,
) -> dict[str, Evaluation]:
    """The same examples under several sets of adapters, by name, in one mixed batch.

    constrained: as in `evaluate`, by the same names; those that are not in it are free.
    """
    modes = {name: (constrained or {}).get(name, False) for name in settings}
    for mode in modes.values():
        require_constrained(mode)
    require_adapters(model, settings.values())
    dialogue, context = dialogue_of(model), model.capabilities.context
    require_dialogue(dialogue, examples)
    renderer = Renderer(dialogue, model.tokenizer, context)
    longest = model.capabilities.longest
    work = plan(examples, rules, renderer, model.tokenizer, context, longest=longest)
    prompts = {name: prompts_of(work, modes[name], dialogue) for name in settings}
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in settings}
    begin = time.perf_counter()
    with closing(_outcomes(model, work, prompts, settings, rules)) as found:  # Ctrl-C cancels
        for done, (name, place, outcome) in enumerate(found, 1):
            outcomes[name][place] = outcome
            if progress is not None:
                progress(done, len(work.examples) * len(settings))
    seconds = time.perf_counter() - begin
    return {
        name: Evaluation(
            outcomes=tuple(of_place[place] for place in range(len(work.examples))),
            seconds=seconds,
            scored=rules.scored,
        )
        for name, of_place in outcomes.items()
    }


def _outcomes(
    model: Model, work: Work, prompts: Prompts, settings: Settings, rules: Rules
) -> Generator[tuple[str, int, Outcome]]:
    """(setting, place, outcome): those that run alone, then all others together, then likelihoods.

    Together means in turns by setting: rows that share adapters share their weights' traffic, and
    where one setting ends and the next begins, a batch is mixed rather than half empty.
    """
    places = list(work.prompts)
    single, rest = places[: rules.alone], places[rules.alone :]
    for in_flight, chosen in ((1, single), (2 * rules.batch, rest)):
        jobs = [(name, place) for name in settings for place in chosen]
        sampling = SamplingParams(max_tokens=work.max_tokens)
        requests = [
            Request(prompt=prompts[name][place], adapters=settings[name], sampling=sampling)
            for name, place in jobs
        ]
        with closing(answers(model, requests, in_flight)) as found:
            for (name, place), completion in zip(jobs, found, strict=True):
                example, prompt = work.examples[place], prompts[name][place]
                reply = (
                    model.parse_reply(completion, prompt).parsed
                    if isinstance(prompt, ChatPrompt)
                    else ParsedReply(text=completion.text)
                )
                kept = isinstance(prompt, ChatPrompt) and prompt.use is not None
                outcome = rules.judge.outcome(example, completion, reply)
                yield name, place, replace(outcome, alone=in_flight == 1, constrained=kept)
    for name, adapters in settings.items():
        for place, rows in work.rows.items():
            loss, learnt = loss_of(partial(model.logits, adapters=adapters), rows)
            yield name, place, Outcome(example=work.examples[place], loss=loss, learnt=learnt)
