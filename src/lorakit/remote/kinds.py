"""What kinds of servers there are: how each says sampling, adapters and token ids.

A kind is a row: adding one is a row of KINDS. What a kind has no words for is refused before
anything is sent. Every parameter that a kind knows is sent, so that no default of the server acts.
Sources: llama.cpp tools/server/README.md (build 11549); vLLM's OpenAI-compatible server, "Extra
parameters" and "Dynamically serving LoRA adapters" (0.11); OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.errors import CapabilityError, ParameterError
from lorakit.remote.asking import Conversation
from lorakit.runtime.params import SamplingParams

DEFAULTS = SamplingParams()
PENALIZED = 1 << 20  # tokens that llama-server's penalties look back: all of prompt and answer
Said = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnServer:
    """An adapter of a server. id: llama-server's number; ours: loaded there by this model."""

    name: str
    id: int | None = None
    path: str = ""
    ours: bool = False


Chosen = Sequence[tuple[OnServer, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of server.

    known: the sampling parameters that it has. say: those beside OpenAI's own, as fields. scales:
    whether adapters have scales and mix, chosen by `lora`, and not by the name of the model alone.
    template: whether it takes variables of the template; reasoning: and an earlier turn's thoughts.
    loads: whether it loads adapters when asked. ids: whether its log probabilities name token ids.
    names_tools: whether tool_choice may name a function.
    """

    name: str
    known: frozenset[str]
    say: Callable[[SamplingParams], Said] = lambda params: {}
    scales: bool = False
    template: bool = False
    reasoning: bool = False
    loads: bool = False
    ids: bool = False
    names_tools: bool = True
    most_bias: float | None = 100.0  # OpenAI's limit of logit_bias; vLLM would clip silently
    most: int = field(default=20)  # alternatives that logprobs may ask for

    def sampling(self, params: SamplingParams, chat: bool) -> Said:
        """SamplingParams as fields. Raises CapabilityError with all that this kind lacks."""
        lacking = [
            f"{item.name}={getattr(params, item.name)!r:.60}"
            for item in fields(params)
            if item.name not in self.known
            and getattr(params, item.name) != getattr(DEFAULTS, item.name)
        ]
        if lacking:
            raise CapabilityError(
                f"{self.name} has no such sampling parameters", items=lacking, hint="leave them out"
            )
        said: Said = {name: getattr(params, name) for name in _ALWAYS}
        if params.seed is not None:
            said["seed"] = params.seed
        if params.stop:
            said["stop"] = list(params.stop)
        if params.logit_bias:
            said["logit_bias"] = self._biases(params.logit_bias)
        if params.logprobs is not None:
            said |= self._logprobs(params.logprobs, chat)
        if params.response_format is not None and params.restricting:
            said |= self._format(params.response_format, chat)
        return {name: _plain(value) for name, value in (said | self.say(params)).items()}

    def _format(self, asked: Mapping[str, Any], chat: bool) -> Said:
        """The fields of response_format. Raises CapabilityError."""
        schema = asked["json_schema"]["schema"] if asked["type"] == "json_schema" else None
        if chat and schema is not None:
            named = {"name": "answer", "strict": True, **asked["json_schema"]}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        if chat:
            return {"response_format": dict(asked)}
        if self.scales:
            return {"json_schema": {"type": "object"} if schema is None else schema}
        raise CapabilityError(
            f"{self.name} takes response_format in conversations alone",
            hint="ask it in a conversation",
        )

    def _biases(self, biases: Mapping[int, float]) -> Said:
        if self.most_bias is not None and max(map(abs, biases.values())) > self.most_bias:
            raise CapabilityError(
                f"{self.name} takes biases from -{self.most_bias:g} to {self.most_bias:g}",
                hint=f"{-self.most_bias:g} rules a token out",
            )
        return {str(token): bias for token, bias in biases.items()}

    def _logprobs(self, count: int, chat: bool) -> Said:
        if count > self.most:
            raise CapabilityError(
                f"{self.name} gives at most {self.most} alternatives, not {count}",
                hint=f"logprobs={self.most} is the most",
            )
        asked = max(count, 1) if self.scales else count  # llama-server takes 0 for none at all
        said: Said = {"logprobs": True, "top_logprobs": asked} if chat else {"logprobs": asked}
        return said | ({"return_tokens_as_token_ids": True} if self.loads else {})

    def target(self, model: str, chosen: Chosen, known: Sequence[OnServer]) -> Said:
        """The fields that choose adapters. known: all of the server's.

        Raises CapabilityError for scales and mixes that this kind does not have.
        """
        if self.scales:
            scales = dict.fromkeys([one.id for one in known], 0.0)
            for adapter, scale in chosen:
                scales[adapter.id] += scale  # under two names it acts twice
            every = [{"id": number, "scale": scale} for number, scale in scales.items()]
            return {"model": model, "lora": every}  # always all: what is left out may be reused
        if len(chosen) > 1:
            raise CapabilityError(
                f"{self.name} runs one adapter at a time",
                items=[f"{adapter.name} at {scale:g}" for adapter, scale in chosen],
                hint="combine them first (lorakit combine), or serve them with llama-server",
            )
        for adapter, scale in chosen:
            if scale != 1.0:
                raise CapabilityError(
                    f"{self.name} has no scales: {adapter.name} is on or off, not at {scale:g}",
                    hint="scale 1 and 0 are possible; lorakit combine writes another into a file",
                )
            return {"model": adapter.name}
        return {"model": model}

    def rendering(self, conversation: Conversation) -> Said:
        """The fields for what a caller chose of the template. Raises CapabilityError."""
        variables = conversation.options.variables
        if variables and not self.template:
            raise CapabilityError(
                f"{self.name} takes no variables of the chat template",
                items=sorted(variables),
                hint="leave chat_template_kwargs= and enable_thinking= out",
            )
        said: Said = {"chat_template_kwargs": dict(variables)} if variables else {}
        return said | self._tools(conversation)

    def _tools(self, conversation: Conversation) -> Said:
        """The fields that say what tools are for. Raises ParameterError, CapabilityError."""
        options, choice = conversation.options, conversation.options.tool_choice
        said: Said = {} if options.parallel_tool_calls else {"parallel_tool_calls": False}
        if choice in (None, "free"):
            return said if conversation.tools else {}
        names = [function_of(tool).get("name") for tool in conversation.tools]
        if choice in ("auto", "none", "required") and (names or choice != "required"):
            return said | {"tool_choice": choice} if names else {}
        if choice not in names:
            raise ParameterError(
                f"tool_choice={choice!r:.60}: there is no such tool",
                hint='"auto", "none", "required", "free", or the name of a tool',
            )
        if not self.names_tools:
            raise CapabilityError(
                f"{self.name} takes no name as tool_choice",
                hint="give it this tool alone, and require a call",
            )
        return said | {"tool_choice": {"type": "function", "function": {"name": choice}}}


def _plain(value: Any) -> Any:
    """Numbers of other libraries as Python's, for JSON."""
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, Integral) else float(value)


_ALWAYS = ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty")
_OPENAI = frozenset({*_ALWAYS, "seed", "stop", "logprobs", "logit_bias", "response_format"})
_ORDER = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]  # of runtime/sampling.py


