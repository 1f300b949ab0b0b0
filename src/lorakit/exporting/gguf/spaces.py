"""The space that SentencePiece puts before text: what tokenizer.json says, and a GGUF file can say.

llama.cpp puts a space before a text, and before what follows a special token in it, or it puts
none. `Prepend` says the same. `Metaspace`, as which transformers 5 writes the same tokenizers, adds
none before a space; and "first" means the beginning of the whole text alone. No file can say that:
the better of the two is chosen, and where it differs is noted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from lorakit.text.tokenizer import Json, steps

SPACE = "\u2581"  # what SentencePiece writes for a space
Scheme = Literal["prepend", "never", "first", "always"]
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_ON_SPACES = {"String": " "}  # of which the normalizer has left none


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """prefixed: what the file says. note: where other ids follow; "" for nowhere."""

    scheme: Scheme
    prefixed: bool

    @property
    def note(self) -> str:
        if self.scheme in ("prepend", "never"):
            return ""
        if not self.prefixed:
            return "llama.cpp puts no space before text that does not begin with a special token"
        more = ", and before what follows a special token" if self.scheme == "first" else ""
        return f"llama.cpp puts a space before text that begins with one{more}"

    def same(self, texts: Iterable[str], special: Collection[str]) -> list[str]:
        """Texts as near as may be of which the ids are the same all the same.

        special: the tokens that are found in text.
        """
        if not self.note:
            return list(texts)
        if not self.prefixed:
            begun = min(special, default="")
            return [begun + text for text in texts]
        known = [re.escape(token) for token in sorted(special, key=len, reverse=True)]
        spaced = re.compile("({}) +".format("|".join((r"\A", *known))))
        found = [spaced.sub(r"\1", text) for text in texts]
        if self.scheme == "always" or not known:
            return found
        return [re.split("|".join(known), text)[0] for text in found]


def spaces(
    normalizer: Json | None, pre_tokenizer: Json | None, tokens: Iterable[str], *, chats: bool
) -> Spaces | None:
    """None for a tokenizer that changes or cuts text in another way.

    tokens: the vocabulary. chats: text most often begins with a special token.
    """
    changes = [dict(step) for step in steps(normalizer, "normalizers")]
    cuts = steps(pre_tokenizer, "pretokenizers")
    if changes in ([_REPLACE], [_PREPEND, _REPLACE]):
        if any(c.get("type") != "Split" or c.get("pattern") != _ON_SPACES for c in cuts):
            return None
        prefixed = len(changes) == 2
        return Spaces(scheme="prepend" if prefixed else "never", prefixed=prefixed)
    if changes or [cut.get("type") for cut in cuts] != ["Metaspace"]:
        return None
    (cut,) = cuts
    scheme, joined = cut.get("prepend_scheme"), (token for token in tokens if SPACE in token[1:])
    if cut.get("replacement") != SPACE or (cut.get("split", True) and any(joined)):
        return None
    if scheme not in ("never", "first", "always"):
        return None
    return Spaces(scheme=scheme, prefixed=scheme == "always" or (scheme == "first" and not chats))
