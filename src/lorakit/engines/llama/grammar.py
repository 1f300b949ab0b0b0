"""A grammar in GBNF, enforced by llama.cpp's own grammar sampler."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorakit.engines.llama.gbnf import check_grammar
from lorakit.engines.llama.native import captured_log, llama
from lorakit.engines.protocol import Logits
from lorakit.errors import ParameterError

_TOKEN = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class Grammar:
    """The grammar state of one answer; see runtime.constraint.Constraint. Not thread-safe."""

    def __init__(self, tokenizer: object, vocabulary: Any, text: str) -> None:
        """Raises ParameterError, with llama.cpp's log, for a grammar that it cannot read."""
        check_grammar(text)
        api = llama()
        self._tokenizer = tokenizer  # the native sampler points into its vocabulary
        with captured_log() as native_log:
            self._native = api.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not self._native:
            raise ParameterError(
                "the grammar cannot be read",
                items=native_log.reasons,
                hint='GBNF with a rule named root, such as: root ::= "yes" | "no"',
            )
        weakref.finalize(self, api.llama_sampler_free, self._native)

    @property
    def ended(self) -> bool:
        return False  # the end tokens are then the only ones allowed

    def forced(self) -> tuple[int, ...]:
        return ()

    def allowed(self, most: int) -> None:
        return None

    def fitting(self, tokens: Sequence[int]) -> int:
        return 0

    def prepare(self, draft: Sequence[int] = ()) -> None:
        """Nothing is computed ahead."""

    def allows(self, token: int) -> bool:
        one = np.zeros(1, _TOKEN)
        one["id"] = token
        self._apply(one)
        return bool(np.isfinite(one["logit"][0]))

    def mask(self, logits: Logits) -> Logits:
        every = np.empty(len(logits), _TOKEN)
        every["id"], every["logit"], every["p"] = np.arange(len(logits)), logits, 0.0
        self._apply(every)
        return np.ascontiguousarray(every["logit"])

    def accept(self, token: int) -> None:
        llama().llama_sampler_accept(self._native, token)

    def _apply(self, tokens: np.ndarray[Any, Any]) -> None:
        import ctypes

        api = llama()
        array = api.llama_token_data_array(
            data=ctypes.cast(tokens.ctypes.data, api.llama_token_data_p),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        api.llama_sampler_apply(self._native, ctypes.byref(array))
