"""How a batch is laid out: every token once where it is shared, every pair to be learnt listed."""

import random

import pytest

from lorakit.training.core.rows import PADDED, pack


class Row:
    def __init__(self, ids, answers=None):
        self.ids = tuple(ids)
        self.answers = answers or (False, *[True] * (len(self.ids) - 1))


def read_back(packed):
    """The pairs of each example as (tokens up to a state, label), from what attention would see."""
    seen = {}
    for group in packed.groups:
        prefix = list(range(group.start, group.start + group.prefix))
        for at in range(group.prefix):
            seen[prefix[at]] = prefix[: at + 1]
        for tails in group.tails:
            for start, length in zip(tails.starts, tails.lengths, strict=True):
                for at in range(length):
                    seen[start + at] = prefix + list(range(start, start + at + 1))
    assert sorted(seen) == list(range(len(packed.ids)))
    for at, before in seen.items():
        assert [packed.positions[i] for i in before] == list(range(len(before))), at
    return sorted(
        (tuple(packed.ids[i] for i in seen[state]), label)
        for state, label in zip(packed.states, packed.labels, strict=True)
    )


def wanted(rows):
    return sorted(
        (row.ids[:at], row.ids[at])
        for row in rows
        for at in range(1, len(row.ids))
        if row.answers[at]
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_pair_stands_in_its_own_context(seed):
    draw = random.Random(seed)
    rows = []
    for _ in range(draw.randint(1, 9)):
        ids = [draw.randrange(3) for _ in range(draw.randint(1, 12))]
        rows.append(Row(ids, tuple(draw.random() < 0.6 for _ in ids)))
    keys = [draw.choice("ab") for _ in rows] if seed % 2 else None
    packed = pack(rows, keys)
    assert read_back(packed) == wanted(rows)
    if keys:
        owners = {keys[i] for i in packed.owner}
        assert owners <= set("ab")


def test_shared_tokens_stand_once():
    common = tuple(range(50))
    packed = pack([Row((*common, 90 + i, 7)) for i in range(4)])
    assert len(packed.ids) == 50 + 4 * 2
    (group,) = packed.groups
    assert (group.start, group.prefix) == (0, 50)
    assert len(pack([Row((*common, 90 + i, 7)) for i in range(4)], "abcd").ids) == 4 * 52


def test_prefixes_of_their_own_are_worth_a_group():
    first, second = tuple(range(50)), tuple(range(100, 140))
    rows = [Row((1, *common, 200 + i)) for i in range(3) for common in (first, second)]
    packed = pack(rows)
    assert [group.prefix for group in packed.groups] == [51, 41]
    assert len(packed.ids) == 51 + 41 + 6


def test_groups_that_would_hold_more_tokens_are_not_made():
    common = tuple(range(10, 20))
    rows = [Row((*common, 30 + i % 2, 50 + i, 3)) for i in range(6)]
    (group,) = pack(rows).groups
    assert group.prefix == 10


def test_tails_of_unlike_length_are_not_padded_to_each_other():
    rows = [Row(range(i, i + n)) for i, n in ((0, PADDED + 60), (500, PADDED + 50), (900, 9))]
    (group,) = pack(rows).groups
    assert [tails.lengths for tails in group.tails] == [(PADDED + 60, PADDED + 50), (9,)]
