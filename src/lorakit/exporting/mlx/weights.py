"""The parameters of mlx-lm's model: their names, shapes and dtypes, and where a base keeps them.

mlx-lm has the matrices of a layer's experts in one tensor, GPT-2's linears as [out, in] like
everybody's, and other names for both. Quantised is what its `convert` quantises: every matrix whose
rows are whole groups, embeddings and head too, and a router to 8 bits in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from lorakit.adapter import Array
from lorakit.architectures import Decoder, spellings
from lorakit.base.folder import Base
from lorakit.exporting.mlx.affine import GROUP
from lorakit.formats.mlx.names import native
from lorakit.formats.readback import DTYPES
from lorakit.merge.view import kept_dtype

QUANTISED = {"q8": 8, "q6": 6, "q4": 4, "q3": 3, "q2": 2}  # bits of a code
FORMS = ("none", *DTYPES, *QUANTISED)  # none: each weight keeps its dtype, as quantised ones do
COARSE = tuple(QUANTISED)
ROUTER_BITS = 8
WORD = np.dtype("<u4")
Tensors = Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter. name: mlx-lm's, without `.weight` or `.bias`, which is `kind`.

    stored: a checkpoint's names for it, one for each expert; turned: it is [in, out] there.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    stored: tuple[str, ...]
    module: str | None = None  # of a matrix
    turned: bool = False
    router: bool = False

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        return prod(self.shape) // max(self.columns, 1)

    def bits(self, form: str) -> int | None:
        """What a code has in this form; None where values stay as they are."""
        if form not in QUANTISED or self.module is None or self.columns % GROUP:
            return None
        return ROUTER_BITS if self.router else QUANTISED[form]

    def tensors(self, bits: int | None, dtype: np.dtype[np.generic]) -> Tensors:
        """What the file holds of it, in the order in which `affine.quantise` returns it."""
        name = f"{self.name}.{self.kind}"
        if bits is None:
            return {name: (dtype, self.shape)}
        rest, groups = self.shape[:-1], (*self.shape[:-1], self.columns // GROUP)
        words = (*rest, self.columns * bits // 32)
        return {
            name: (WORD, words),
            f"{self.name}.scales": (dtype, groups),
            f"{self.name}.biases": (dtype, groups),
        }


def weights(decoder: Decoder) -> list[Weight]:
    """All parameters of mlx-lm's model, in the order of the model's own."""
    modules, ways = decoder.modules(), spellings(decoder)
    sparse = decoder.architecture.layout.sparse
    routers = tuple(f".{linear.name}" for linear in sparse if linear.parts == ("router",))
    found = []
    for parameter, shape in decoder.parameters().items():
        module, _, kind = parameter.rpartition(".")
        if kind not in ("weight", "bias"):
            continue  # experts as the model class fuses them
        matrix = modules.get(module) if kind == "weight" else None
        turned = matrix is not None and matrix.transposed
        found.append(
            Weight(
                name=native(module),
                kind=kind,
                shape=shape[::-1] if turned else shape,
                stored=(parameter,),
                module=module if matrix is not None else None,
                turned=turned,
                router=module.endswith(routers),
            )
        )
    for module, matrix in modules.items():
        if matrix.experts is not None:
            found.append(
                Weight(
                    name=native(module),
                    kind="weight",
                    shape=(matrix.experts, matrix.out_features, matrix.in_features),
                    stored=tuple(part.name for part in ways[module][0]),
                    module=module,
                )
            )
    return found


def dtype_of(base: Base, weight: Weight, form: str) -> np.dtype[np.generic]:
    """What the values of a weight, or its scales, are written as."""
    if form in DTYPES:
        return DTYPES[form]
    kinds = {kept_dtype(base, name) for name in _files(base, weight)}
    dtype = kinds.pop()
    wide = bool(kinds) or (dtype == np.float64 and form in QUANTISED)
    return np.dtype(np.float32) if wide else dtype


def matrices(base: Base, weight: Weight) -> Iterator[Array]:
    """The values as mlx-lm's matrices [rows, columns], expert by expert; vectors as a column."""
    if weight.module is None:
        yield base.tensor(weight.stored[0])[:, None]
        return
    table = base.decoder.modules()[weight.module].embedding
    for part in base.stored(weight.module):
        matrix = part.view(base.tensors[part.name])
        yield from matrix if matrix.ndim == 3 else (matrix.T if table else matrix,)


def _files(base: Base, weight: Weight) -> list[str]:
    """What the base's files call it."""
    if weight.module is None:
        return [base.file_name(weight.stored[0])]
    return [part.name for part in base.stored(weight.module)]
