"""Which rows of a step are packed into one run of the graph.

Rows with one new token make one run, as a batch. Where some have more, each of them gets a lane of
a packed run (graph.packing), beside those with one, so that the weights are read once for all. A
long row fills a run by itself: packed, it would gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorakit.engines.protocol import Row

LONGEST = 64  # tokens of a row that is packed


def packed_rows(rows: Sequence[Row], packable: Callable[[Row], bool]) -> list[Row]:
    """Those that share packed runs; none where all that may have a single token, or but one is.

    packable: whether a row's adapters may act in one.
    """
    found = [row for row in rows if len(row.tokens) <= LONGEST and packable(row)]
    if len(found) < 2 or all(len(row.tokens) == 1 for row in found):
        return []
    return found


def groups(rows: Sequence[Row], slot: Callable[[int], int], lanes: int) -> list[list[Row]]:
    """Rows in the order of their sequences' slots, in as many runs as the lanes ask for."""
    ordered = sorted(rows, key=lambda row: slot(row.sequence))
    return [ordered[begin : begin + lanes] for begin in range(0, len(ordered), lanes)]
