"""Examples as tokens, with what is to be learnt marked: rendered as inference renders.

Each answer follows exactly the tokens that `Model.chat_prompt` gives for the turns before it, and
ends with the very token that inference stops at: after a call of FunctionGemma's that is
<start_function_response>, as the template says when a tool's result follows. A template that
renders earlier turns differently once later ones are there (Qwen's drop their reasoning) gives
one row for each such answer. Too long is an error; nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.base.folder import Base
from lorakit.chat.calls import ToolCall, call_of
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.images import has_images
from lorakit.chat.messages import prepare_messages
from lorakit.computed import computed_once
from lorakit.errors import BaseModelError, FormatError, ParameterError
from lorakit.text.tokenizer import TextTokenizer, Tokenizer
from lorakit.training.data import Example
from lorakit.training.data.phrasing import content_text
from lorakit.training.data.review import worded_calls

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A row of tokens. answers: of each, whether it is to be learnt from those before it."""

    ids: tuple[int, ...]
    answers: tuple[bool, ...]

    @property
    def learnt(self) -> int:
        """How many tokens are to be learnt."""
        return sum(self.answers)


class Renderer:
    """Renders examples for one base. Safe to share between threads."""

    def __init__(self, dialogue: Dialogue, tokenizer: TextTokenizer, context: int) -> None:
        self._dialogue = dialogue
        self._tokenizer = tokenizer
        self._context = context

    @classmethod
    def of(cls, base: Base) -> Renderer:
        """The renderer of a model folder. Raises BaseModelError (tokenizer_missing)."""
        base.require_weights()
        tokenizer = Tokenizer.open(base.path)
        return cls(Dialogue(base.path, tokenizer), tokenizer, base.decoder.context)

    def prompt(self, example: Example, declare: bool = False) -> list[int]:
        """What inference is given for the example's last answer.

        declare: with the declarations of its tools. Raises ParameterError for messages that the
        template refuses, BaseModelError (template_missing) and FormatError.
        """
        return self.prompt_and_state(example, declare)[0]

    def prompt_and_state(self, example: Example, declare: bool = False) -> tuple[list[int], bool]:
        """`prompt`, and whether it ends within reasoning that its template opened."""
        if example.messages:
            before, tools = example.messages[:-1], _tools(example, declare)
            return self._dialogue.prompt_and_state(before, tools)
        return self._opened(example.prompt), False

    def render(self, example: Example, declare: bool = False) -> tuple[Rendered, ...]:
        """The example's rows, most often one. Raises FormatError, and as `prompt` does."""
        try:
            rows = (
                self._conversation(example, declare) if example.messages else [self._text(example)]
            )
            if not any(row.learnt for row in rows):
                raise FormatError("it holds nothing to learn")
            for row in rows:
                self._check(row)
        except (FormatError, ParameterError) as error:
            raise type(error)(
                f"{example.place}: {error.message}", items=error.items, hint=error.hint
            ) from error
        return tuple(rows)

    def loses_words(self, example: Example, declare: bool = False) -> bool:
        """Whether the template leaves out words beside a call, so that they are not learnt."""
        for end in worded_calls(example):
            messages, tools = prepare_messages(example.messages), _tools(example, declare)
            prompt = tuple(self._dialogue.prompt(messages[:end], tools))
            silent = [*messages[:end], {**messages[end], "content": ""}]
            said = self._answer(messages, end, tools, prompt)
            if said == self._answer(silent, end, tools, prompt):
                return True
        return False

    def _check(self, row: Rendered) -> None:
        if len(row.ids) > self._context:
            raise FormatError(
                f"it has {len(row.ids)} tokens; the base's context holds {self._context}",
                hint="shorten it or leave it out: a cut example would teach a cut answer",
            )

    # Conversations.

    def _conversation(self, example: Example, declare: bool) -> list[Rendered]:
        messages, tools = prepare_messages(example.messages), _tools(example, declare)
        if has_images(messages):
            raise FormatError("training on images is not supported")
        rows: list[Rendered] = []
        for end, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            self._check_text(message)
            prompt = tuple(self._dialogue.prompt(messages[:end], tools))
            answer = self._answer(messages, end, tools, prompt)
            self._check_calls(message, answer, example.tools)
            before = rows[-1] if rows else None
            if before is not None and prompt[: len(before.ids)] == before.ids:
                rows.pop()
                known = before.answers
            else:
                known = ()
            learnt = message.get("weight", 1) != 0  # as in OpenAI's format: context alone
            marks = (*known, *(len(prompt) - len(known)) * [False], *len(answer) * [learnt])
            rows.append(Rendered(ids=(*prompt, *answer), answers=marks))
        return [row for row in rows if row.learnt] or rows

    def _answer(
        self,
        messages: Messages,
        end: int,
        tools: Sequence[Mapping[str, Any]] | None,
        prompt: tuple[int, ...],
    ) -> tuple[int, ...]:
        """What the model has to generate for a turn, the token that inference stops at included."""
        stops = self._dialogue.stop_tokens
        rest: list[int] = []
        for results in _results(messages, end):
            try:
                rest = self._after(messages[: end + 1], results, tools, prompt, messages[:end])
            except ParameterError:
                if not results:
                    raise
                continue  # a template that takes no results of tools
            length = next((i for i, token in enumerate(rest) if token in stops), None)
            if length == 0:
                raise FormatError("the base's chat template writes nothing for an answer")
            if length is not None:
                return tuple(rest[: length + 1])
        return (*rest, self._end)

    def _after(
        self,
        messages: Messages,
        results: Messages,
        tools: Sequence[Mapping[str, Any]] | None,
        prompt: tuple[int, ...],
        before: Messages,
    ) -> list[int]:
        """The tokens of a conversation after a prompt for its beginning."""
        template = self._dialogue.template
        whole = template.render([*messages, *results], tools, add_generation_prompt=False)
        ids = self._tokenizer.encode(whole, special=False)
        if tuple(ids[: len(prompt)]) == prompt:
            return ids[len(prompt) :]
        beginning = template.render(before, tools)
        if not whole.startswith(beginning):
            raise FormatError(
                "the base's chat template does not render an answer as the continuation of its "
                "prompt, so that it cannot be learnt as it would be generated",
                hint="its prompt for an answer may open reasoning: give the answer's reasoning, "
                "or train a base whose template does not",
            )
        return self._continuation(whole[len(beginning) :])

    def _check_text(self, message: Mapping[str, Any]) -> None:
        """Refuse an answer that inference would stop in the middle of."""
        ids = self._tokenizer.encode(content_text(message), special=False)
        stop = next((token for token in ids if token in self._dialogue.stop_tokens), None)
        if stop is not None:
            raise FormatError(
                f"an answer holds {self._tokenizer.decode([stop])}, which would end it there",
                hint="take the base's control tokens out of the data: the template writes them",
            )

    def _check_calls(
        self,
        message: Mapping[str, Any],
        answer: Sequence[int],
        tools: Sequence[Mapping[str, Any]],
    ) -> None:
        """Refuse a rendering that the base's own parser would not read as these calls."""
        expected = [_pair(call_of(call)) for call in message.get("tool_calls") or ()]
        if not expected:
            return
        if self._dialogue.tool_format is None:
            raise BaseModelError(
                "the base's chat template writes tool calls in no format that lorakit knows",
                hint="train a base that calls tools, or write the calls as plain text",
            )
        text = self._tokenizer.decode(answer[:-1], continuing=True)
        found = [_pair(call) for call in self._dialogue.parse(text, tools=tools).tool_calls]
        if found != expected:
            raise FormatError(
                "the base's chat template writes a call that does not read back as it was",
                items=[f"expected {expected}", f"found {found} in {text!r}"],
            )

    # Text.

    def _text(self, example: Example) -> Rendered:
        prompt = tuple(self._opened(example.prompt)) if example.task == "completion" else ()
        ids = tuple(self._opened(example.prompt + example.text))
        if ids[: len(prompt)] != prompt:
            ids = (*prompt, *self._continuation(example.text))
        if ids[-1:] != (self._end,):
            ids = (*ids, self._end)
        known = max(len(prompt), 1)  # nothing precedes the first token
        return Rendered(ids=ids, answers=(*known * [False], *(len(ids) - known) * [True]))

    def _opened(self, text: str) -> list[int]:
        """A text as `Model.complete` runs it; written out, its opening token is not doubled."""
        ids = self._tokenizer.encode(text, special=True)
        bos = self._tokenizer.bos_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _continuation(self, text: str) -> list[int]:
        """Tokens of a text that follows others: SentencePiece puts a space before a beginning."""
        anchor = self._tokenizer.encode("\n", special=False)
        ids = self._tokenizer.encode("\n" + text, special=False)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._tokenizer.encode(text, special=False)

    @computed_once
    def _end(self) -> int:
        """The token that ends a text, and an answer where the template writes none."""
        name = self._tokenizer.special_tokens.get("eos_token")
        own = None if name is None else self._tokenizer.token_id(name)
        if own is not None:
            return own
        if not self._tokenizer.eos_ids:
            raise BaseModelError(
                "the base names no token that ends a text",
                hint="set eos_token_id in its generation_config.json",
            )
        return min(self._tokenizer.eos_ids)


def _tools(example: Example, declare: bool) -> Sequence[Mapping[str, Any]] | None:
    return example.tools if declare and example.tools else None


def _results(messages: Messages, end: int) -> Iterator[Messages]:
    """What may follow a turn so that its template shows how it ends: results of its calls."""
    calls = messages[end].get("tool_calls") or ()
    if calls:
        yield [
            {"role": "tool", "tool_call_id": call.get("id") or "", "name": call_of(call).name}
            | {"content": "ok"}
            for call in calls
        ]
    yield []


def _pair(call: ToolCall) -> tuple[str, dict[str, Any]]:
    return call.name, dict(call.arguments)
