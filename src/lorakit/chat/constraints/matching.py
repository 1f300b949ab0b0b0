"""Following a grammar through an answer, token by token: runtime.constraint.Constraint.

llguidance does the work. A grammar is compiled once and copied for each answer; masks may be
computed beside the engine's step. Nothing here knows what a grammar means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from lorakit.errors import EngineError, ParameterError, page
from lorakit.processes import on_fork

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from lorakit.chat.constraints.vocabulary import Vocabulary

T = TypeVar("T")
Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Bits = npt.NDArray[np.int32]

MAX_GRAMMAR = 4 << 20  # characters of a grammar's text
MAX_ITEMS = 200_000  # of the parser, for one mask: 10 ms
MAX_ROW = 4_000  # alternatives at one place
MAX_STATES = 100_000  # of the lexer: 200 MB at most
MAX_FUEL = 1_000_000  # of the lexer, for one mask: about 70 ms
MAX_FUEL_BEGIN = 4_000_000  # of the lexer, when a grammar is read: some seconds
MAX_SIZE = 500_000  # symbols of a grammar
_WHY = {"NoExtensionBias": "no text fits what is left of it"}
_UNFORCED = '\n%llguidance {"no_forcing": true}'  # masks do not foresee how text is cut


def native_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """llguidance's matcher of a grammar in its Lark dialect, within limits. Never prints.

    Raises ParameterError for a grammar that it does not take.
    """
    from llguidance import LLMatcher, LLParserLimits

    if len(grammar) > MAX_GRAMMAR:
        raise _refused(f"{len(grammar)} characters; at most {MAX_GRAMMAR}")
    limits = LLParserLimits(
        max_items_in_row=MAX_ROW,
        initial_lexer_fuel=MAX_FUEL_BEGIN,
        step_lexer_fuel=MAX_FUEL,
        step_max_items=MAX_ITEMS,
        max_lexer_states=MAX_STATES,
        max_grammar_size=MAX_SIZE,
        verbose_errors=False,
    )
    try:
        grammar.encode()
        text = LLMatcher.grammar_from_lark(grammar)
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits)
    except UnicodeEncodeError as error:
        raise _refused(f"a lone surrogate at position {error.start}") from error
    except Exception as error:
        raise _refused(str(error)) from error
    except BaseException as error:  # a panic of Rust's derives from BaseException
        if type(error).__name__ != "PanicException":
            raise
        raise _refused(str(error)) from error
    if matcher.is_error():
        raise _refused(matcher.get_error())
    return matcher


def _require_some_text(native: LLMatcher, size: int) -> None:
    """Raise ParameterError where an answer could not even begin: a rule that is itself and nothing
    else, a class without characters."""
    from llguidance.numpy import fill_next_token_bitmask

    if native.is_accepting():
        return
    _called(fill_next_token_bitmask, native, np.zeros((1, _words(size)), np.int32), 0)
    if native.is_error():
        why = native.get_error()
        raise _refused("no text fits it" if "NoExtensionBias" in why else why)


def _refused(why: str) -> ParameterError:
    told = why.partition("<backtrace>")[0].strip()[:2000]
    lines = [line for line in told.splitlines() if line.strip()]
    return ParameterError(
        "the grammar cannot be enforced", items=lines, hint=f"what can be: {page('constraints')}"
    )


class Compiled:
    """A grammar that is ready to be followed. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        """Raises ParameterError."""
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        forcing = "" if vocabulary.forces else _UNFORCED
        self._prototype = native_matcher(vocabulary.native, f"{grammar}{forcing}")
        _require_some_text(self._prototype.deep_copy(), vocabulary.size)

    def matcher(self, ends: Collection[int]) -> Matcher:
        """A constraint of one answer. ends: the tokens that end it, which may come wherever the
        grammar allows the answer to end."""
        with self._lock:
            native = self._prototype.deep_copy()
        return Matcher(native, self._vocabulary, ends)


