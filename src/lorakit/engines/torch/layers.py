"""What changed modules compute: linear layers, embedding tables, vocabulary heads and experts.

Each function here makes a forward hook (or a forward) for one module and one set of adapters. The
arithmetic is W = W0 + sum of dW, with every dW relative to W0, the base's weight or its
replacement: dW = s B A, or with DoRA's gain g = m / |W0 + s B A|: dW = (g - 1) W0 + g s B A (Liu et
al. 2024). Products B A are formed in chunks for the norms alone.
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

    def added(self, x: Any, plain: Any, project: Callable[[Any], Any]) -> Any:
        """dW x, and B's bias, where plain = W0 x = project(x)."""
        if self.gain is None:
            y = self.low(x)
        elif self.term.by_input:
            y = project((self.gain - 1) * x) + self.low(self.gain * x)
        else:
            y = (self.gain - 1) * plain + self.gain * self.low(x)
        if self.term.bias is not None:
            y = y + self.term.bias * self.scale
        if self.term.row_bias is not None:
            y = y + (x @ self.term.row_bias)[..., None] * self.scale
        return y

    def looked_up(self, tokens: Any, plain: Any) -> Any:
        """What the rows of an embedding matrix gain, where plain is those rows of W0."""
        low = F.linear(F.embedding(tokens, self.term.b), self.term.a.T) * self.scale
        if self.gain is not None:
            gain = self.gain if self.term.by_input else self.gain[tokens][..., None]
            low = (gain - 1) * plain + gain * low
        return low if self.term.row_bias is None else low + self.term.row_bias * self.scale


Changes = Sequence[Change]


def linear(changes: Changes) -> Hook:
    """For nn.Linear and Conv1D."""

    dora = any(change.gain is not None for change in changes)

    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        x, bias = arguments[0], module.bias
        plain = output - bias if dora and bias is not None else output
        for change in changes:
            output = output + change.added(x, plain, _projection(module))
        return output

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
        result = plain
        for change in changes:
            result = result + change.looked_up(tokens, plain)
        return result * getattr(module, "embed_scale", 1.0)

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
        result = plain if module.bias is None else plain + module.bias
        for change in changes:
            result = result + change.added(x, plain, project)
        return result

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
    result = weight
    for change in changes:
        low = change.scale * (change.term.b @ change.term.a)
        if change.gain is None:
            result = result + low
        else:
            result = result + (change.gain[:, None] - 1) * weight + change.gain[:, None] * low
    return result
