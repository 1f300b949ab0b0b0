"""An export that runs: an ONNX file in plain onnxruntime, fed as a page feeds it, or a model in the
engine that stands for its runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Array
from lorakit.engines.onnx.ort import native_errors, open_session
from lorakit.errors import EngineError
from lorakit.graph.composed import SELECTOR
from lorakit.model.model import Model
from lorakit.runtime.params import SamplingParams

KINDS: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}
PAST, PRESENT = "past_key_values.", "present."
Feeds = Mapping[str, Array]  # what chooses the adapters, beside the tokens
Logits = npt.NDArray[np.float32]


class Exported(Protocol):
    """What a proof asks of an export that is open."""

    def logits(self, ids: Sequence[int], feeds: Feeds, keep: int) -> Logits:
        """Of the last `keep` positions, float32 [keep, vocabulary]."""

    def answer(
        self, ids: Sequence[int], feeds: Feeds, stops: Collection[int], limit: int
    ) -> tuple[int, ...]:
        """Greedy tokens until one of `stops`, which is the last of them, or `limit`."""


class OpenedModel:
    """A model of ours with its adapters, if it has any, at work. `feeds` are an ONNX file's."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._scales = {info.name: 1.0 for info in model.adapters}

    def logits(self, ids: Sequence[int], feeds: Feeds, keep: int) -> Logits:
        """As `Exported` says."""
        found: Logits = self._model.logits(ids, adapters=self._scales)[-keep:]
        return found

    def answer(
        self, ids: Sequence[int], feeds: Feeds, stops: Collection[int], limit: int
    ) -> tuple[int, ...]:
        """As `Exported` says; the model's own stop tokens end it."""
        sampling = SamplingParams(max_tokens=limit, temperature=0)
        completion = self._model.complete(ids, sampling=sampling, adapters=self._scales)
        return tuple(choice.token for choice in completion.tokens)


class ExportedModel:
    """One file, open. Raises EngineError where onnxruntime cannot open or run it."""

    def __init__(self, path: Path) -> None:
        self._session: Any = open_session(str(path), threads=None)
        self.inputs: dict[str, tuple[np.dtype[Any], list[Any]]] = {
            each.name: (KINDS[each.type], each.shape) for each in self._session.get_inputs()
        }
        self._outputs = [each.name for each in self._session.get_outputs()]
        missing = {"input_ids", "attention_mask", "num_logits_to_keep"} - self.inputs.keys()
        if missing or "logits" not in self._outputs:
            raise EngineError(f"{path.name} has no {', '.join(sorted(missing)) or 'logits'}")

    @property
    def chooses(self) -> bool:
        """Whether it has several adapters in it, to choose among by number."""
        return SELECTOR in self.inputs

    @property
    def takes_adapters(self) -> bool:
        """Whether it has LoRA inputs."""
        return any(name.endswith(".lora_A") for name in self.inputs)

    def logits(self, ids: Sequence[int], feeds: Feeds, keep: int) -> Logits:
        """Of the last `keep` positions, float32 [keep, vocabulary]."""
        return self._run(ids, len(ids), self._nothing(), feeds, keep)[0]

    def answer(
        self, ids: Sequence[int], feeds: Feeds, stops: Collection[int], limit: int
    ) -> tuple[int, ...]:
        """Greedy tokens until one of `stops`, which is the last of them, or `limit`.

        Of equal logits the lowest id wins, as everywhere.
        """
        logits, past = self._run(ids, len(ids), self._nothing(), feeds, 1)
        found: list[int] = []
        while True:
            found.append(int(np.argmax(logits[-1])))
            if found[-1] in stops or len(found) == limit:
                return tuple(found)
            logits, past = self._run(found[-1:], len(ids) + len(found), past, feeds, 1)

    def close(self) -> None:
        """Free its memory."""
        self._session = None

    def _nothing(self) -> dict[str, Array]:
        """A KV cache without tokens."""
        return {
            name: np.zeros((1, shape[1], 0, shape[3]), kind)
            for name, (kind, shape) in self.inputs.items()
            if name.startswith(PAST)
        }

    def _run(
        self, ids: Sequence[int], total: int, past: Mapping[str, Array], feeds: Feeds, keep: int
    ) -> tuple[Logits, dict[str, Array]]:
        fed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "num_logits_to_keep": np.array(keep, np.int64),
        }
        with native_errors("running the exported model"):
            found = self._session.run(None, {**fed, **past, **feeds})
        named = dict(zip(self._outputs, found, strict=True))
        kept = {
            PAST + name.removeprefix(PRESENT): array
            for name, array in named.items()
            if name.startswith(PRESENT)
        }
        return named["logits"][0], kept
