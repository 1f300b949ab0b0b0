"""Checkpoints whose weights are stored quantised: by which method, and what they were made from.

lorakit reads weights as plain floats, and GGUF's blocks. An adapter that was trained over a
quantised base (QLoRA) belongs to the original as well, which is what there is to open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.adapter import Array, in_order
from lorakit.errors import BaseModelError, LorakitError
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.sources.card import CARD, named_base

RECORD, MAX_RECORD = "lorakit.json", 1 << 24
METHODS = {  # quant_method of a config.json, as transformers writes it
    "bitsandbytes": "bitsandbytes", "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "fp8": "float8",
    "fbgemm_fp8": "float8", "compressed-tensors": "compressed-tensors", "mxfp4": "MXFP4",
    "hqq": "HQQ", "quanto": "Quanto", "torchao": "torchao", "aqlm": "AQLM", "eetq": "EETQ",
}  # fmt: skip
# What is hung on a repository's name where its weights are quantised, several times over.
_SUFFIX = re.compile(
    r"[-_.](?:(?:unsloth|dynamic)[-_])?(?:bnb|gptq|awq|fp8|mlx|hqq|quanto|quantized|int[48]|"
    r"w[48]a(?:8|16)|[2-8][-_]?bits?|dynamic|nf4|g128|128g|sym|marlin)$",
    re.IGNORECASE,
)
_METHOD = re.compile(
    r"(?<![a-z0-9])(?:bnb|gptq|awq|fp8|hqq|quanto|int[48]|w[48]a(?:8|16)|[2-8][-_]?bits?|nf4)"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)


def original_name(name: str) -> str:
    """What a quantised model's name says that it was made from, "x/y" of "x/y-bnb-4bit"; "" of one
    that says nothing. It is a custom of names: there need not be such a model."""
    owner, slash, last = name.rstrip("/\\").rpartition("/")
    if not _METHOD.search(last):
        return ""
    left = last
    while (cut := _SUFFIX.sub("", left)) != left and cut:
        left = cut
    return f"{owner}{slash}{left}" if left != last else ""


def require_unquantised(folder: Path, config: Mapping[str, Any]) -> None:
    """BaseModelError where a config says that its weights are quantised."""
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, Mapping) else {})
    keys = ("quantization_config", "quantization")
    said = next((found for place in places for key in keys if (found := place.get(key))), None)
    if said is None:
        return
    method = said.get("quant_method") if isinstance(said, Mapping) else None
    if not isinstance(method, str):
        method = "mlx" if isinstance(said, Mapping) and "group_size" in said else "unknown"
    called = "MLX" if method == "mlx" else METHODS.get(method, f"the method {method!r:.40}")
    raise _refused(folder, f"its weights are quantised by {called}", config)


def require_floats(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """BaseModelError where tensors are of eight bits, whose scale is elsewhere, or nowhere."""
    if found := _small(tensors):
        dtype = tensors[found[0]].dtype.name
        what = f"{len(found)} tensors such as {found[0]} are {dtype}, without the scale they need"
        raise _refused(folder, what, config)


def _small(tensors: Mapping[str, Array]) -> list[str]:
    return in_order(
        name
        for name, array in tensors.items()
        if name.endswith(".weight") and array.dtype.itemsize == 1
    )


def _refused(folder: Path, why: str, config: Mapping[str, Any]) -> BaseModelError:
    return BaseModelError(
        f"{folder}: {why}, which lorakit does not read",
        hint=_of_export(folder)
        or f"open the original, in float32, float16 or bfloat16{_original(folder, config)}; "
        "adapters that were trained over the quantised one run on it",
    )


def _of_export(folder: Path) -> str:
    """The hint for a folder that lorakit wrote for another runtime; else nothing."""
    try:
        said: Any = parse_json(read_bounded(folder / RECORD, MAX_RECORD) or b"")
        base, kind = said["base_name"], said["adapters"]
        inside = [str(each["source"]) for each in said["from"]] if kind != "dynamic" else []
    except (OSError, ValueError, LookupError, TypeError, LorakitError):
        return ""
    made = " with ".join([f"{base!r:.200}", *([", ".join(inside)[:400]] if inside else [])])
    return (
        f"lorakit exported it for mlx-lm, which runs it; open what it was made from, {made}, or "
        "export that to onnx or gguf"
    )


def _original(folder: Path, config: Mapping[str, Any]) -> str:
    """Where it is, by whoever says so: the card, then names."""
    if named := named_base(folder / CARD):
        return f", which its card names: hf:{original_name(named) or named}"
    place = folder.resolve()
    hub = (part[8:].replace("--", "/") for part in place.parts if part.startswith("models--"))
    for name in (config.get("_name_or_path"), *hub, place.name):
        if isinstance(name, str) and (found := original_name(name)):
            return f", by its name {found}"
    return ""