def _llama(params: SamplingParams) -> Said:
    said: Said = {
        "top_k": params.top_k,
        "min_p": params.min_p,
        "typical_p": params.typical_p,
        "repeat_penalty": params.repetition_penalty,
        "ignore_eos": params.ignore_eos,
        "mirostat": 0,
        "samplers": _ORDER,
    }
    if (said["repeat_penalty"], params.presence_penalty, params.frequency_penalty) != (
        1.0,
        0.0,
        0.0,
    ):
        said["repeat_last_n"] = PENALIZED
    if params.mirostat_tau is not None:
        said |= {"mirostat": 2, "mirostat_tau": params.mirostat_tau}
        said |= {"mirostat_eta": params.mirostat_eta}
    return said if params.grammar is None else {**said, "grammar": params.grammar}


def _vllm(params: SamplingParams) -> Said:
    return {
        "top_k": params.top_k or -1,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "ignore_eos": params.ignore_eos,
        "min_tokens": params.min_tokens,
        "stop_token_ids": list(params.stop_tokens),
    }


LLAMA, VLLM, OPENAI = "llama-server", "vLLM", "an OpenAI-compatible server"
KINDS: Mapping[str, Kind] = {
    "llamacpp": Kind(
        name=LLAMA,
        known=_OPENAI | {"top_k", "min_p", "typical_p", "mirostat_tau", "mirostat_eta",
                         "repetition_penalty", "ignore_eos", "grammar"},
        say=_llama, scales=True, template=True, reasoning=True, ids=True,
        most=1000, most_bias=None, names_tools=False,
    ),
    "vllm": Kind(
        name=VLLM,
        known=_OPENAI | {"top_k", "min_p", "repetition_penalty", "ignore_eos", "stop_tokens",
                         "min_tokens"},
        say=_vllm, template=True, reasoning=True, loads=True, ids=True,
    ),
    "": Kind(name=OPENAI, known=_OPENAI),
}  # fmt: skip  # by `owned_by` of a model; "" is any other
