"""What one render may use: steps of work, bytes of memory, CPU time.

Limits are counts, so that they do not depend on the machine; the thread's CPU time stands behind
them. Bytes are never given back when a value dies, since Python does not say when: the sum of all
that was made bounds what can be alive. Only what an operation made for itself is released.

It knows which values a template can hold and how large they are, and no operation on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, NoReturn

from jinja2 import Undefined

WORK = 1_000_000  # steps: a loop turn, a call, 64 characters handled
WORK_PER_ITEM = 1_500  # more for each message and tool that there is to render
MAX_WORK = 4_500_000  # for any conversation
MAX_BYTES = 160 << 20  # of all values made
MAX_VALUE = 16 << 20  # characters or items of one value
MAX_INTEGER = 4096  # bits
MAX_NESTING = 100  # levels of lists and objects within each other
MAX_KEY = 1 << 60  # larger integers can be chosen so that their hashes collide
MAX_CPU = 5.0  # seconds of the rendering thread
OBJECT = 128  # bytes counted for any value beside its content; Python's own need 28 to 100
CHECK = 64  # steps between two looks at the clock

Views: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
HOLDERS: tuple[type[Any], ...] = (list, tuple, dict, *Views)  # of other values
SEQUENCES: tuple[type[Any], ...] = (str, range, Undefined, *HOLDERS)  # known in full
Cursor: type[Any] = type(iter([]))  # what filters give that read a list item by item
_LONG = 64  # characters, from which on a string's size tells its width well enough


class LimitError(Exception):
    """The template needs more work, output or memory than a chat template may."""


class Budget:
    """What one render may still use, and what it must clear when it ends."""

    __slots__ = ("allowed", "bytes", "check", "clear", "deadline", "work")

    def __init__(self, items: int = 0) -> None:
        self.work = self.allowed = min(WORK + WORK_PER_ITEM * items, MAX_WORK)
        self.bytes = MAX_BYTES
        self.deadline = time.thread_time() + MAX_CPU
        self.check = self.work - CHECK
        self.clear: list[Callable[[], None]] = []

    def spend(self, steps: int) -> None:
        self.work -= steps
        if self.work < self.check:
            self._look()

    def _look(self) -> None:
        self.check = self.work - CHECK
        if self.work < 0:
            raise LimitError(f"more than {self.allowed} steps of work")
        if time.thread_time() > self.deadline:
            raise LimitError(f"more than {MAX_CPU:.0f} seconds of work")


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def budgeted(items: int = 0) -> Iterator[None]:
    """A fresh budget for what runs inside, compilation included.

    items: how many messages and tools there are to render.
    """
    budget = Budget(items)
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)
        for clear in budget.clear:
            clear()


def at_end(clear: Callable[[], None]) -> None:
    """Have something cleared when the render ends, so that no cycle keeps its values alive."""
    _budget.get().clear.append(clear)


def spend(steps: int) -> None:
    """Draw steps of work. Raises LimitError."""
    _budget.get().spend(steps)


def allocate(size: int) -> None:
    """Draw bytes for a value that is about to be made. Raises LimitError."""
    budget = _budget.get()
    budget.bytes -= size
    if budget.bytes < 0:
        raise LimitError(f"more than {MAX_BYTES >> 20} MiB of values")


def release(size: int) -> None:
    """Give back bytes of something that an operation made for itself and dropped."""
    _budget.get().bytes += size


def width(text: str) -> int:
    """Bytes of memory for each character, never too few."""
    if text.isascii():
        return 1
    if len(text) <= _LONG:
        highest = ord(max(text))
        return 1 if highest < 256 else 2 if highest < 65536 else 4
    size = (str.__sizeof__(text) - 80) // len(text)
    return 1 if size < 1 else 2 if size < 2 else 4


def read(text: str) -> None:
    """Draw for looking at every character of a text."""
    spend(1 + (len(text) >> 6))


def make_text(length: int, wide: int) -> int:
    """Draw for a text that is about to be made; returns the bytes drawn."""
    check_size(length)
    spend(1 + (length >> 6))
    size = OBJECT + length * wide
    allocate(size)
    return size


def make_items(count: int, each: int = 8) -> int:
    """Draw for a list that is about to be made; each: bytes for an item."""
    check_size(count)
    spend(1 + (count >> 3))
    size = OBJECT + count * each
    allocate(size)
    return size


def made(drawn: int, result: str) -> str:
    """A text for which more was drawn than it turned out to need."""
    release(drawn - OBJECT - len(result) * width(result))
    return result


def check_size(size: int) -> None:
    if size > MAX_VALUE:
        raise LimitError(f"a value of {size} characters or items; {MAX_VALUE} is the limit")


def check_integer(bits: int) -> None:
    if bits > MAX_INTEGER:
        raise LimitError(f"an integer of more than {MAX_INTEGER} bits")


def check_key(key: object) -> None:
    """Draw for hashing a key. Containers as keys, and integers that could be chosen so that
    hashes collide, are refused: their cost is not in proportion to their number."""
    if isinstance(key, str):
        read(key)
    elif isinstance(key, int):
        if not -MAX_KEY < key < MAX_KEY:
            raise LimitError("an integer of more than 60 bits as a key")
    elif isinstance(key, list | dict):
        raise TypeError(f"unhashable type: '{type(key).__name__}'")
    elif isinstance(key, tuple):
        raise LimitError("a tuple as a key")


def weigh(value: object) -> int:
    """Draw for looking at all that a value holds, shared parts as often as they occur; returns
    the steps drawn."""
    steps = 1
    spend(1)
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if isinstance(item, str):
                more = len(item) >> 6
            elif isinstance(item, HOLDERS):
                more = 1 + len(item)
                check_depth(len(stack))
                stack.append(chain(item, item.values()) if isinstance(item, dict) else iter(item))
            else:
                continue
            steps += more
            spend(more)
            if not isinstance(item, str):
                break
        else:
            stack.pop()
    return steps


def check_depth(depth: int) -> None:
    if depth > MAX_NESTING:
        raise LimitError(f"values nested deeper than {MAX_NESTING} levels")


def no_iteration(value: object) -> NoReturn:
    raise TypeError(f"'{type(value).__name__}' object is not iterable")


def items_of(value: Any) -> list[Any]:
    """The items of what a template can iterate over, as a list that was drawn for."""
    if isinstance(value, str):
        make_items(len(value), 8 if value.isascii() else 8 + OBJECT)
    elif isinstance(value, Cursor):
        make_items(value.__length_hint__())
    elif not isinstance(value, SEQUENCES):
        no_iteration(value)
    elif not isinstance(value, Undefined):
        make_items(len(value), 8 + OBJECT if isinstance(value, Views[2]) else 8)
    return list(value)


def is_undefined(value: object) -> bool:
    return isinstance(value, Undefined)


def search_cost(length: int, needle: int) -> int:
    """Steps to find a text in another, or all its occurrences. CPython searches forward in linear
    time where that pays; else, as it may be for short texts, in the product of the lengths."""
    steps = needle if length < 30_000 else min(needle, 16)
    return 1 + ((length + needle) >> 6) + (length * steps >> 10)


def reverse_cost(length: int, needle: int) -> int:
    """Steps to find a text from the end: CPython has no linear way of doing so."""
    return 1 + ((length + needle) >> 6) + (length * needle >> 10)
