"""Grammars of whole replies: what a model may say where it is offered tools, or has to give JSON.

A format says how it writes calls (CallGrammar); here is what may stand around them: words before
the first call, reasoning before the words, nothing after the last call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lorakit.chat.constraints.expressions import exactly
from lorakit.chat.constraints.lark import expression, literal
from lorakit.chat.constraints.nodes import CallGrammar, Function
from lorakit.errors import ParameterError

Mark = Callable[[str], str]
Mode = Literal["auto", "required", "none"]
_GAP = "(?:[ \\n\\r\\t]{0,8})"


class Calls(Protocol):
    """What is needed of a tool format; see chat.calls.ToolFormat."""

    @property
    def name(self) -> str: ...

    @property
    def openings(self) -> tuple[str, ...]: ...

    def grammar(self, functions: Sequence[Function], mark: Mark) -> CallGrammar: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a reply may call. named: whether the caller chose it, and not the default."""

    functions: tuple[Function, ...]
    mode: Mode
    parallel: bool = True
    named: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model reasons before it answers: its tags. begun: whether the prompt opened it."""

    opening: str
    closing: str
    begun: bool = False


def reply_grammar(
    format: Calls, use: ToolUse, *, mark: Mark, thinking: Thinking | None = None
) -> str:
    """The grammar of a reply, in llguidance's Lark dialect.

    In the mode "required" it is one call or more (not parallel: one), in "auto" words, and then
    perhaps calls; in "none" no call begins. mark: what fits a control token, or a text where it is
    none. Raises ParameterError for functions that the format cannot write.
    """
    written = format.grammar(use.functions, mark)
    if use.mode == "required":
        lines = [f"body: {_calls(written.first, written, use.parallel)}"]
        return _joined(_around("body", thinking, mark), [*lines, written.rules])
    return _talking(format, written, use, mark, thinking)


def answer_grammar(body: str, *, mark: Mark, thinking: Thinking | None = None) -> str:
    """The grammar of a reply that is one expression, after reasoning that the prompt opened."""
    begun = thinking if thinking is not None and thinking.begun else None
    return _joined(_around("body", begun, mark), [f"body: {body}"])


def _talking(
    format: Calls,
    written: CallGrammar,
    use: ToolUse,
    mark: Mark,
    thinking: Thinking | None,
) -> str:
    """The grammar of a reply that need not call."""
    opening = written.opening
    others = [text for text in format.openings if text not in opening and opening not in text]
    exclusions = [_held(text) for text in others]
    if thinking is not None and not thinking.begun and not _is_token(mark(thinking.opening)):
        exclusions.append(f"{_GAP}{exactly(thinking.opening)}(?s:.*)")
    free = [*exclusions, _led(opening) if written.alone else _held(opening)]
    around = _around("body", thinking, mark, open_ended=True)
    if use.mode == "none":
        return _joined(around, ["body: TEXT?", _terminal("TEXT", "(?s:.+)", free)])
    text = _terminal("TEXT", "(?s:.+)", free)
    if written.alone:
        lines = [f"body: TEXT? | {_calls(written.first, written, use.parallel)}", text]
    elif _is_token(mark(opening)):
        lines = [f"body: TEXT? | TEXT? {_calls(written.first, written, use.parallel)}", text]
    else:
        rest = _after(written.first, mark(opening), format.name)
        opened = _terminal("OPENED", f"(?s:.*){exactly(opening)}", exclusions)
        words = _terminal("WORDS", "(?s:.*)", exclusions)
        calls = _calls(rest, written, use.parallel)
        lines = [f"body: words | opened {calls}", "opened[lazy]: OPENED", "words: WORDS"]
        lines += [opened, words]
    return _joined(around, [*lines, written.rules])


def _calls(first: str, written: CallGrammar, parallel: bool) -> str:
    """One call or more, from `first` on."""
    more = f"({written.more})*" if parallel and written.more else ""
    return " ".join(part for part in (f"({first})", more, written.last) if part)


def _after(first: str, opening: str, name: str) -> str:
    rest = first.removeprefix(opening)
    if rest == first:
        raise ParameterError(f"{name}: its calls do not begin with {opening}")
    return rest.strip() or '""'


def _around(body: str, thinking: Thinking | None, mark: Mark, *, open_ended: bool = False) -> str:
    """The start of a grammar: reasoning, and then the body. open_ended: it may also be all."""
    if thinking is None:
        return f"start: {body}"
    closing = mark(thinking.closing)
    opening = "" if thinking.begun else mark(thinking.opening)
    if _is_token(closing) and (thinking.begun or _is_token(opening)):
        thought = f"{opening} THOUGHT? {closing}".strip()
        unclosed = f"{opening} THOUGHT?".strip()
        rules = [f"thought: {thought}", f"unclosed: {unclosed}", "THOUGHT: /(?s:.+)/"]
    else:
        before = "" if thinking.begun else f"{_GAP}{exactly(thinking.opening)}"
        rules = [
            f"thought[lazy]: {expression(f'{before}(?s:.*){exactly(thinking.closing)}')}",
            f"unclosed: {expression(f'{before}(?s:.*)')}",
        ]
    whole = f"thought GAP? {body}"
    options = [whole] if thinking.begun else [body, whole]
    if open_ended:
        options.append("unclosed")
    else:
        rules = [rule for rule in rules if not rule.startswith("unclosed")]
    return "\n".join([f"start: {' | '.join(options)}", *rules, "GAP: /[ \\n\\r\\t]{1,8}/"])


def _terminal(name: str, pattern: str, exclusions: Sequence[str]) -> str:
    """A terminal of the texts that fit an expression, without those that fit others."""
    without = [f"~{expression(each)}" for each in exclusions]
    return f"{name}: {' & '.join([expression(pattern), *without])}"


def _held(text: str) -> str:
    """The texts that hold another."""
    return f"(?s:.*){exactly(text)}(?s:.*)"


def _led(opening: str) -> str:
    """The texts that begin as a call does, whatever the white space, in a fence or a list too."""
    signs = re.split(r"([\[\]{}:,])", opening.strip())
    spaced = "\\s*".join(exactly(sign.strip()) for sign in signs if sign.strip())
    return f"\\s*(?:```[a-z]*\\s*)?\\[?\\s*{spaced}(?s:.*)"


def _is_token(marked: str) -> bool:
    return marked.startswith("<[")


def _joined(start: str, lines: Sequence[str]) -> str:
    return "\n".join(line for line in (start, *lines) if line)


def mark_or_text(mark: Mark) -> Mark:
    """What fits the control token of a text, or the text itself where there is none."""
    return lambda text: mark(text) or literal(text)
