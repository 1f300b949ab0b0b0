"""Submitting: a prompt or a conversation becomes token ids, and a request in the runtime's queue.

It knows the tokenizer, the dialogue, the table of adapters and the runtime, but not how adapters
are loaded or a model is opened, nor what is made of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lorakit.chat.dialogue import Dialogue
from lorakit.chat.images import has_images
from lorakit.chat.messages import Message
from lorakit.chat.rendering import RenderOptions
from lorakit.engines.protocol import AdapterSet, Capabilities
from lorakit.errors import ParameterError, QueueFullError
from lorakit.model.adapters import AdapterTable, Scales
from lorakit.model.constraining import Constraining
from lorakit.model.defaults import PLAIN, defaults_for
from lorakit.model.keywords import require_sampling
from lorakit.model.prompts import as_ids, deadline_of, require_lookahead
from lorakit.model.types import ChatPrompt, Prompt, Tools
from lorakit.processes import on_fork
from lorakit.runtime.generation import Generation
from lorakit.runtime.params import SamplingOptions, SamplingParams, sampling_params
from lorakit.runtime.prompts import check_ids, check_prompt
from lorakit.runtime.protocol import Runtime, Submission
from lorakit.text.image_ids import Vectors
from lorakit.text.tokenizer import TextTokenizer


class Submitting:
    """The part of a Model that asks its runtime. Thread-safe.

    defaults: how answers are sampled where neither sampling= nor a keyword says: as the model's own
    files do (generation_config.json, or general.sampling.* of a GGUF file).
    """

    defaults: SamplingParams = PLAIN

    def __init__(self, tokenizer: TextTokenizer, dialogue: Dialogue, runtime: Runtime) -> None:
        """Waits until the runtime is open. Raises what opening it raised."""
        self.tokenizer = tokenizer
        self._dialogue = dialogue
        self._runtime = runtime
        self._constraining = Constraining(tokenizer, dialogue)
        self._table = AdapterTable(runtime)
        on_fork(self._table, AdapterTable.renew_lock)
        self.capabilities: Capabilities = runtime.capabilities

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids that `complete` runs for a text; ids are returned unchanged.

        Raises ParameterError for what is neither.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, special=True)
        if isinstance(prompt, ChatPrompt):
            return prompt
        return as_ids(prompt)

    def _rendered(
        self, messages: Sequence[Message], tools: Tools | None, options: RenderOptions
    ) -> ChatPrompt:
        declared = tools if options.declare else None
        images: dict[int, Vectors] = {}
        if has_images(messages):
            ids, images, reasons = self._dialogue.illustrated(
                messages, declared, self._runtime.encode_image, options
            )
        else:
            ids, reasons = self._dialogue.prompt_and_state(messages, declared, options)
        use = self._constraining.use(tools, options)
        return ChatPrompt(ids, images, reasons=reasons, tools=tools, use=use)

    def _params(self, sampling: SamplingParams | None, options: SamplingOptions) -> SamplingParams:
        require_sampling(options)
        own = defaults_for(self.defaults, options) if sampling is None else sampling
        return sampling_params(own, options)

    def _submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        adapters: Scales | None,
        timeout: float | None,
        *,
        lookahead: int | None = None,
        wait: bool = False,
    ) -> Generation:
        ids = self.encode(prompt)
        if not ids:
            raise ParameterError("the prompt holds no tokens")
        deadline = deadline_of(timeout)
        require_lookahead(lookahead)
        images = ids.images if isinstance(ids, ChatPrompt) else {}
        about = self.capabilities
        check_prompt(ids, about.context, about.vocabulary, images, longest=about.longest)
        check_ids((*params.stop_tokens, *params.logit_bias), about.vocabulary)
        stops = frozenset(params.stop_tokens)
        if not params.ignore_eos:
            stops |= self._dialogue.stop_tokens
        decoder = self.tokenizer.stream(continuing=True)
        constraint = self._constraining.constraint(params, ids, stops)

        def ask(chosen: AdapterSet | None) -> Generation:
            return self._runtime.submit(
                Submission(
                    prompt=tuple(ids),
                    params=params,
                    decoder=decoder,
                    stops=stops,
                    constraint=constraint,
                    adapters=chosen,
                    deadline=deadline,
                    lookahead=lookahead,
                    images=images,
                )
            )

        return self._queued(ask, adapters, deadline, wait=wait)

    async def _prepare(self, prompt: Prompt, params: SamplingParams) -> None:
        """Read the vocabulary for a model's first constraint in a thread: it takes a second or
        more where there are many tokens, in which the event loop goes on."""
        if self._constraining.unprepared(params, prompt):
            await asyncio.to_thread(self._constraining.prepare)

    def _queued(
        self,
        ask: Callable[[AdapterSet | None], Generation],
        adapters: Scales | None,
        deadline: float | None,
        *,
        wait: bool,
    ) -> Generation:
        """What `ask` gives for a request's adapters; wait: once the queue has room for it."""
        chosen = None if adapters is None else self._table.scales(adapters)
        while True:
            if wait:
                self._runtime.wait_for_room(deadline)
            try:
                with self._table.lock:  # so that no named adapter is unloaded before it is queued
                    return ask(None if chosen is None else self._table.resolve(chosen))
            except QueueFullError:  # others filled it
                if not wait:
                    raise