class Matcher:
    """A constraint of one answer; see runtime.constraint.Constraint. Not thread-safe."""

    def __init__(self, native: LLMatcher, vocabulary: Vocabulary, ends: Collection[int]) -> None:
        self._native = native
        self._size = vocabulary.size
        self._forces = vocabulary.forces
        self._own_ends = vocabulary.ends
        self._ends = frozenset(ends)
        self._over = False
        self._bits: Bits | None = None  # of what comes next
        self._ahead: list[tuple[int, Bits]] = []  # of what comes after each token of a draft
        self._work: Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: the answer ends here without an end token."""
        self._settle()
        if self._over:
            return True
        if not self._native.is_stopped():
            return False
        self._require_sound()
        return True

    def forced(self) -> Sequence[int]:
        """The tokens that must come next, as the tokenizer would write them."""
        if not self._forces or self.ended or self._native.is_accepting():
            return ()
        return tuple(_called(self._native.compute_ff_tokens))

    def allowed(self, most: int) -> Ids | None:
        """The ids that may come next, ascending; None where there are more than `most`."""
        bits = self._mask()
        if np.count_nonzero(bits) > most:  # words of which each has a token
            return None
        allowed = _unpacked(bits, self._size)
        return np.flatnonzero(allowed) if np.count_nonzero(allowed) <= most else None

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        bits = self._mask()
        return 0 <= token < self._size and bool(bits[token >> 5] >> (token & 31) & 1)

    def mask(self, logits: Logits) -> Logits:
        """A copy of float32 logits [vocabulary], minus infinity for what may not come next."""
        masked = np.full(len(logits), -np.inf, np.float32)
        known = min(len(logits), self._size)
        allowed = _unpacked(self._mask(), self._size)[:known]
        np.copyto(masked[:known], logits[:known], where=allowed)
        return masked

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next one after another."""
        if self.ended:
            return 0
        return self._valid(list(tokens))

    def prepare(self, draft: Sequence[int] = ()) -> None:
        """Begin to compute the masks for what comes next and after each token of a draft."""
        if self.ended or (self._bits is not None and not draft):
            return
        self._work = _worker().submit(self._compute, list(draft))

    def accept(self, token: int) -> None:
        """Advance: this token was chosen. Raises EngineError where it may not come next."""
        if self.ended and (self._over or token not in self._ends):
            raise EngineError("the constraint allows nothing after its end")
        if token in self._ends | self._own_ends and self._native.is_accepting():
            self._over = True
        elif self._valid_one(token):
            _called(self._native.consume_token, token)
            self._require_sound()
        else:
            self._require_sound()
            raise EngineError(f"the constraint does not allow token {token} here")
        bits, ahead = None, self._ahead
        if ahead and ahead[0][0] == token:
            bits = ahead[0][1]
        self._bits, self._ahead = bits, ahead[1:] if bits is not None else []

    def _mask(self) -> Bits:
        """The mask of what comes next, one bit for each token."""
        self._settle()
        if self._over:
            return np.zeros(_words(self._size), np.int32)
        if self._bits is None:
            self._compute([])
        self._require_sound()
        assert self._bits is not None
        return self._with_ends(self._bits)

    def _with_ends(self, bits: Bits) -> Bits:
        """The mask with the tokens that end this answer, which the grammar does not know of."""
        if not self._native.is_accepting():
            return bits  # an end token in it is the grammar's own
        bits = bits.copy()
        for ends, allowed in ((self._own_ends - self._ends, False), (self._ends, True)):
            for token in ends:
                if 0 <= token < self._size:
                    word, bit = token >> 5, np.uint32(1 << (token & 31)).view(np.int32)
                    bits[word] = bits[word] | bit if allowed else bits[word] & ~bit
        return bits

    def _compute(self, draft: list[int]) -> None:
        """Fill in the masks. In the worker, or in the caller's thread while no worker has it."""
        from llguidance.numpy import fill_next_token_bitmask

        draft = draft[: self._valid(draft)]
        masks = np.zeros((1 + len(draft), _words(self._size)), np.int32)
        if draft:
            _called(_fill_with_draft, self._native, draft, masks)
        else:
            _called(fill_next_token_bitmask, self._native, masks, 0)
        self._bits = masks[0]
        self._ahead = list(zip(draft, masks[1:], strict=True))

    def _valid_one(self, token: int) -> bool:
        if token in self._own_ends:  # one that the grammar itself names, where it is allowed
            bits = self._mask()
            return bool(bits[token >> 5] >> (token & 31) & 1)
        return 0 <= token < self._size and _called(self._native.validate_tokens, [token]) == 1

    def _valid(self, tokens: list[int]) -> int:
        """How many tokens fit, up to the first that may end the answer."""
        ends = self._ends | self._own_ends
        count = next(
            (at for at, t in enumerate(tokens) if t in ends or not 0 <= t < self._size),
            len(tokens),
        )
        return int(_called(self._native.validate_tokens, tokens[:count])) if count else 0

    def _settle(self) -> None:
        """Wait for the worker, which alone uses the matcher until then."""
        if self._work is not None:
            work, self._work = self._work, None
            work.result()

    def _require_sound(self) -> None:
        if self._native.is_error():
            why = self._native.get_error().partition("<")[0].strip()[:500]
            raise EngineError(
                f"the constraint cannot be followed any further: {_WHY.get(why, why)}",
                hint=f"a simpler schema or grammar; limits: {page('constraints')}",
            )


def _called(function: Callable[..., T], *arguments: Any) -> T:
    """What llguidance answers; a panic of its own ends this answer and nothing else."""
    try:
        return function(*arguments)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise EngineError(f"the constraint failed: {error!s:.500}") from error


def _fill_with_draft(native: LLMatcher, draft: list[int], masks: Bits) -> None:
    from llguidance.numpy import fill_next_token_bitmask_par_with_draft_tokens

    fill_next_token_bitmask_par_with_draft_tokens(_executor(), [(native, 0, draft)], masks)


def _words(size: int) -> int:
    return (size + 31) // 32


def _unpacked(bits: Bits, size: int) -> npt.NDArray[np.bool_]:
    """A mask as truth values [size]. Bits are little-endian within words, on any machine."""
    little = np.ascontiguousarray(bits.astype("<i4", copy=False)).view(np.uint8)
    return np.unpackbits(little, count=size, bitorder="little").view(np.bool_)


class _Threads:
    """The worker that computes masks beside the engines, and llguidance's own; made when needed,
    and anew in a process that was forked."""

    def __init__(self) -> None:
        self._renew()
        on_fork(self, _Threads._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[ThreadPoolExecutor, Any] | None = None

    def get(self) -> tuple[ThreadPoolExecutor, Any]:
        from llguidance import LLExecutor

        with self._lock:
            if self._made is None:
                worker = ThreadPoolExecutor(1, thread_name_prefix="lorakit-masks")
                self._made = (worker, LLExecutor(1))
            return self._made


_THREADS = _Threads()


def _worker() -> ThreadPoolExecutor:
    return _THREADS.get()[0]


def _executor() -> Any:
    return _THREADS.get()[1]
