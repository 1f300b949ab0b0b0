"""MLX folders whose config, tensors or names lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, packed, safetensors, sparse

Q = "model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora",
    "num_layers": -1,
    "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": [Q]},
}


def pair(module: str = Q) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        f"{module}.lora_a": rng.standard_normal((8, 4), np.float32),
        f"{module}.lora_b": rng.standard_normal((4, 6), np.float32),
    }


def folder(path: Path, weights: bytes | None = None, **change: Any) -> None:
    path.mkdir(parents=True)
    own = {k: change.pop(k) for k in ("rank", "scale", "keys") if k in change}
    config = {**CONFIG, "lora_parameters": {**CONFIG["lora_parameters"], **own}, **change}
    (path / "adapter_config.json").write_text(json.dumps(config))
    content = safetensors(pair()) if weights is None else weights
    (path / "adapters.safetensors").write_bytes(content)


@case("format_invalid", "adapters.safetensors")
def truncated(path: Path) -> None:
    folder(path, safetensors(pair())[:-7])


@case("format_invalid", "q_proj: has ['.lora_a']")
def half_pair(path: Path) -> None:
    folder(path, safetensors({f"{Q}.lora_a": pair()[f"{Q}.lora_a"]}))


@case("format_invalid", "rank 16")
def rank_that_lies(path: Path) -> None:
    folder(path, rank=16)


@case("format_invalid", "rank must be")
def rank_of_billions(path: Path) -> None:
    folder(path, rank=10**12)


@case("format_invalid", "rank must be")
def rank_true(path: Path) -> None:
    folder(path, rank=True)


@case("format_invalid", "scale must be")
def scale_nan(path: Path) -> None:
    folder(path, scale=float("nan"))


@case("format_invalid", "scale must be")
def scale_text(path: Path) -> None:
    folder(path, scale="2.0")


@case("format_invalid", "scale must be")
def scale_of_4000_digits(path: Path) -> None:
    folder(path, scale=10**4000)


@case("format_invalid", "keys must be")
def keys_nested(path: Path) -> None:
    folder(path, keys=[[Q]])


@case("format_invalid", "do not name it")
def keys_of_others(path: Path) -> None:
    folder(path, keys=["self_attn.k_proj"])


@case("format_invalid", "num_layers")
def layers_negative(path: Path) -> None:
    folder(path, num_layers=-5)


@case("format_invalid", "num_layers")
def layers_infinite(path: Path) -> None:
    folder(path, num_layers=float("inf"))


@case("format_invalid", "1 layers, but tensors span")
def layers_too_few(path: Path) -> None:
    other = pair("model.layers.9.self_attn.q_proj")
    folder(path, safetensors(pair() | other), num_layers=1, keys=["self_attn.q_proj"])


@case("format_invalid", "lora_parameters")
def parameters_list(path: Path) -> None:
    folder(path, lora_parameters=[1])


@case("format_unsupported", "full fine-tune")
def full(path: Path) -> None:
    folder(path, fine_tune_type="full")


@case("format_unsupported", "fine_tune_type")
def kind_list(path: Path) -> None:
    folder(path, fine_tune_type=["lora"])


@case("format_invalid", "q_proj: has")
def dora_without_m(path: Path) -> None:
    folder(path, fine_tune_type="dora")


@case("format_invalid", "q_proj: m is [5]")
def dora_m_of_another_size(path: Path) -> None:
    extra = {f"{Q}.m": np.ones(5, np.float32)}
    folder(path, safetensors(pair() | extra), fine_tune_type="dora")


@case("format_invalid", "step")
def stray_tensor(path: Path) -> None:
    folder(path, safetensors(pair() | {"step": np.ones(1, np.float32)}))


@case("format_invalid", "etc")
def climbing_name(path: Path) -> None:
    folder(path, safetensors(pair() | pair("../../etc/passwd")))


@case("format_invalid", "not a tensor name")
def homograph(path: Path) -> None:
    folder(path, safetensors(pair(Q.replace("o", "\u043e"))))


@case("format_invalid", "not a tensor name")
def right_to_left(path: Path) -> None:
    folder(path, safetensors(pair(f"{Q}\u202ejorp")))


@case("format_invalid", "limit")
def terabyte(path: Path) -> None:
    folder(path)
    rows = 1 << 37
    header = packed(
        {
            f"{Q}.lora_a": {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, rows * 16]},
            f"{Q}.lora_b": {
                "dtype": "F32",
                "shape": [4, 6],
                "data_offsets": [rows * 16, rows * 16 + 96],
            },
        }
    )
    sparse(path / "adapters.safetensors", len(header) + rows * 16 + 96, header)


@case("format_unsupported", "unknown kind")
def weights_missing(path: Path) -> None:
    folder(path)
    (path / "adapters.safetensors").unlink()


@case("format_invalid", "link")
def weights_linked_out(path: Path) -> None:
    folder(path)
    (path / "adapters.safetensors").unlink()
    (path / "adapters.safetensors").symlink_to("/etc/passwd")


@case("adapter_mismatch", "NaN or infinity", opens="fit")
def values_nan(path: Path) -> None:
    h = 96  # of the demo's base
    tensors = {f"{Q}.lora_a": np.full((h, 4), np.nan, np.float32)}
    tensors[f"{Q}.lora_b"] = np.ones((4, h), np.float32)
    folder(path, safetensors(tensors))
