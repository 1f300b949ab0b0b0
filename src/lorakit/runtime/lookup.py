"""Prompt lookup: what followed the same tokens before is proposed to follow them again.

Answers copy much of their prompts, tool calls most of all. The last tokens are looked up among all
those before, the longest match first and the latest of equals, and what came after it is a draft
for the next step, which checks it (Saxena 2023, "Prompt Lookup Decoding"). It knows neither the
model nor the constraint: whoever proposes cuts a draft to what may come.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

LONGEST_MATCH = 3
MOST = 8  # proposed tokens; more cost more than they save
LONGEST_PAUSE = 16  # steps


class Lookup:
    """The proposals for one answer; their length follows how often they were right.

    It doubles where all were right and halves where none was. After as many steps in a row in which
    none was right, it pauses for 2^fails - 1 steps.
    """

    def __init__(self, tokens: Sequence[int], *, never: Container[int] = ()) -> None:
        """tokens: prompt and answer, a sequence that grows. never: tokens that end a proposal
        before them, as negative ones (images) do."""
        self._tokens = tokens
        self._never = never
        self._follows: dict[tuple[int, ...], int] = {}  # where what follows a match begins
        self._seen = 0  # matches that end before here are in it
        self._length = MOST
        self._fails = 0
        self._pause = 0

    def propose(self, most: int, *, shortest: int) -> list[int]:
        """At most `most` tokens that may come next; none while it pauses. Asking changes nothing.

        shortest: the fewest tokens of a match.
        """
        if self._pause or most < 1:
            return []
        self._learn()
        for size in range(LONGEST_MATCH, shortest - 1, -1):
            start = self._follows.get(tuple(self._tokens[-size:]))
            if start is not None:
                return self._usable(start, min(most, self._length))
        return []

    def settle(self, proposed: int, right: int) -> None:
        """A step has shown how many of the proposed tokens were right, from the first on."""
        if not proposed:
            self._pause = max(0, self._pause - 1)
        elif not right:
            self._length = max(1, self._length // 2)
            self._fails += 1
            self._pause = min(LONGEST_PAUSE, 2**self._fails - 1)
        else:
            self._fails = 0
            if right == proposed:
                self._length = min(MOST, 2 * self._length)

    def _learn(self) -> None:
        """Take in the matches after which something is known to follow."""
        tokens = self._tokens
        for end in range(max(1, self._seen), len(tokens)):
            for size in range(1, min(LONGEST_MATCH, end) + 1):
                self._follows[tuple(tokens[end - size : end])] = end
        self._seen = len(tokens)

    def _usable(self, start: int, most: int) -> list[int]:
        """What follows from `start` on; past the end it repeats itself, as loops do."""
        found: list[int] = []
        known = len(self._tokens) - start
        for at in range(most):
            token = self._tokens[start + at] if at < known else found[at - known]
            if token < 0 or token in self._never:
                break
            found.append(token)
        return found
