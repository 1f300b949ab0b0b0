"""Text of a model on a server: a prompt that it renders, its answers as events, ids of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorakit.chat.calls import ParsedReply
from lorakit.chat.events import Delta
from lorakit.chat.in_progress import told_anew
from lorakit.computed import computed_once
from lorakit.model.types import ChatPrompt
from lorakit.remote.answers import Piece
from lorakit.remote.asking import Conversation
from lorakit.text.tokenizer import TextTokenizer


class RemotePrompt(ChatPrompt):
    """A conversation for a server to render: its token ids are not known here."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(())
        self.conversation = conversation

    def set_free(self) -> None:
        options = replace(self.conversation.options, tool_choice=None)
        self.conversation = replace(self.conversation, options=options)


class TokenIds:
    """Token ids by the bytes that they add: of several with the same, the first."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, content: bytes) -> int | None:
        return self._table.get(content)

    @computed_once
    def _table(self) -> dict[bytes, int]:
        ids = range(self._tokenizer.vocabulary)
        return {self._tokenizer.token_bytes(token): token for token in reversed(ids)}


class RemoteReader:
    """The events of an answer, as the server sends them; see model.chat_stream.Reader."""

    def feed(self, piece: str) -> Sequence[Delta]:
        return piece.deltas if isinstance(piece, Piece) else ()

    def end(self, parsed: ParsedReply) -> Sequence[Delta]:
        return told_anew(parsed) if parsed.repairs else ()
