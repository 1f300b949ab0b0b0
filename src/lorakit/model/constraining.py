"""What keeps an answer to a grammar: made of a request's parameters and of its tools.

One Constraining belongs to one model. It makes the vocabulary when it is first needed and keeps
the grammars that were compiled last; each answer follows a copy of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.constraints.expressions import whole
from lorakit.chat.constraints.gbnf import is_gbnf, lark_of
from lorakit.chat.constraints.lark import expression, json_rule, literal
from lorakit.chat.constraints.matching import Compiled, Matcher
from lorakit.chat.constraints.nodes import AnyValue, Object, Schema
from lorakit.chat.constraints.own_lark import checked_lark
from lorakit.chat.constraints.replies import (
    ToolUse,
    answer_grammar,
    mark_or_text,
    reply_grammar,
)
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.chat.constraints.walking import walk
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.rendering import RenderOptions
from lorakit.errors import CapabilityError, ParameterError
from lorakit.model.types import ChatPrompt, Tools
from lorakit.processes import on_fork
from lorakit.runtime.params import SamplingParams
from lorakit.text.tokenizer import TextTokenizer
from lorakit.values import did_you_mean, shown

KEPT = 64  # compiled grammars
ANY_OBJECT = Schema(root=Object(rest=AnyValue()))
FREE = 'tool_choice="free" leaves calls as the model writes them'


class Constraining:
    """The constraints of one model's answers. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer, dialogue: Dialogue) -> None:
        self._tokenizer, self._dialogue = tokenizer, dialogue
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._vocabulary: Vocabulary | None = None
        self._renew_lock()
        on_fork(self, Constraining._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def constraint(
        self, params: SamplingParams, prompt: Sequence[int], ends: Collection[int]
    ) -> Matcher | None:
        """A constraint of one answer; None where it is free. ends: the tokens that end it.

        Raises ParameterError for what cannot be enforced.
        """
        use = prompt.use if isinstance(prompt, ChatPrompt) else None
        if params.restricting:
            if use is not None and use.named:
                raise ParameterError(
                    f"tool_choice and {params.restricting[0]} both say what the answer is",
                    hint="leave one of them out",
                )
            reasons = isinstance(prompt, ChatPrompt) and bool(prompt.reasons)
            return self._compile(self._answer(params, reasons)).matcher(ends)
        if use is None:
            return None
        assert isinstance(prompt, ChatPrompt)
        return self._compile(self._reply(use, prompt)).matcher(ends)

    def unprepared(self, params: SamplingParams, prompt: str | Sequence[int]) -> bool:
        """Whether an answer has a constraint, and it would be the first one."""
        use = prompt.use if isinstance(prompt, ChatPrompt) else None
        return self._vocabulary is None and (bool(params.restricting) or use is not None)

    def prepare(self) -> None:
        """Make what the first constraint takes: the vocabulary, some seconds where it is large."""
        _ = self._known

    def use(self, tools: Tools | None, options: RenderOptions) -> ToolUse | None:
        """What the reply to a conversation may call; None where nothing restricts that.

        Raises ParameterError for a choice that the tools do not have, and for tools whose schemas
        cannot be enforced; CapabilityError for a choice where the model has no known format.
        """
        return tool_use(tools, options, known=self._dialogue.tool_format is not None)

    def _answer(self, params: SamplingParams, reasons: bool) -> str:
        """The grammar that a request's own parameters say."""
        if params.grammar is not None:
            return (lark_of if is_gbnf(params.grammar) else checked_lark)(params.grammar)
        if params.regex is not None:
            body = expression(whole(params.regex))
        elif params.choices is not None:
            return self._around("CHOICE", reasons) + (  # one terminal: words of a rule are many
                f"\nCHOICE: {' | '.join(map(literal, params.choices))}"
            )
        else:
            body = json_rule(_schema(params.response_format or {}))
        return self._around(body, reasons)

    def _around(self, body: str, reasons: bool) -> str:
        """The grammar of a reply that is one expression, after reasoning where the prompt did."""
        mark = mark_or_text(self._known.mark)
        return answer_grammar(body, mark=mark, thinking=self._dialogue.thinking(begun=reasons))

    def _reply(self, use: ToolUse, prompt: ChatPrompt) -> str:
        """The grammar of a reply that may call."""
        format = self._dialogue.format_for(prompt.tools)
        assert format is not None
        try:
            return reply_grammar(
                format,
                use,
                mark=mark_or_text(self._known.mark),
                thinking=self._dialogue.thinking(begun=bool(prompt.reasons)),
            )
        except ParameterError as error:
            error.hint = f"{error.hint}; {FREE}" if error.hint else FREE
            raise

    def _compile(self, grammar: str) -> Compiled:
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        made = Compiled(self._known, grammar)
        with self._lock:
            self._compiled[grammar] = made
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return made

    @property
    def _known(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._dialogue.stop_tokens)
            return self._vocabulary


def tool_use(tools: Tools | None, options: RenderOptions, *, known: bool) -> ToolUse | None:
    """What a reply may call. known: whether the model's format of calls is. Raises as
    `Constraining.use`."""
    choice = options.tool_choice
    assert not isinstance(choice, Mapping)
    if choice == "free":
        return None
    if not tools:
        if choice in (None, "auto", "none"):
            return None
        raise ParameterError(f"tool_choice is {shown(choice)}, and there are no tools")
    if not known:
        if choice is None:
            return None
        raise CapabilityError(
            f"tool_choice={shown(choice)}: the model has no known format of calls", hint=FREE
        )
    return _chosen(tools, choice, options.parallel_tool_calls)


def _chosen(tools: Tools, choice: str | None, parallel: bool) -> ToolUse:
    try:
        functions = functions_of(tools)
    except ParameterError as error:
        error.hint = f"{error.hint}; {FREE}" if error.hint else FREE
        raise
    if choice in (None, "auto"):
        return ToolUse(
            functions=functions, mode="auto", parallel=parallel, named=choice is not None
        )
    if choice == "none":
        return ToolUse(functions=functions, mode="none", named=True)
    if choice == "required":
        return ToolUse(functions=functions, mode="required", parallel=parallel, named=True)
    named = tuple(function for function in functions if function.name == choice)
    if not named:
        names = [function.name for function in functions]
        close = did_you_mean(str(choice), names)
        meant = close or '; did you mean "required"?' * (choice in ("any", "force"))
        raise ParameterError(
            f"tool_choice={shown(choice)}: there is no such tool{meant}",
            hint=f'"auto", "none", "required", "free", or one of {", ".join(names)}',
        )
    return ToolUse(functions=named, mode="required", parallel=False, named=True)


def _schema(said: Mapping[str, Any]) -> Schema:
    """The schema that OpenAI's response_format says."""
    if said.get("type") == "json_object":
        return ANY_OBJECT
    return walk(said["json_schema"]["schema"], "response_format")
