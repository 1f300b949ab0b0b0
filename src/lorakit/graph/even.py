"""Rows made even before they are multiplied in few bits.

One large value coarsens all that share its scale, and what a decoder's linears read has channels
that are large for every token, and single values that are larger still. So a row is made even
first: its channels are divided by what a text has shown of them (`balanced`), and rotated in small
blocks, which spreads a large value over its block. The weights undo both, once and for all, and
what is large in them is spread alike. Only the product in few bits sees that: adapters read what
the model computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.graph.writer import Writer

BLOCK = 32  # most channels that are rotated together; larger blocks cost more than they gain
LEAST = 0.01  # of the mean: how small a channel is taken to be at least
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a text has shown of an input x of linears.

    divisors: [in], of its channels. feedback: [in, in], of x made even, for graph.codes4; None
    where nobody asked.
    """

    divisors: Floats
    feedback: Floats | None = None


def balanced(inputs: Floats, weights: npt.NDArray[np.floating]) -> Floats:
    """Divisors of channels, from sums of squares of what they hold and of their weights.

    The error of a product grows with the norms of both its sides: it is least where each channel
    is as large on one as on the other. Their geometric mean is 1.
    """
    x, w = (np.maximum(m, max(LEAST**2 * float(m.mean()), 1e-30)) for m in (inputs, weights))
    logarithms = (np.log(x) - np.log(w)) / 4
    result: Floats = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return result


def rotation(channels: int) -> Floats:
    """A Hadamard matrix, of +1 and -1 and symmetric: its square is its size times the identity.

    As large as BLOCK, or as the channels can be cut into.
    """
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < BLOCK and channels % (2 * len(matrix)) == 0:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def make_even(weight: Floats, divisors: Floats) -> None:
    """Weights [in, out] become those for rows that `even` has made so.

    By sums, which all CPUs round alike, of one block at a time, which stays in the cache.
    """
    size = len(rotation(len(weight)))
    factors = (divisors / np.float32(size))[:, None]
    other = np.empty((size, weight.shape[1]), np.float32)
    for begin in range(0, len(weight), size):
        block = weight[begin : begin + size]
        block *= factors[begin : begin + size]
        before, after, step = block, other, 1
        while step < size:
            pairs, sums = (each.reshape(-1, 2, step, each.shape[1]) for each in (before, after))
            np.add(pairs[:, 0], pairs[:, 1], sums[:, 0])
            np.subtract(pairs[:, 0], pairs[:, 1], sums[:, 1])
            before, after, step = after, before, 2 * step
        if before is other:
            block[:] = other


def evened_moments(moments: Floats, divisors: Floats) -> Floats:
    """The sum of x x^T [in, in] as it is of x made even."""
    turn = rotation(len(divisors))
    cut = (-1, len(turn), len(divisors) // len(turn), len(turn))
    blocks = (moments / np.outer(divisors, divisors)).reshape(cut).swapaxes(1, 2)
    return np.ascontiguousarray((turn @ blocks @ turn).swapaxes(1, 2)).reshape(moments.shape)


def even(writer: Writer, x: str, divisors: Floats, dtype: type[np.floating] = np.float32) -> str:
    """x divided and rotated, once for all readers of x.

    In float16 it is also divided by the rotation's size, so that no sum is beyond that.
    """
    name = f"{x}.even"
    if not writer.has(name):
        turn = rotation(len(divisors)).astype(dtype)
        divided = divisors * np.float32(len(turn) if dtype == np.float16 else 1)
        factors = (np.float32(1) / divided).astype(dtype)
        scaled = writer.node("Mul", [x, writer.weight(f"{x}.factors", factors)], f"{x}.scaled")
        blocks = writer.node("Reshape", [scaled, writer.shape(0, -1, len(turn))], f"{x}.blocks")
        half = ".float16" if dtype == np.float16 else ""
        matrix = writer.weight(f"rotation.{len(turn)}{half}", turn)
        turned = writer.node("MatMul", [blocks, matrix], f"{x}.turned")
        writer.node("Reshape", [turned, writer.shape(0, -1, len(divisors))], name)
    return name


def uneven(writer: Writer, x: str, divisors: Floats, scale: float = 1.0) -> str:
    """What rows of weights made even were before, times a scale."""
    size = len(rotation(len(divisors)))
    blocks = writer.node("Reshape", [x, writer.shape(0, -1, size)], f"{x}.blocks")
    matrix = writer.weight(f"rotation.{size}", rotation(len(divisors)))
    turned = writer.node("MatMul", [blocks, matrix], f"{x}.turned")
    joined = writer.node("Reshape", [turned, writer.shape(0, -1, len(divisors))], f"{x}.joined")
    factors = writer.weight(f"{x}.factors", np.float32(scale) / divisors)
    return writer.node("Mul", [joined, factors], f"{x}.uneven")
