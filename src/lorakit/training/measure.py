"""The base on an inference engine, beside training: it answers requests, and adapters are measured
on it as users will run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.engines.table import EngineName
from lorakit.engines.torch.options import Device
from lorakit.model.model import Model
from lorakit.model.open import open as open_model
from lorakit.model.types import Request
from lorakit.runtime.sampling import SamplingParams
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation, evaluate
from lorakit.training.evaluate.answering import answers
from lorakit.training.events import OnTrainEvent, Working
from lorakit.training.replay import ANSWER_TOKENS, Answered, Asked

BATCH = 32
KEPT_OPEN = 1 << 30  # bytes of a base that stays open beside training; larger ones are reopened
TRAINED = "trained"  # what the adapter in question is called on the engine


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
        with self._opened() as model:
            prompts = [model.chat_prompt(a.messages, tools=a.tools or None) for a in asked]
            requests = [
                Request(
                    prompt=prompt,
                    adapters=self._scales(companion),
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
                        reply=model.parse_reply(completion).parsed,
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
        with self._opened() as model, _loaded(model, adapter):
            scales = self._scales(companion)
            if adapter is not None:
                scales[TRAINED] = scale
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

    def _scales(self, companion: str) -> dict[str, float]:
        return {companion: 1.0} if companion else {}

    @contextmanager
    def _opened(self) -> Iterator[Model]:
        if self._model is None:
            self._model = open_model(self._base.path, **self._options)
            for name, adapter in self._companions.items():
                self._model.load_adapter(adapter, name)
        try:
            yield self._model
        finally:
            if self._base.nbytes > KEPT_OPEN:
                self.close()


@contextmanager
def _loaded(model: Model, adapter: Adapter | None) -> Iterator[None]:
    if adapter is None:
        yield
        return
    loaded = model.load_adapter(adapter, TRAINED)
    try:
        yield
    finally:
        loaded.unload()
