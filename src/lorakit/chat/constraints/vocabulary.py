"""A tokenizer as llguidance sees it: the bytes of each token, which are control tokens, the ends.

A tokenizer.json makes every added token special, such as <b> in some, which could then stand in no
text: so control tokens alone are. What llguidance guesses of end tokens is not used either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from lorakit.errors import EngineError, LorakitError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_PLAIN = r'[^<"\\\x00-\x1F\x7F]'  # what begins no tag, quote or escape
_SLICES = (f"{_PLAIN}{{1,10}}", f"{_PLAIN}{{1,30}}", f"{_PLAIN}+")  # tokens looked at together
_BEFORE = "\n"  # text before a text, where the tokenizer puts a space before every text
_TRIED = ('{"name": "get_weather", "arguments": {"city": "', "call:set_light{room:", "true, ")


class Tokens(Protocol):
    """What is needed of a tokenizer; see text.tokenizer.TextTokenizer."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def control_ids(self) -> frozenset[int]: ...
    def encode(self, text: str, *, special: bool) -> list[int]: ...
    def token_bytes(self, token: int) -> bytes: ...


class Vocabulary:
    """One model's tokens. Immutable once made; making it takes up to some seconds.

    native: llguidance's tokenizer. size: how many tokens it knows, which its masks have. ends: the
    tokens that may end an answer. forces: whether what must come next is known as tokens.
    """

    def __init__(self, tokenizer: Tokens, ends: Collection[int]) -> None:
        """Raises EngineError for a tokenizer that llguidance does not take."""
        self._tokenizer = tokenizer
        self._prefixes = self._puts_space()
        self.ends = frozenset(end for end in ends if 0 <= end < tokenizer.vocabulary)
        self.native: LLTokenizer = self._native()
        self.size = int(self.native.vocab_size)
        self.forces = self._forces()

    def mark(self, text: str) -> str:
        """What fits the control token of this text; an empty text where there is none.

        By its number: names hold what a grammar cannot spell.
        """
        token = self._control.get(text)
        return "" if token is None else f"<[{token}]>"

    def _native(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        words = [self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocabulary)]
        control = sorted(self._tokenizer.control_ids | self.ends)
        control = [token for token in control if token < len(words)]
        self._control = {words[token].decode("utf-8", "replace"): token for token in control}
        ends = sorted(self.ends)
        if not ends:  # one that no model has: an answer then ends where nothing may follow
            ends = [len(words)]
            control.append(ends[0])
            words.append(b"<end of text>")
        try:
            return LLTokenizer(
                TokenizerWrapper(_Source(words, control, ends[0], self._encode)),
                eos_token=ends,
                slices=list(_SLICES),
            )
        except Exception as error:
            raise EngineError(
                f"no constraint can be made for this tokenizer: {error!s:.500}"
            ) from error

    def _encode(self, text: bytes) -> list[int]:
        """Tokens of a text in mid-reply."""
        plain = text.decode("utf-8", "replace")
        if not self._prefixes:
            return self._tokenizer.encode(plain, special=False)
        before = self._tokenizer.encode(_BEFORE, special=False)
        found = self._tokenizer.encode(_BEFORE + plain, special=False)
        if found[: len(before)] == before:
            return found[len(before) :]
        return self._tokenizer.encode(plain, special=False)

    def _puts_space(self) -> bool:
        """Whether the tokenizer puts a space before a text, as some of SentencePiece do."""
        return self._bytes(self._tokenizer.encode("a", special=False)) != b"a"

    def _bytes(self, tokens: Iterable[int]) -> bytes:
        return b"".join(map(self._tokenizer.token_bytes, tokens))

    def _forces(self) -> bool:
        """Whether what llguidance says must come next is what the tokenizer writes."""
        from lorakit.chat.constraints.lark import literal
        from lorakit.chat.constraints.matching import native_matcher

        for text in _TRIED:
            try:
                matcher = native_matcher(self.native, f"start: {literal(text)} /[0-9]/")
            except LorakitError:
                return False
            found = list(matcher.compute_ff_tokens())
            expected = self._encode(text.encode())
            if not found or found != expected[: len(found)]:
                return False
            if not text.encode().startswith(self._bytes(found)):
                return False
        return True


class _Source:
    """What llguidance's TokenizerWrapper wraps."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int, encode: Any) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        self._encode = encode

    def __call__(self, text: bytes) -> list[int]:
        found: list[int] = self._encode(text)
        return found
