"""The base on an inference engine, beside training: it answers requests, and adapters are measured
on it as users will run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.engines.table import EngineName
from lorakit.engines.torch.options import Device
from lorakit.errors import EngineError
from lorakit.model.model import Model
from lorakit.model.open import open as open_model
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation, evaluate
from lorakit.training.evaluate.answering import answers
from lorakit.training.events import OnTrainEvent, Working
from lorakit.training.replay import ANSWER_TOKENS, Answered, Asked

BATCH = 32
KEPT_OPEN = 1 << 30  # bytes of a base that stays open beside training; larger ones are reopened
TRAINED = "trained"  # what the adapter in question is called on the engine
NOT_FINITE = "logits are not finite"  # what engines say of an adapter that is none any more
Applied = dict[str, tuple[Adapter, float]]  # by name: an adapter and its scale


class Measurer:
    """Opens the base when it is first asked. Close it, or use it as a context manager.

    companions: adapters by name, beside which answers may be asked for.
    """

    def __init__(
        self,
        base: Base,
        companions: Mapping[str, Adapter],
        *,
        engine: EngineName = "onnx",
        device: Device | None = None,
        declare: bool = False,
        tell: OnTrainEvent = lambda event: None,
    ) -> None:
        self._base = base
        self._companions = companions
        self._options: dict[str, Any] = {"engine": engine, "max_batch": BATCH}
        if engine == "torch":
            self._options["device"] = device
        self._declare = declare
        self._tell = tell
        self._model: Model | None = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def answers(self, asked: Sequence[Asked], companion: str = "") -> list[Answered]:
        """The base's own greedy answers, beside a companion or alone."""
        with self._applied(self._beside(companion)) as (model, scales):
            prompts = [
                model.chat_prompt(a.messages, tools=a.tools or None, tool_choice="free")
                for a in asked
            ]
            requests = [
                Request(
                    prompt=prompt,
                    adapters=scales,
                    sampling=SamplingParams(max_tokens=ANSWER_TOKENS),
                )
                for prompt in prompts
            ]
            found = []
            completions = answers(model, requests, BATCH)
            for one, prompt, completion in zip(asked, prompts, completions, strict=True):
                found.append(
                    Answered(
                        asked=one,
                        prompt=tuple(prompt),
                        tokens=tuple(choice.token for choice in completion.tokens),
                        reply=model.parse_reply(completion, prompt).parsed,
                        complete=completion.finish_reason == "stop",
                    )
                )
                self._working("asking the base", len(found), len(asked))
            return found

    def evaluate(
        self,
        examples: Sequence[Example],
        adapter: Adapter | None,
        *,
        companion: str = "",
        scale: float = 1.0,
        declare: bool | None = None,
    ) -> Evaluation:
        """What the base makes of examples with an adapter, or without one."""
        declare = self._declare if declare is None else declare
        adapters = self._beside(companion)
        if adapter is not None:
            if found := adapter.non_finite():
                raise EngineError(f"{NOT_FINITE}, nor are the adapter's values", items=found)
            adapters[TRAINED] = adapter, scale
        with self._applied(adapters) as (model, scales):
            return evaluate(
                model,
                examples,
                adapters=scales,
                declare=declare,
                batch=BATCH,
                progress=partial(self._working, "measuring"),
            )

    def _working(self, what: str, done: int, total: int) -> None:
        self._tell(Working(what=what, done=done, total=total))

    def _beside(self, companion: str) -> Applied:
        return {companion: (self._companions[companion], 1.0)} if companion else {}

    @contextmanager
    def _applied(self, adapters: Applied) -> Iterator[tuple[Model, dict[str, float]]]:
        """A model, and the scales at which a request has these adapters."""
        with self._opened() as model, ExitStack() as loaded:
            for name, (adapter, _) in adapters.items():
                loaded.callback(model.load_adapter(adapter, name).unload)
            yield model, {name: scale for name, (_, scale) in adapters.items()}

    @contextmanager
    def _opened(self) -> Iterator[Model]:
        if self._model is None:
            self._model = open_model(self._base.path, **self._options)
        try:
            yield self._model
        finally:
            if self._base.nbytes > KEPT_OPEN:
                self.close()
