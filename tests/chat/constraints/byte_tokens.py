"""A vocabulary of single bytes, some longer tokens and control tokens, for tests of constraints."""

from lorakit.chat.constraints.matching import Compiled
from lorakit.chat.constraints.vocabulary import Vocabulary

END, OPEN, CLOSE, THINK, THOUGHT = "<eos>", "<call>", "</call>", "<think>", "</think>"
CONTROL = (END, OPEN, CLOSE, THINK, THOUGHT)
WORDS = ('{"', '": ', "ab", "the", "<b>", "tool", "_call", ', "')


class ByteTokens:
    """Tokens 0 to 255 are bytes, then WORDS, then those of CONTROL that are control tokens."""

    def __init__(self, control=CONTROL):
        self.texts = [bytes([i]) for i in range(256)] + [w.encode() for w in (*WORDS, *control)]
        self.vocabulary = len(self.texts)
        self.end = self.texts.index(END.encode()) if END in control else None
        first = 256 + len(WORDS)
        self.control_ids = frozenset(range(first, self.vocabulary))
        self._longest = sorted(range(256, self.vocabulary), key=lambda i: -len(self.texts[i]))

    def encode(self, text, *, special):
        """The longest token that fits, from left to right."""
        raw, ids, at = text.encode(), [], 0
        while at < len(raw):
            found = next((i for i in self._longest if raw.startswith(self.texts[i], at)), raw[at])
            ids.append(found)
            at += len(self.texts[found])
        return ids

    def token_bytes(self, token):
        return self.texts[token]


TOKENS = ByteTokens()
BYTES = Vocabulary(TOKENS, [TOKENS.end])


def followed(grammar, text, tokens=TOKENS, vocabulary=BYTES):
    """The matcher after a text, and how many of its tokens were allowed."""
    matcher = Compiled(vocabulary, grammar).matcher([tokens.end])
    ids = tokens.encode(text, special=False)
    for count, token in enumerate(ids):
        if not matcher.allows(token):
            return matcher, count, len(ids)
        matcher.accept(token)
    return matcher, len(ids), len(ids)


def fits(grammar, text, tokens=TOKENS, vocabulary=BYTES):
    """Whether a grammar takes a text as a whole."""
    matcher, count, all_of_it = followed(grammar, text, tokens, vocabulary)
    return count == all_of_it and matcher.allows(tokens.end)
