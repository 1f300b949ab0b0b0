"""Hostile adapter folders, one function each; run it to write them all to a folder.

    python tests/hostile/make.py DIR

Each is small on disk (large ones are sparse), and each must be refused within a second.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Q = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
}


def pair(module: str = Q, rank: int = 4, n_in: int = 8, n_out: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        f"{module}.lora_A.weight": rng.standard_normal((rank, n_in), np.float32),
        f"{module}.lora_B.weight": rng.standard_normal((n_out, rank), np.float32),
    }


def safetensors(tensors: dict[str, Any]) -> bytes:
    """Written by hand, so that it can be written wrongly."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        kind = {"float32": "F32", "int64": "I64", "float16": "F16"}[array.dtype.name]
        header[name] = {
            "dtype": kind,
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return packed(header) + data


def packed(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def folder(path: Path, config: Any = None, weights: bytes | None = None, **change: Any) -> None:
    path.mkdir(parents=True)
    content = {**CONFIG, **change} if config is None else config
    text = content if isinstance(content, str) else json.dumps(content)
    (path / "adapter_config.json").write_text(text)
    (path / "adapter_model.safetensors").write_bytes(
        safetensors(pair()) if weights is None else weights
    )


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def truncated(path: Path) -> None:
    folder(path, weights=safetensors(pair())[:-20])


def truncated_header(path: Path) -> None:
    folder(path, weights=safetensors(pair())[:40])


def header_longer_than_file(path: Path) -> None:
    folder(path, weights=struct.pack("<Q", 1 << 62) + b"{}")


def header_of_gigabytes(path: Path) -> None:
    folder(path)
    head = struct.pack("<Q", 3 << 30) + b"{"
    sparse(path / "adapter_model.safetensors", 4 << 30, head)


def header_not_json(path: Path) -> None:
    folder(path, weights=struct.pack("<Q", 4) + b"{{{{")


def header_nested(path: Path) -> None:
    text = b"[" * 100_000
    folder(path, weights=struct.pack("<Q", len(text)) + text)


def overlapping(path: Path) -> None:
    part = {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}
    header = {f"{Q}.lora_A.weight": part, f"{Q}.lora_B.weight": part}
    folder(path, weights=packed(header) + bytes(128))


def hole(path: Path) -> None:
    header = {
        f"{Q}.lora_A.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [64, 192]},
    }
    folder(path, weights=packed(header) + bytes(192))


def huge_shape(path: Path) -> None:
    part = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 128]}
    folder(path, weights=packed({f"{Q}.lora_A.weight": part}) + bytes(128))


def negative_shape(path: Path) -> None:
    part = {"dtype": "F32", "shape": [-4, -8], "data_offsets": [0, 128]}
    folder(path, weights=packed({f"{Q}.lora_A.weight": part}) + bytes(128))


def million_names(path: Path) -> None:
    names = ",".join(
        f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(10**6)
    )
    text = ("{" + names + "}").encode()
    folder(path, weights=struct.pack("<Q", len(text)) + text)


def half_pair(path: Path) -> None:
    tensors = pair()
    del tensors[f"{Q}.lora_B.weight"]
    folder(path, weights=safetensors(tensors))


def ranks_disagree(path: Path) -> None:
    tensors = pair()
    tensors[f"{Q}.lora_B.weight"] = np.zeros((6, 3), np.float32)
    folder(path, weights=safetensors(tensors))


def rank_not_of_config(path: Path) -> None:
    folder(path, r=16)


def wrong_dimensions(path: Path) -> None:
    tensors = {name: array[None] for name, array in pair().items()}
    folder(path, weights=safetensors(tensors))


def empty_tensor(path: Path) -> None:
    tensors = pair()
    tensors[f"{Q}.lora_A.weight"] = np.zeros((4, 0), np.float32)
    folder(path, weights=safetensors(tensors))


def integers(path: Path) -> None:
    tensors = {name: array.astype(np.int64) for name, array in pair().items()}
    folder(path, weights=safetensors(tensors))


def no_tensors(path: Path) -> None:
    folder(path, weights=safetensors({}))


