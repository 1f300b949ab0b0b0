"""A constraint for tests: a finite automaton over token ids, and the naive reading of it."""

from dataclasses import dataclass, field

import numpy as np

from lorakit.errors import EngineError

END = 0  # the token that ends an answer, where a state accepts


@dataclass(frozen=True)
class Automaton:
    """steps: for each state, the next state by token. accepting: states in which END may come.

    A state that accepts and has no steps ends the answer without END.
    """

    steps: tuple[dict[int, int], ...]
    accepting: frozenset[int] = frozenset()

    def after(self, state, token):
        """The next state; None where the token may not come. -1: after END."""
        if state == -1:
            return None
        if token == END and state in self.accepting:
            return -1
        return self.steps[state].get(token)

    def ids(self, state):
        if state == -1:
            return []
        return sorted({*self.steps[state], *([END] if state in self.accepting else [])})


@dataclass
class Scripted:
    """The whole protocol of runtime.constraint. prepared: the drafts that masks were asked for."""

    automaton: Automaton
    state: int = 0
    prepared: list = field(default_factory=list)
    accepted: list = field(default_factory=list)

    @property
    def ended(self):
        return self.state == -1 or not self.automaton.steps[self.state]

    def forced(self):
        found, state = [], self.state
        while state != -1 and state not in self.automaton.accepting and len(found) < 50:
            ids = self.automaton.ids(state)
            if len(ids) != 1:
                break
            found.append(ids[0])
            state = self.automaton.after(state, ids[0])
        return found

    def allowed(self, most):
        ids = self.automaton.ids(self.state)
        return np.array(ids, np.int64) if len(ids) <= most else None

    def allows(self, token):
        return self.automaton.after(self.state, token) is not None

    def mask(self, logits):
        masked = np.full_like(logits, -np.inf)
        ids = [token for token in self.automaton.ids(self.state) if token < len(logits)]
        masked[ids] = logits[ids]
        return masked

    def fitting(self, tokens):
        state = self.state
        for count, token in enumerate(tokens):
            state = self.automaton.after(state, token)
            if state is None:
                return count
        return len(tokens)

    def prepare(self, draft=()):
        self.prepared.append(list(draft))

    def accept(self, token):
        state = self.automaton.after(self.state, token)
        if state is None:
            raise EngineError(f"{token} may not come next")
        self.state = state
        self.accepted.append(token)


class Plain(Scripted):
    """The same language, one token at a time: nothing is forced, few or proposed."""

    def forced(self):
        return super().forced()[:1]

    def allowed(self, most):
        return None

    def fitting(self, tokens):
        return 0


def chain(*tokens):
    """Nothing but these tokens."""
    return Automaton((*({token: at + 1} for at, token in enumerate(tokens)), {}))


def drawn(random, vocabulary, states=12):
    """An automaton with long forced runs, few and many tokens, loops, and several ends."""
    steps = []
    for state in range(states):
        width = int(random.choice([1, 1, 1, 2, 3, vocabulary - 1]))
        tokens = random.permutation(np.arange(1, vocabulary))[:width].tolist()
        ahead = random.integers(max(0, state - 2), states + 1, len(tokens)).tolist()
        steps.append(dict(zip(tokens, ahead, strict=True)))
    accepting = {int(s) for s in random.choice(states, 2)} | {states}
    return Automaton((*steps, {}), frozenset(accepting))
