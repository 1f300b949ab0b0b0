"""ReplyReader: a reply read piece by piece, each part given away as soon as it is certain."""

from __future__ import annotations

from lorakit.chat.calls import ParsedReply
from lorakit.chat.events import CallEnd, Delta, ReasoningDelta, TextDelta


class ReplyReader:
    """Makes events of one reply's pieces; see lorakit.chat.events."""

    def feed(self, piece: str) -> list[Delta]:
        """What is certain with this piece."""
        return []

    def end(self, parsed: ParsedReply) -> list[Delta]:
        """What is left, once the whole reply is known."""
        calls = [CallEnd(index, call) for index, call in enumerate(parsed.tool_calls)]
        reasoning = [ReasoningDelta(parsed.reasoning)] if parsed.reasoning else []
        return [*reasoning, *([TextDelta(parsed.text)] if parsed.text else []), *calls]
