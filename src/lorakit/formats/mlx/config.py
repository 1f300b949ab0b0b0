"""mlx-lm's adapter_config.json in all its versions: the rank, the scale, and which layers.

mlx-lm from 0.14.1 on uses `scale` as it is. Before, from 0.6 to 0.14.0, it computed
``scale * alpha / rank``. The config does not name the version, but its keys tell: `lora_layers`
became `num_layers` (0.19), `use_dora` came with 0.14.0 and became `fine_tune_type`. A config of
`rank`, `alpha` and `layers` alone is no mlx-lm's: there the scale is alpha / rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import ParameterError, UnsupportedError
from lorakit.values import finite, shown

CONFIG = "adapter_config.json"
MAX_RANK = 1 << 16
MAX_LAYERS = 1 << 16
SCALED_BY_ALPHA = (0, 14, 0)  # the last mlx-lm that computed scale * alpha / rank
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxConfig:
    """What the config says. rank: None where the tensors say it, with `alpha` then in place of
    `scale`. keys: names within a block, or full ones; None: mlx-lm chose by the model's kind.
    layers: how many of the last blocks; 0 and -1 mean all. indices: blocks by number."""

    rank: int | None
    scale: float = 0.0
    alpha: float | None = None
    keys: frozenset[str] | None = None
    dora: bool = False
    layers: int = -1
    indices: frozenset[int] | None = None

    def scale_of(self, rank: int) -> float:
        return self.scale if self.alpha is None else self.alpha / rank


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether a config beside adapters.safetensors is one of those that `parse` reads."""
    return bool({"fine_tune_type", "lora_parameters"} & config.keys()) or (
        {"rank", "alpha"} <= config.keys()
    )


def parse(
    config: Mapping[str, Any], path: Path, faults: list[str], version: str | None = None
) -> MlxConfig:
    """The config's meaning; what is wrong with a field goes into `faults`.

    Raises UnsupportedError for a full fine-tune and a scale that depends on mlx-lm's version, where
    that is not given, and ParameterError for a version that cannot have written it.
    """
    dora = _dora(config, path, faults)
    plain = "lora_parameters" not in config and "fine_tune_type" not in config
    table = config if plain else config.get("lora_parameters")
    if not isinstance(table, Mapping):
        faults.append(f"{CONFIG}: lora_parameters must be an object")
        return MlxConfig(rank=0)
    rank = table.get("rank")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MAX_RANK:
        faults.append(f"{CONFIG}: rank must be a whole number from 1, found {rank!r:.80}")
        rank = 0
    return MlxConfig(
        rank=rank,
        scale=_quotient(table, rank, faults) if plain else _scale(config, rank, faults, version),
        keys=_keys(table, faults),
        dora=dora,
        **_layers(config, faults),
    )


def _dora(config: Mapping[str, Any], path: Path, faults: list[str]) -> bool:
    kind, flag = config.get("fine_tune_type"), config.get("use_dora", False)
    if kind == "full":
        raise UnsupportedError(
            f"{path} is a full fine-tune: whole weights, not low-rank deltas",
            hint="fuse it into its base with mlx_lm.fuse and use that model",
        )
    if kind not in (None, "lora", "dora"):
        raise UnsupportedError(f"{path}: fine_tune_type {kind!r:.80} cannot be read")
    if not isinstance(flag, bool):
        faults.append(f"{CONFIG}: use_dora must be true or false, found {flag!r:.80}")
    return kind == "dora" if kind is not None else flag is True


def _quotient(table: Mapping[str, Any], rank: int, faults: list[str]) -> float:
    alpha = _number(table, "alpha", faults)
    scale = alpha / rank if rank else 0.0
    if "scale" in table and table["scale"] != scale:
        faults.append(
            f"{CONFIG}: scale {table['scale']!r:.80} beside alpha / rank = {scale:g}: which is it?"
        )
    return scale


def _scale(config: Mapping[str, Any], rank: int, faults: list[str], version: str | None) -> float:
    table = config["lora_parameters"]
    scale = _number(table, "scale", faults)
    if "alpha" not in table or table["alpha"] == rank:
        return scale
    alpha = table["alpha"]
    new = bool({"fine_tune_type", "num_layers"} & config.keys())
    old = "lora_layers" in config and "use_dora" not in config and not new
    said = None if version is None else parse_version(version) <= SCALED_BY_ALPHA
    if said is not None and ((new and said) or (old and not said)):
        wrote = "0.14.1 or later" if new else "0.13 or earlier"
        raise ParameterError(
            f"mlx_version {shown(version)} did not write this config: its keys are those of "
            f"mlx-lm {wrote}"
        )
    if new or said is False:
        return scale
    alpha = _number(table, "alpha", faults)
    if not faults and not old and said is None:
        raise UnsupportedError(
            "the scale of this MLX adapter depends on the mlx-lm that trained it: "
            f"{scale * alpha / rank:g} up to 0.14.0 (scale x alpha / rank), {scale:g} since",
            items=[f"rank {rank}, alpha {alpha:g}, scale {scale:g}"],
            hint='say which: mlx_version="0.14.0", or mlx_version="0.18"',
        )
    return scale * alpha / rank if rank else 0.0


def parse_version(text: str) -> tuple[int, int, int]:
    """(0, 14, 1) of "0.14.1"; a missing last number is 0. Raises ParameterError."""
    found = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ParameterError(f"mlx_version must be a version such as 0.18.0, found {shown(text)}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def _number(table: Mapping[str, Any], name: str, faults: list[str]) -> float:
    value = table.get(name)
    if finite(value):
        return float(value or 0.0)
    faults.append(f"{CONFIG}: {name} must be a finite number, found {value!r:.80}")
    return 0.0


def _keys(table: Mapping[str, Any], faults: list[str]) -> frozenset[str] | None:
    keys = table.get("keys")
    if keys is None:
        return None
    if isinstance(keys, list) and all(isinstance(key, str) for key in keys):
        return frozenset(keys)
    faults.append(f"{CONFIG}: keys must be a list of names, found {keys!r:.80}")
    return None


def _layers(config: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    name = next((n for n in ("num_layers", "lora_layers", "layers") if n in config), "num_layers")
    value = config.get(name, -1)
    if value is None:
        return {}
    if name == "layers" and isinstance(value, list) and all(_is_layer(each) for each in value):
        return {"indices": frozenset(value)}
    if _is_layer(value) or value == -1:
        return {"layers": value}
    faults.append(f"{CONFIG}: {name} must be a whole number, found {value!r:.80}")
    return {}


def _is_layer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LAYERS