def climbing_name(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model.../../../etc/q_proj")))


def control_characters(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model.\x1b[31m.q_proj")))


def long_name(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model." + "a" * 10**5 + ".q_proj")))


def unknown_tensor(path: Path) -> None:
    extra = {"base_model.model.model.layers.0.self_attn.q_proj.lora_C": np.ones(4, np.float32)}
    folder(path, weights=safetensors(pair() | extra))


def stray_tensor(path: Path) -> None:
    folder(path, weights=safetensors(pair() | {"step": np.ones(1, np.float32)}))


def untargeted(path: Path) -> None:
    folder(path, target_modules=["k_proj"])


def two_names_for_one(path: Path) -> None:
    extra = {f"{Q}.lora_A.default.weight": np.ones((4, 8), np.float32)}
    folder(path, weights=safetensors(pair() | extra))


def magnitude_alone(path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"
    folder(path, weights=safetensors(pair() | {name: np.ones(6, np.float32)}), use_dora=True)


def dora_without_magnitude(path: Path) -> None:
    folder(path, use_dora=True)


def rows_without_ids(path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder(path, weights=safetensors(pair() | {name: np.ones((3, 8), np.float32)}))


def rows_twice(path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = pair() | {name: np.ones((3, 8), np.float32)}
    folder(path, weights=safetensors(tensors), trainable_token_indices=[5, 6, 5])


def config_list(path: Path) -> None:
    folder(path, config=[1, 2])


def config_number(path: Path) -> None:
    folder(path, config=7)


def config_not_json(path: Path) -> None:
    folder(path, config="{peft")


def config_nested(path: Path) -> None:
    folder(path, config="[" * 10**6)


def config_of_100_mb(path: Path) -> None:
    folder(path)
    sparse(path / "adapter_config.json", 100 << 20, b'{"peft_type": "LORA"')


def config_huge_number(path: Path) -> None:
    folder(path, config='{"peft_type": "LORA", "r": ' + "9" * 10**5 + "}")


def config_infinite_alpha(path: Path) -> None:
    folder(path, config='{"peft_type": "LORA", "r": 4, "lora_alpha": Infinity}')


def config_wrong_types(path: Path) -> None:
    folder(path, r="4", lora_alpha=None, rank_pattern=[1], target_modules=[[1]], use_dora="no")


def config_zero_rank(path: Path) -> None:
    folder(path, r=0)


def rank_of_billions(path: Path) -> None:
    folder(path, rank_pattern={"q_proj": 10**12})


def exploding_target(path: Path) -> None:
    folder(path, target_modules="((a+)+)+$")


def exploding_pattern(path: Path) -> None:
    folder(path, rank_pattern={"(((((a{999}){999}){999}){999}){999})": 8})


def look_ahead(path: Path) -> None:
    folder(path, target_modules="(?=.*q_proj).*")


def many_expressions(path: Path) -> None:
    folder(path, rank_pattern={f"x{i}.*": 8 for i in range(200_000)})


def many_dotted_names(path: Path) -> None:
    """Names whose dots are all elsewhere, so that no index helps."""
    tensors: dict[str, Any] = {}
    for index in range(2000):
        tensors |= pair(f"base_model.model.{'a' * 30}.{index}.q_proj")
    dots = {"".join("." if n >> b & 1 else "a" for b in range(14)): 8 for n in range(1 << 14)}
    folder(path, weights=safetensors(tensors), rank_pattern=dots)


def pissa(path: Path) -> None:
    folder(path, init_lora_weights="pissa_niter_4")


def loftq(path: Path) -> None:
    folder(path, init_lora_weights="loftq")


def experts(path: Path) -> None:
    folder(path, target_parameters=["mlp.experts.gate_up_proj"])


def megatron(path: Path) -> None:
    folder(path, megatron_config={"a": 1}, megatron_core="os")


def replicated_layers(path: Path) -> None:
    folder(path, layer_replication=[[0, 4], [2, 5]])


def unknown_variant(path: Path) -> None:
    folder(path, use_hyperlora=True)


def not_lora(path: Path) -> None:
    folder(path, peft_type="IA3")


def pickle_only(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


def weights_missing(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()


def weights_a_folder(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.safetensors").mkdir()


def weights_linked_out(path: Path) -> None:
    folder(path)
    outside = path.parent / f"{path.name}.outside"
    (path / "adapter_model.safetensors").rename(outside)
    (path / "adapter_model.safetensors").symlink_to(outside)


def config_linked_out(path: Path) -> None:
    folder(path)
    (path / "adapter_config.json").unlink()
    (path / "adapter_config.json").symlink_to("/etc/passwd")


def linked_to_itself(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")


def named_adapters(path: Path) -> None:
    folder(path / "home")
    folder(path / "shop")


def empty_folder(path: Path) -> None:
    path.mkdir(parents=True)


# What each must say: its error code, and a word that names the item or the reason.
EXPECTED: dict[Callable[[Path], None], tuple[str, str]] = {
    truncated: ("format_invalid", "adapter_model.safetensors"),
    truncated_header: ("format_invalid", "header"),
    header_longer_than_file: ("format_invalid", "header"),
    header_of_gigabytes: ("format_invalid", "header"),
    header_not_json: ("format_invalid", "adapter_model.safetensors"),
    header_nested: ("format_invalid", "adapter_model.safetensors"),
    overlapping: ("format_invalid", "adapter_model.safetensors"),
    hole: ("format_invalid", "lora_A"),
    huge_shape: ("format_invalid", "adapter_model.safetensors"),
    negative_shape: ("format_invalid", "adapter_model.safetensors"),
    million_names: ("format_invalid", "header"),
    half_pair: ("format_invalid", "q_proj: has lora_A but no lora_B"),
    ranks_disagree: ("format_invalid", "q_proj"),
    rank_not_of_config: ("format_invalid", "rank 16"),
    wrong_dimensions: ("format_invalid", "[1, 4, 8]"),
    empty_tensor: ("format_invalid", "[4, 0]"),
    integers: ("format_invalid", "int64"),
    no_tensors: ("format_invalid", "no tensor"),
    climbing_name: ("format_invalid", "etc"),
    control_characters: ("format_invalid", "not a tensor name"),
    long_name: ("format_invalid", "not a tensor name"),
    unknown_tensor: ("format_invalid", "lora_C"),
    stray_tensor: ("format_invalid", "step"),
    untargeted: ("format_invalid", "q_proj"),
    two_names_for_one: ("format_invalid", "second tensor"),
    magnitude_alone: ("format_invalid", "layers.1"),
    dora_without_magnitude: ("format_invalid", "no magnitude"),
    rows_without_ids: ("format_invalid", "embed_tokens"),
    rows_twice: ("format_invalid", "embed_tokens"),
    config_list: ("format_invalid", "a list"),
    config_number: ("format_invalid", "a number"),
    config_not_json: ("format_invalid", "JSON"),
    config_nested: ("format_invalid", "JSON"),
    config_of_100_mb: ("format_invalid", "larger"),
    config_huge_number: ("format_invalid", "JSON"),
    config_infinite_alpha: ("format_invalid", "lora_alpha"),
    config_wrong_types: ("format_invalid", "rank_pattern"),
    config_zero_rank: ("format_invalid", "r:"),
    rank_of_billions: ("format_invalid", "rank_pattern"),
    exploding_target: ("format_invalid", "q_proj"),
    exploding_pattern: ("format_unsupported", "too large"),
    look_ahead: ("format_unsupported", "look-around"),
    many_expressions: ("format_unsupported", "work"),
    many_dotted_names: ("format_unsupported", "work"),
    pissa: ("format_unsupported", "pissa"),
    loftq: ("format_unsupported", "loftq"),
    experts: ("format_unsupported", "target_parameters"),
    megatron: ("format_unsupported", "megatron"),
    replicated_layers: ("format_unsupported", "layer_replication"),
    unknown_variant: ("format_unsupported", "use_hyperlora"),
    not_lora: ("format_unsupported", "IA3"),
    pickle_only: ("format_unsupported", "pickle"),
    weights_missing: ("source_not_found", "adapter_model.safetensors"),
    weights_a_folder: ("format_invalid", "adapter_model.safetensors"),
    weights_linked_out: ("format_invalid", "link"),
    config_linked_out: ("format_invalid", "link"),
    linked_to_itself: ("format_invalid", "adapter_model.safetensors"),
    named_adapters: ("format_unsupported", "home"),
    empty_folder: ("source_not_found", "adapter_config.json"),
}


def main() -> None:
    target = Path(sys.argv[1])
    for write in EXPECTED:
        write(target / write.__name__)


if __name__ == "__main__":
    main()
