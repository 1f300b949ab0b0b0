"""Which rows of a step are packed into one run of the graph, and whether that is worth it.

Rows with one new token make one run, as a batch. Where some have more, each of them gets a lane of
a packed run (graph.packing), beside those with one, so that the weights are read once for all. A
long row fills a run by itself: packed, it would gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lorakit.engines.protocol import Row

MAX_NEW = 512  # new tokens in one run of the graph; bounds the memory of a run
QUERIES = 128  # in a block of attention
LONGEST = 64  # tokens of a row that is packed
SAVED = 0.8  # of a run of the graph, for each that packing spares
PAID = 0.08  # of a run, by each run of a batch in a graph with lanes
OPENING = 30.0  # how many runs a session takes to open


@dataclass(slots=True)
class Worth:
    """Whether lanes have earned what they cost: a session with them takes some time to open, and
    is a little slower where nothing is packed. Counted in runs of the graph.

    balance: what they would have saved, or have saved, lately. settled: whether all stays as it is.
    """

    opening: float = OPENING
    balance: float = 0.0
    settled: bool = False

    def opened(self, spared: int) -> bool:
        """Whether to have lanes from now on, at a step in which they spare so many runs."""
        self.balance = min(self.balance + SAVED * spared, 2 * self.opening)
        return self.balance >= self.opening and not self.settled

    def closed(self) -> bool:
        """Whether to do without from now on, at a step in which nothing is packed."""
        self.balance = max(self.balance - PAID, 0.0)
        return not self.balance and not self.settled


def packed_rows(
    rows: Sequence[Row], lanes: int, packable: Callable[[Row], bool]
) -> tuple[list[Row], int]:
    """Those that share packed runs, and how many runs that spares; none where it spares none.

    packable: whether a row's adapters may act in one.
    """
    found = [row for row in rows if len(row.tokens) <= LONGEST and packable(row)]
    several = sum(len(row.tokens) > 1 for row in found)
    spared = several + (several < len(found)) - -(-len(found) // max(lanes, 1))
    return (found, spared) if several and spared > 0 else ([], 0)


def groups(rows: Sequence[Row], slot: Callable[[int], int], lanes: int) -> list[list[Row]]:
    """Rows in the order of their sequences' slots, in as many runs as lanes and memory ask for."""
    found: list[list[Row]] = []
    room = 0
    for row in sorted(rows, key=lambda row: slot(row.sequence)):
        if not found or len(found[-1]) == lanes or len(row.tokens) > room:
            found.append([])
            room = MAX_NEW
        found[-1].append(row)
        room -= len(row.tokens)
    return found


def lanes_of(slots: Sequence[int], lanes: int) -> list[int]:
    """A lane for each slot, and the same as before wherever that can be: what is bound stays so."""
    found = {slot % lanes: slot for slot in reversed(slots)}
    free = iter(sorted(set(range(lanes)) - set(found)))
    taken = {slot: lane for lane, slot in found.items()}
    return [taken[slot] if slot in taken else next(free) for slot in slots]


def chunks(count: int, apart: bool) -> Iterator[tuple[int, int]]:
    """Where a row that runs by itself is cut.

    apart: none ends with a token that attention, in blocks of queries, rounds as one alone.
    """
    for begin in range(0, count, MAX_NEW):
        end = min(begin + MAX_NEW, count)
        if apart and end - begin > 1 and (end - begin) % QUERIES == 1:
            yield begin, end - QUERIES // 2
            begin = end - QUERIES // 2
        yield begin, end
