"""The tensors of a PEFT file, sorted by what they are and the module they belong to.

Names are ``base_model.model.<module>.<suffix>``; the suffixes are those that peft 0.21 writes
(peft/utils/save_and_load.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorakit.adapter import Array
from lorakit.formats.folder import is_name

PREFIX = "base_model.model."

# What a tensor is, by the end of its name; the first that fits counts.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_A.default.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.default.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_B.default.bias": "bias",
    ".lora_embedding_A": "embedding a",
    ".lora_embedding_A.default": "embedding a",
    ".lora_embedding_B": "embedding b",
    ".lora_embedding_B.default": "embedding b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".token_adapter.trainable_tokens_delta": "rows",
    ".token_adapter.trainable_tokens_delta.default": "rows",
    ".base_layer.weight": "base weight",
    ".base_layer.bias": "base bias",
    ".modules_to_save.weight": "saved weight",
    ".modules_to_save.bias": "saved bias",
    ".modules_to_save.default.weight": "saved weight",
    ".modules_to_save.default.bias": "saved bias",
}
UNREADABLE = {
    ".lora_diag": "KaSA's diagonal",
    ".lora_E": "AdaLoRA's singular values",
    ".lora_ranknum": "AdaLoRA's rank",
}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(slots=True)
class Parts:
    """Tensors by what they are and the module they belong to."""

    by_kind: dict[str, dict[str, Array]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

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


def sort(tensors: Mapping[str, Array]) -> Parts:
    parts = Parts()
    for key, array in tensors.items():
        if not is_name(key):
            parts.faults.append(f"{key[:80]!a}: not a tensor name")
            continue
        kind, module = _classify(key.removeprefix(PREFIX))
        fault = _fault(kind, module, array)
        if fault:
            parts.faults.append(f"{key}: {fault}")
        else:
            parts.put(kind, module, key, array)
    return parts


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
    return "", "not part of any LoRA layer that lorakit knows"


def _fault(kind: str, module: str, array: Array) -> str:
    if not kind:
        return module
    if any(part in ("", "..") or "/" in part or "\\" in part for part in module.split(".")):
        return "not a module name"
    if array.dtype.name not in FLOATS:
        return f"dtype {array.dtype.name} where floating point is expected"
    if 0 in array.shape:
        return f"an empty tensor {list(array.shape)}; sharded weights that were not gathered?"
    dims = 1 if kind in ("bias", "magnitude", "base bias", "saved bias") else 2
    if array.ndim != dims and not kind.endswith(" weight"):
        return f"expected {dims} dimensions, found {list(array.shape)}"
    return ""
