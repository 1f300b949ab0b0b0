"""What changed modules compute: linear layers, embedding tables, vocabulary heads and experts.

Each function here makes a forward hook (or a forward) for one module and one set of adapters. The
arithmetic is PEFT's: W0 is the base's weight or its replacement, and each adapter in turn makes
W + s B A of W, or g (W + s B A) with DoRA's gain g = m / |W0 + s B A| (Liu et al. 2024). Products
B A are formed in chunks for the norms alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every torch program
from transformers.pytorch_utils import Conv1D

from lorakit.engines.torch.parts import Term

CHUNK = 1 << 24  # elements of B A formed at once
Hook = Callable[[Any, tuple[Any, ...], Any], Any]
Rows = tuple[Any, Any] | None  # replaced rows of a vocabulary matrix: ids [n], values [n, hidden]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """A Term at the scale of one adapter set; `gain` is DoRA's m / |W|."""

    term: Term
    scale: float
    gain: Any = None

    def low(self, x: Any) -> Any:
        """s B A x."""
        return F.linear(F.linear(x, self.term.a), self.term.b) * self.scale

    def shifted(self, y: Any, x: Any) -> Any:
        """y with B's bias, which no gain multiplies."""
        if self.term.bias is not None:
            y = y + self.term.bias * self.scale
        if self.term.row_bias is not None:
            y = y + (x @ self.term.row_bias)[..., None] * self.scale
        return y

    def looked_up(self, tokens: Any, rows: Any) -> Any:
        """What becomes of rows of an embedding matrix, those of these tokens, but for B's bias."""
        rows = rows + F.linear(F.embedding(tokens, self.term.b), self.term.a.T) * self.scale
        if self.gain is None:
            return rows
        return rows * (self.gain if self.term.by_input else self.gain[tokens][..., None])


Changes = Sequence[Change]


def changed_output(changes: Changes, x: Any, plain: Any, project: Callable[[Any], Any]) -> Any:
    """What a module gives after all changes, where plain = W0 x = project(x)."""
    y = _product(changes, x, plain, project)
    for change in changes:
        y = change.shifted(y, x)
    return y


def _product(changes: Changes, x: Any, plain: Any, project: Callable[[Any], Any]) -> Any:
    """W x, from the last change down: a gain of its inputs acts on all before it."""
    if not changes:
        return plain
    *before, change = changes
    if change.gain is not None and change.term.by_input:
        x = change.gain * x
        plain = project(x)
    y = _product(before, x, plain, project) + change.low(x)
    return y if change.gain is None or change.term.by_input else change.gain * y


def linear(changes: Changes) -> Hook:
    """For nn.Linear and Conv1D."""

    dora = any(change.gain is not None for change in changes)

    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        x, bias = arguments[0], module.bias
        plain = output - bias if dora and bias is not None else output
        y = changed_output(changes, x, plain, _projection(module))
        return y + bias if dora and bias is not None else y

    return hook


def _projection(module: Any) -> Callable[[Any], Any]:
    return lambda x: F.linear(x, oriented(module, module.weight))


def table(changes: Changes, rows: Rows) -> Hook:
    """For the embedding lookup; Gemma's scales what it looked up."""

    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        tokens = arguments[0]
        plain = F.embedding(tokens, module.weight)
        if rows is not None:
            ids, values = rows
            at = torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)
            plain = torch.where((ids[at] == tokens)[..., None], values[at], plain)
        for change in changes:
            plain = change.looked_up(tokens, plain)
        for change in changes:
            if change.term.row_bias is not None:
                plain = plain + change.term.row_bias * change.scale
        return plain * getattr(module, "embed_scale", 1.0)

    return hook


def head(changes: Changes, rows: Rows) -> Hook:
    """For the projection to the vocabulary."""

    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        def project(x: Any) -> Any:
            return replaced(F.linear(x, module.weight), x)

        def replaced(y: Any, x: Any) -> Any:
            return y if rows is None else y.index_copy(-1, rows[0], F.linear(x, rows[1]))

        x = arguments[0]
        plain = replaced(output if module.bias is None else output - module.bias, x)
        y = changed_output(changes, x, plain, project)
        return y if module.bias is None else y + module.bias

    return hook


def experts(module: Any, changes: Mapping[str, Changes]) -> Callable[..., Any]:
    """A forward for transformers' stack of experts, whose weights are [experts, out, in]."""

    def added(name: str, expert: int, x: Any) -> Any:
        total = 0.0
        for change in changes.get(name, ()):
            term = change.term
            low = F.linear(F.linear(x, term.a[expert]), term.b[expert])
            total = total + (low if term.bias is None else low + term.bias) * change.scale
        return total

    def forward(hidden: Any, chosen: Any, weights: Any) -> Any:
        """hidden [tokens, hidden]; chosen and weights [tokens, experts per token]."""
        result = torch.zeros_like(hidden)
        for expert in chosen.unique().tolist():
            token, place = torch.where(chosen == expert)
            x = hidden[token]
            gate, up = F.linear(x, module.gate_up_proj[expert]).chunk(2, dim=-1)
            gate, up = gate + added("gate_proj", expert, x), up + added("up_proj", expert, x)
            inner = module.act_fn(gate) * up
            down = F.linear(inner, module.down_proj[expert]) + added("down_proj", expert, inner)
            result.index_add_(0, token, down * weights[token, place, None])
        return result

    return forward


def oriented(module: Any, weight: Any) -> Any:
    """A module's weight as [out, in], which Conv1D holds the other way round."""
    return weight.T if isinstance(module, Conv1D) else weight


def gain(weight: Any, term: Term, scale: float) -> Any:
    """DoRA's m / |W0 + s B A|, of rows or (by_input) of columns; 0 where the norm is 0."""
    step = max(1, CHUNK // weight.shape[1])
    squares = []
    for at in range(0, len(weight), step):
        part = weight[at : at + step] + scale * (term.b[at : at + step] @ term.a)
        squares.append(part.square().sum(dim=0 if term.by_input else 1))
    total = torch.stack(squares).sum(dim=0) if term.by_input else torch.cat(squares)
    return torch.where(total > 0, term.magnitude / total.sqrt(), 0.0)


def changed(weight: Any, changes: Changes) -> Any:
    """W0 + sum of dW, formed in full: for small matrices in modules of their own kind."""
    for change in changes:
        weight = weight + change.scale * (change.term.b @ change.term.a)
        if change.gain is not None:
            weight = change.gain[:, None] * weight
    return weight
