"""The tensors of a PEFT file, sorted by what they are and the module they belong to.

Names are ``base_model.model.<module>.<suffix>``; the suffixes are those that peft 0.21 writes
(peft/utils/save_and_load.py). A state dict that was saved by itself also has the adapter's name in
them, ``lora_A.default.weight``, and the steps of whatever wrapped the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from lorakit.adapter import Array
from lorakit.architectures import is_seeing
from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats.folder import is_name
from lorakit.formats.names import unwrapped

PREFIX = "base_model.model."

# What a tensor is, by the end of its name; the first that fits counts.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "embedding a",
    ".lora_embedding_B": "embedding b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".token_adapter.trainable_tokens_delta": "rows",
    ".token_adapter.base_layer.weight": "base weight",
    ".base_layer.weight": "base weight",
    ".base_layer.bias": "base bias",
    ".modules_to_save.weight": "saved weight",
    ".modules_to_save.bias": "saved bias",
}
_PATH = re.compile(r"[^./\\]+(?:\.[^./\\]+)*")
DEFAULT = "default"  # what PEFT calls an adapter where nobody does
_NAMED = (
    *(".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector"),
    *(".modules_to_save", ".token_adapter.trainable_tokens_delta"),
)
# An adapter's name that has dots in it, as no module of torch may be called.
_DOTTED = re.compile(
    r"(\.lora_[AB])\.((?!weight\.|bias\.)[^.]+(?:\.[^.]+)+)(\.weight|\.bias)"
    r"|(\.lora_(?:embedding_[AB]|magnitude_vector))\.((?!weight\.)[^.]+(?:\.[^.]+)+?)(\.weight|)"
)
# PEFT cut ".lora" out of every name where the adapter was called so: lora_A.lora.weight.
_CUT = re.compile(r"(.+)_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias|)")
UNREADABLE = {
    ".lora_diag": "KaSA's diagonal",
    ".lora_E": "AdaLoRA's singular values",
    ".lora_ranknum": "AdaLoRA's rank",
}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_FLOATS = frozenset(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)))


@dataclass(slots=True)
class Parts:
    """Tensors by what they are and the module they belong to."""

    where: str = ""  # the adapter's name in errors
    by_kind: dict[str, dict[str, Array]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    renamed: tuple[tuple[str, str], ...] = ()  # as in adapter.Reading
    written_by: str | None = None  # the version of PEFT that the card beside them names

    def of(self, kind: str) -> Mapping[str, Array]:
        return self.by_kind.get(kind, {})

    def take(self, module: str) -> tuple[Array, Array] | None:
        """A and B of a module, out of the table; None where there are not both."""
        if module not in self.of("a") or module not in self.of("b"):
            return None
        return self.by_kind["a"].pop(module), self.by_kind["b"].pop(module)

    def put(self, kind: str, module: str, key: str, array: Array) -> None:
        if module in self.by_kind.setdefault(kind, {}):
            self.faults.append(f"{key}: a second tensor for the same part of {module}")
        self.by_kind[kind][module] = array


def sort(
    tensors: Mapping[str, Array], *, where: str, name: str | None = None, mend: bool = False
) -> Parts:
    """Sort the tensors of a file.

    name: of the one adapter that counts, where the file holds several. mend: read names that PEFT
    cut, too. Raises UnsupportedError where several adapters are in the file and none is named, and
    FormatError for cut names.
    """
    parts = Parts(where=where)
    plain = {}
    for key in tensors:
        if is_name(key):
            plain[key] = unwrapped(key)
        else:
            parts.faults.append(f"{key[:80]!a}: not a tensor name")
    table = _of_one(_uncut(plain, where, mend), where, name)
    parts.renamed = _changes(table)
    copies = {name: key for key, name in table.items() if _COPY in name}
    for key, cleaned in table.items():
        if copies and _is_again(key, cleaned, copies, tensors):
            continue
        kind, module = _classify(cleaned)
        fault = _fault(kind, module, tensors[key])
        if fault:
            parts.faults.append(f"{key}: {fault}")
        else:
            parts.put(kind, module, key, tensors[key])
    return parts


_COPY, _ORIGINAL = ".modules_to_save", ".original_module"


def _is_again(
    key: str, cleaned: str, copies: Mapping[str, str], tensors: Mapping[str, Array]
) -> bool:
    """Whether a tensor says nothing more, as PEFT saves a whole vocabulary that was resized: beside
    the trained copy the original, which is the base's, and the copy under the module's own name."""
    module, _, kind = cleaned.rpartition(".")
    plain = module.removesuffix(_ORIGINAL)
    copy = copies.get(f"{plain}{_COPY}.{kind}")
    if copy is None or module.endswith(_COPY):
        return False
    return module != plain or np.array_equal(tensors[key], tensors[copy])


def _uncut(names: Mapping[str, str], where: str, mend: bool) -> dict[str, str]:
    """The names with ``.lora`` put back where PEFT cut it out: q_proj_A.weight."""
    if any(".lora_" in name for name in names.values()):
        return dict(names)
    found = {key: match for key, name in names.items() if (match := _CUT.fullmatch(name))}
    stems = {kind: {m[1] for m in found.values() if m[2].endswith(kind)} for kind in ("A", "B")}
    whole = stems["A"] & stems["B"]
    if not whole:
        return dict(names)
    if not mend:
        stem = min(whole)
        raise FormatError(
            f"{where}: PEFT cut the word lora out of its names, as it did where an adapter was "
            "called lora; PEFT itself finds no adapter in it",
            items=[f"{stem}_A is {stem}.lora_A"],
            hint=f"lorakit repair {where} -o OUT writes it as it was meant",
        )
    return {
        key: f"{m[1]}.lora_{m[2]}{m[3]}" if (m := found.get(key)) and m[1] in whole else plain
        for key, plain in names.items()
    }


def _of_one(names: Mapping[str, str], where: str, name: str | None) -> dict[str, str]:
    """The names without that of the adapter, of which the file may hold several."""
    found = {key: named for key, plain in names.items() if (named := _named(plain))}
    adapters = sorted({who for stem, who, _ in found.values() if ".lora_" in stem})
    if name is None and len(adapters) > 1:
        raise UnsupportedError(
            f"{where} holds {len(adapters)} adapters in one file",
            items=adapters[:20],
            hint=f"choose one: lorakit repair {where} -o OUT --name {adapters[0]} writes it alone; "
            f"read_adapter(..., name={adapters[0]!r}) reads it",
        )
    if name is not None and adapters and name not in adapters:
        raise UnsupportedError(f"{where} holds no adapter called {name!r:.80}", items=adapters[:20])
    own = name if name is not None else adapters[0] if adapters else DEFAULT
    table = {}
    for key, plain in names.items():
        stem, who, end = found.get(key, ("", "", ""))
        if who == own and who:
            table[key] = stem + end
        elif who not in (DEFAULT, *adapters):
            table[key] = plain
    return table


def _named(name: str) -> tuple[str, str, str] | None:
    """A tensor's name in three: before the adapter's name, that name, and after; None: without."""
    stem, _, end = name.rpartition(".")
    who, end = end, ""
    if who in ("weight", "bias"):
        end = f".{who}"
        stem, _, who = stem.rpartition(".")
    if stem.endswith(_NAMED):
        return stem, who, end
    at = name.find(".lora_")
    if at < 0 or (found := _DOTTED.fullmatch(name, at)) is None:
        return None
    pairs = zip(found.group(1, 2, 3), found.group(4, 5, 6), strict=True)
    part, who, end = (one or other or "" for one, other in pairs)
    return name[:at] + part, who, end


def _changes(table: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """How names were changed, each way once: what stood there and what stands there now."""
    found = set()
    for key, cleaned in table.items():
        plain = key.removeprefix(PREFIX)
        if plain != cleaned:
            found.add(_difference(plain, cleaned))
    return tuple(sorted(found))


def _difference(before: str, after: str) -> tuple[str, str]:
    """The steps in which two names differ."""
    a, b = before.split("."), after.split(".")
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return ".".join(a), ".".join(b)


def _classify(name: str) -> tuple[str, str]:
    """What a tensor is and its module, or ("", reason) for one that cannot be read."""
    for end, kind in PARTS.items():
        if name.endswith(end) and len(name) > len(end):
            return kind, name[: -len(end)]
    for end, reason in UNREADABLE.items():
        if end in name:
            return "", f"{reason} cannot be read"
    if ".lora_" in name or ".base_layer." in name:
        return "", "a part that lorakit does not know"
    for end, kind in ((".weight", "saved weight"), (".bias", "saved bias")):
        if name.endswith(end) and len(name) > len(end):
            return kind, name[: -len(end)]
    if is_seeing(name):
        return "saved parameter", name  # a projector's matrix has a name of its own
    return "", "not part of any LoRA layer that lorakit knows"


def _fault(kind: str, module: str, array: Array) -> str:
    if not kind:
        return module
    if not _PATH.fullmatch(module):
        return "not a module name"
    if array.dtype not in _FLOATS:  # `dtype.name` is slow
        if array.dtype.name.startswith("float8"):
            return f"{array.dtype.name}: eight bits without the scale that they need; save as bf16"
        return f"dtype {array.dtype.name} where floating point is expected"
    if 0 in array.shape:
        return f"an empty tensor {list(array.shape)}; sharded weights that were not gathered?"
    dims = 1 if kind in ("bias", "magnitude", "base bias", "saved bias") else 2
    if array.ndim != dims and not kind.endswith((" weight", " parameter")):
        return f"expected {dims} dimensions, found {list(array.shape)}"
    return ""
