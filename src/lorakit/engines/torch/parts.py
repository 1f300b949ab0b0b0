"""An attached adapter: its arrays as tensors on the device, by where in the model they act.

Every low-rank change is held for a weight [out, in] in the orientation of the checkpoint, so for an
embedding matrix [vocabulary, hidden] too. No product B A is formed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.adapter import Adapter, Array, Delta, Replacement, Site
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.engines.replaced import uses
from lorakit.errors import CapabilityError

EXPERTS = ("gate_proj", "up_proj", "down_proj")  # the projections that a stack of experts holds
LINEAR = (nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """W + scale * b @ a with a [r, in], b [out, r]; of experts [E, r, in] and [E, out, r].

    bias [out] and row_bias [in] are B's own bias: added to the output, or to every row of an
    embedding matrix. magnitude is DoRA's, one for each row of W or, by_input, for each column.
    """

    a: Any
    b: Any
    scale: float
    bias: Any = None
    row_bias: Any = None
    magnitude: Any = None
    by_input: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the modules and parameters of an adapter are found in a transformers model."""

    model: Any
    table: str  # the embedding's name
    tied: bool

    @classmethod
    def of(cls, model: Any, base: Base) -> Places:
        return cls(model=model, table=base.decoder.embedding, tied=base.decoder.tied)

    def module(self, name: str) -> Any:
        """A module by its canonical name. Raises CapabilityError where there is none."""
        try:
            return self.model.get_submodule(name)
        except AttributeError as error:
            raise _elsewhere(name) from error

    def parameter(self, name: str) -> Any:
        """A parameter by its canonical name. Raises CapabilityError where there is none."""
        try:
            return self.model.get_parameter(name)
        except AttributeError as error:
            raise _elsewhere(name) from error

    def uses(self, name: str, site: Site | None) -> list[str]:
        """The parameters of the model that a replacement of `name` takes the place of."""
        return uses(name, site, self.table, tied=self.tied)


def _elsewhere(name: str) -> CapabilityError:
    return CapabilityError(
        f"{name} is no part of its own in the transformers model",
        hint="merge the adapter into the base and open the merged model",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What one adapter changes, by kind of module."""

    linears: dict[str, Term] = field(default_factory=dict)  # through F.linear, by module
    matrices: dict[str, Term] = field(default_factory=dict)  # in modules of another kind
    experts: dict[str, dict[str, Term]] = field(default_factory=dict)  # by module and projection
    tables: dict[str, list[Term]] = field(default_factory=dict)  # lookups, by module
    heads: list[Term] = field(default_factory=list)  # of the projection to the vocabulary
    values: dict[str, Any] = field(default_factory=dict)  # replaced parameters
    rows: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # of tables, head: ids, values

    @property
    def replaced(self) -> set[str]:
        """Names of the parameters of which it replaces all or some."""
        return {*self.values, *self.rows}

    @classmethod
    def of(cls, adapter: Adapter, places: Places, device: Any) -> Attached:
        """Raises CapabilityError for what no weight of the model answers to."""
        put = Putter(device)
        self = cls()
        for replacement in sorted(adapter.replacements, key=lambda r: r.rows is not None):
            self._replace(replacement, places, put)
        magnitudes = {m.module: put(m.value) for m in adapter.magnitudes}
        for delta in adapter.deltas:
            self._change(delta, places, put, magnitudes.get(delta.module))
        return self

    def _replace(self, replacement: Replacement, places: Places, put: Putter) -> None:
        """Whole parameters first; rows of a vocabulary matrix are kept apart, not filled in."""
        value = put(replacement.value)
        for name in places.uses(replacement.name, replacement.site):
            parameter = places.parameter(name)
            if replacement.rows is None:
                self.values[name] = value
                continue
            ids = torch.tensor(replacement.rows.astype(np.int64), device=value.device)
            module = name.rpartition(".")[0]
            if module == HEAD or isinstance(places.module(module), nn.Embedding):
                self.rows[name] = (ids, value)
            else:
                self.values[name] = self.values.get(name, parameter).clone()
                self.values[name][ids] = value

    def _change(self, delta: Delta, places: Places, put: Putter, magnitude: Any) -> None:
        a, b, bias = put(delta.a), put(delta.b), put.optional(delta.bias)
        term = Term(a=a, b=b, scale=delta.scale, bias=bias, magnitude=magnitude)
        if delta.a.ndim == 3:
            self._change_experts(delta.module, term, places)
            return
        module = places.module(delta.module)
        if isinstance(module, nn.Embedding):
            self._change_table(delta, a, b, bias, magnitude)
        elif delta.module == HEAD:
            self.heads.append(term)
        elif isinstance(module, LINEAR):
            self.linears[delta.module] = term
        elif bias is None:
            self.matrices[delta.module] = term
        else:
            raise _elsewhere(f"a bias of {delta.module}")

    def _change_experts(self, name: str, term: Term, places: Places) -> None:
        parent, _, leaf = name.rpartition(".")
        module = places.module(parent)
        if leaf not in EXPERTS or not hasattr(module, "gate_up_proj"):
            raise _elsewhere(name)
        if term.magnitude is not None:
            raise _elsewhere(f"{name}: a DoRA magnitude of experts")
        self.experts.setdefault(parent, {})[leaf] = term

    def _change_table(self, delta: Delta, a: Any, b: Any, bias: Any, magnitude: Any) -> None:
        """PEFT's magnitude of an embedding is over its hidden axis, MLX's over its vocabulary."""
        hidden = delta.in_features if delta.site is Site.OUTPUT else delta.out_features
        by_input = magnitude is not None and len(magnitude) == hidden
        shared = {"scale": delta.scale, "magnitude": magnitude, "by_input": by_input}
        if delta.site is Site.OUTPUT:
            self.heads.append(Term(a=a, b=b, bias=bias, **shared))
            return
        term = Term(a=b.T, b=a.T.contiguous(), row_bias=bias, **shared)
        self.tables.setdefault(delta.module, []).append(term)
        if delta.site is Site.BOTH:
            self.heads.append(term)


@dataclass(frozen=True, slots=True)
class Putter:
    """Copies arrays of any float dtype to a device as float32."""

    device: Any

    def __call__(self, array: Array) -> Any:
        return torch.tensor(np.ascontiguousarray(array, np.float32), device=self.device)

    def optional(self, array: Array | None) -> Any:
        return None if array is None else self(array)


AttachedSet = Mapping[int, Attached]  # by handle
