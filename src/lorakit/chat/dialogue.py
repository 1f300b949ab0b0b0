"""Dialogue: a model's chat template and tool format together, from messages to tokens and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.chat.calls import NO_CALLS, ParsedReply, TypedFormat
from lorakit.chat.constraints.replies import Thinking
from lorakit.chat.images import Encode, illustrated_prompt
from lorakit.chat.messages import Message
from lorakit.chat.reading import ReplyReader
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.chat.scanning import take_apart
from lorakit.chat.spelled import Spelled
from lorakit.chat.tags import opens_reasoning, tags_in
from lorakit.chat.template import ChatTemplate
from lorakit.chat.tools import ToolFormat, detect_format
from lorakit.computed import computed_once
from lorakit.errors import BaseModelError, FormatError, LorakitError
from lorakit.text.image_ids import Vectors
from lorakit.text.marks import EncodeApart, Marks
from lorakit.text.tokenizer import TextTokenizer


class Dialogue:
    """How one model holds a conversation. The template is read when it is first needed, so that a
    model without one can still complete text.

    templates: those that the model's one file carries, by name; else the folder's are read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tokenizer: TextTokenizer,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._tokenizer = tokenizer
        self._templates = templates

    @computed_once
    def template(self) -> ChatTemplate:
        """Raises BaseModelError (template_missing) or FormatError."""
        if self._templates is None:
            return ChatTemplate.open(self._folder)
        return ChatTemplate(sources=self._templates, special_tokens=self._tokenizer.special_tokens)

    @computed_once
    def tool_format(self) -> ToolFormat | None:
        """How the model writes tool calls; None where no known format is recognised."""
        try:
            source = self.template.source(tools=True)
        except (BaseModelError, FormatError):  # `chat` will say so
            source = None
        return detect_format(source, self._tokenizer.token_id)

    @computed_once
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer: the model's own, and those of its tool format."""
        names = self.tool_format.stops if self.tool_format else ()
        ids = (self._tokenizer.token_id(name) for name in names)
        return frozenset(self._tokenizer.eos_ids) | {token for token in ids if token is not None}

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: RenderOptions = DEFAULT,
    ) -> list[int]:
        """Token ids of a conversation up to where the model answers."""
        return self.prompt_and_state(messages, tools, options)[0]

    def prompt_and_state(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: RenderOptions = DEFAULT,
    ) -> tuple[list[int], bool]:
        """`prompt`, and whether it ends within reasoning, already opened."""
        spelled = Spelled(lambda: self.marks, options.control_tokens)
        text = spelled.render(messages, partial(self._render, tools=tools, options=options))
        return self._encode(text, spelled), opens_reasoning(spelled.shown(text))

    def illustrated(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        encode: Encode,
        options: RenderOptions = DEFAULT,
        *,
        paths: bool = True,
    ) -> tuple[list[int], dict[int, Vectors], bool]:
        """`prompt_and_state` for messages with images, see lorakit.chat.images."""
        spelled = Spelled(lambda: self.marks, options.control_tokens)
        prompt = ""

        def render(messages: Sequence[Message]) -> str:
            nonlocal prompt
            plain = partial(self._render, tools=tools, options=options)
            prompt = spelled.render(messages, plain)
            return prompt

        ids, vectors = illustrated_prompt(
            self.template,
            lambda text: self._encode(text, spelled),
            encode,
            messages,
            tools,
            paths=paths,
            render=render,
        )
        return ids, vectors, opens_reasoning(spelled.shown(prompt))

    def _render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        options: RenderOptions,
    ) -> str:
        return self.template.render(messages, tools, **options.variables)

    def _encode(self, text: str, spelled: Spelled) -> list[int]:
        plain = partial(self._tokenizer.encode, special=False)
        return spelled.encode(text, plain, lambda: self._encode_apart)

    @computed_once
    def marks(self) -> Marks:
        """The tokens that messages must not spell: control tokens, and of the other marked tokens
        those in brackets that the template writes, such as <tool_call>."""
        control = self._tokenizer.control_ids
        written = "".join(self.template.sources.values())
        return Marks(
            {
                text: token
                for text, token in self._tokenizer.marked_tokens.items()
                if token in control or (text[:1] in "<[\u25c1" and text in written)
            }
        )

    @computed_once
    def _encode_apart(self) -> EncodeApart:
        return self._tokenizer.apart(self.marks)

    @computed_once
    def reasons(self) -> bool:
        """Whether the template's prompt for an answer ends within reasoning, already opened."""
        try:
            prompt = self.template.render([{"role": "user", "content": "x"}])
        except LorakitError:  # no template, or one that wants something else: nothing is opened
            return False
        return opens_reasoning(prompt)

    def format_for(self, tools: Sequence[Mapping[str, Any]] | None) -> ToolFormat | None:
        """`tool_format`, told the tools where it has to know their types."""
        known = self.tool_format
        return known.with_tools(tools) if tools and isinstance(known, TypedFormat) else known

    def thinking(self, *, begun: bool) -> Thinking | None:
        """How the model reasons before it answers; None where its template knows no reasoning.

        begun: whether the prompt opened it.
        """
        tags = self._reasoning_tags
        return None if tags is None else Thinking(opening=tags[0], closing=tags[1], begun=begun)

    @computed_once
    def _reasoning_tags(self) -> tuple[str, str] | None:
        try:
            written = "".join(self.template.sources.values())
        except (BaseModelError, FormatError):  # a model that only completes
            return None
        return tags_in(written)

    def parse(
        self,
        text: str,
        *,
        reasons: bool | None = None,
        repair: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> ParsedReply:
        """An answer taken apart; without calls where the model has no known tool format.

        reasons: whether it begins within reasoning; None is what the template does by itself.
        repair: whether calls that cannot be read are mended. tools: those that it may call.
        """
        reasons, known = self.reasons if reasons is None else reasons, self.format_for(tools)
        if known is None:
            return take_apart(text, NO_CALLS, reasons=reasons)
        return known.parse(text, reasons=reasons, repair=repair)

    def reader(
        self,
        *,
        reasons: bool | None = None,
        repair: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> ReplyReader:
        """What reads an answer piece by piece, as `parse` reads all of it."""
        reasons, known = self.reasons if reasons is None else reasons, self.format_for(tools)
        syntax = NO_CALLS if known is None else known.syntax
        return ReplyReader(syntax, reasons=reasons, repair=repair)
