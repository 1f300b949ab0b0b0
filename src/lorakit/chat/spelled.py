"""Control tokens that messages spell, such as <|im_end|> in what a tool returned or in a call that
copies it, kept as text.

A character that no text of the conversation holds is put into each of them before the template
renders, and taken out afterwards: what it stood in is content, not the template's own. The rest of
the content stays as it is, so that what templates do with it (strip it, look at its beginning,
write it as JSON) comes out the same. Where it does not, the template may have looked for the token
itself, which as text is not there; but one that rewrites the character is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lorakit.chat.messages import Message, prepare_messages
from lorakit.chat.rendering import ControlTokens
from lorakit.chat.tags import TAG
from lorakit.errors import ParameterError
from lorakit.text.marks import EncodeApart, Marks, Range

Render = Callable[[Sequence[Message]], str]
RESULTS = ("tool", "function", "ipython")  # roles of what functions returned
PRIVATE = range(0xE000, 0xF900)  # characters that mean nothing


class Spelled:
    """The control tokens that one conversation's messages spell. Made anew for each."""

    def __init__(self, marks: Callable[[], Marks], mode: ControlTokens | None) -> None:
        """marks: asked only where it counts. mode: as in RenderOptions."""
        self._get_marks = marks
        self._mode = mode
        self._acts = False
        self._inserted = ""

    def render(self, messages: Sequence[Message], render: Render) -> str:
        """The prompt, with a character in each control token that a message spells.

        Raises what `render` raises, and ParameterError for a template that rewrites it.
        """
        plain = render(messages)
        if self._mode == "template" or not (self._mode == "text" or any(map(_is_copied, messages))):
            return plain
        self._acts = True
        prepared = prepare_messages(messages)
        one, other = _unused(plain, prepared)
        marked = self._with(one, prepared)
        if marked == prepared:
            return plain
        text = render(marked)
        if text.replace(one, "") != plain:
            again = render(self._with(other, prepared))
            if again.replace(other, one) != text:
                raise ParameterError(
                    "the chat template rewrites what messages say: control tokens that they spell "
                    "cannot be told from its own",
                    hint='control_tokens="template" takes them for its own',
                )
        self._inserted = one
        return text

    def shown(self, text: str) -> str:
        """What `render` gave, as it is meant."""
        return text.replace(self._inserted, "") if self._inserted else text

    def encode(
        self, text: str, encode: Callable[[str], list[int]], apart: Callable[[], EncodeApart]
    ) -> list[int]:
        """Token ids of what `render` gave, or of a part of it. apart: asked where it counts."""
        if not self._acts:
            return encode(text)
        plain, ranges = self._content_of(text)
        ids = [] if ranges else encode(plain)
        made = bool(ranges) or self._get_marks().are_more_in(ids, plain)
        return apart()(plain, ranges) if made else ids

    def _content_of(self, text: str) -> tuple[str, list[Range]]:
        """A text as it is meant, and where control tokens in it are content."""
        pieces = text.split(self._inserted) if self._inserted else [text]
        plain = "".join(pieces)
        ranges: list[Range] = []
        place = 0
        for piece in pieces[:-1]:
            place += len(piece)
            if found := self._get_marks().at(plain, place - 1):
                ranges.append(found)
        return plain, ranges

    def _with(self, character: str, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages with a character after the first one of each control token in content."""
        insert = _Inserting(character, self._get_marks())
        if self._mode == "text":
            return [insert.into_message(message) for message in messages]
        return [insert.into_copied(message) for message in messages]


class _Inserting:
    def __init__(self, character: str, marks: Marks) -> None:
        self._character = character
        self._marks = marks

    def into_message(self, message: Message) -> dict[str, Any]:
        spoken = message.get("role") == "assistant"  # templates look for its reasoning
        return {
            key: value if key == "role" else self.into(value, tags=not spoken)
            for key, value in message.items()
        }

    def into_copied(self, message: Message) -> dict[str, Any]:
        """A message with it in what a function returned, and in calls: a model copies into their
        arguments what it read, which must not come to act there."""
        given = dict(message)
        if _is_result(message):
            given["content"] = self.into(message.get("content"))
        if message.get("tool_calls"):
            given["tool_calls"] = self.into(message["tool_calls"])
        return given

    def into(self, value: Any, *, tags: bool = True) -> Any:
        """A JSON value with the character in its texts and names. tags: in those of reasoning."""
        if isinstance(value, str):
            return self._into_text(value, tags)
        if isinstance(value, Mapping):
            return {
                self._into_text(key, tags): self.into(item, tags=tags)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.into(item, tags=tags) for item in value]
        return value

    def _into_text(self, text: str, tags: bool) -> str:
        places = [at + 1 for at in self._marks.beginnings(text)]
        found = self._marks.find(text)
        while found is not None:
            start, end = found
            if tags or not TAG.fullmatch(text, start, end):
                places.append(start + 1)
            found = self._marks.find(text, start + 1)
        cuts = [0, *sorted(set(places)), len(text)]
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        return self._character.join(pieces)


def _is_result(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in RESULTS


def _is_copied(message: object) -> bool:
    """Whether it holds words that may be a stranger's."""
    return _is_result(message) or (isinstance(message, Mapping) and bool(message.get("tool_calls")))


def _unused(prompt: str, messages: Sequence[Message]) -> tuple[str, str]:
    """Two characters that stand neither in a prompt nor in its messages."""
    used = {*prompt, *json.dumps(messages, ensure_ascii=False, default=str)}
    free = [chr(code) for code in PRIVATE if chr(code) not in used]
    if len(free) < 2:
        raise ParameterError(
            "the messages hold every character of the private use area",
            hint='control_tokens="template" takes control tokens in them as they come',
        )
    return free[0], free[1]
