"""PEFT folders whose config, header, tensors or names lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import Q, case, folder, packed, pair, safetensors, sparse


@case("format_invalid", "adapter_model.safetensors")
def truncated(path: Path) -> None:
    folder(path, weights=safetensors(pair())[:-20])


@case("format_invalid", "header")
def truncated_header(path: Path) -> None:
    folder(path, weights=safetensors(pair())[:40])


@case("format_invalid", "header")
def header_longer_than_file(path: Path) -> None:
    folder(path, weights=struct.pack("<Q", 1 << 62) + b"{}")


@case("format_invalid", "header")
def header_of_gigabytes(path: Path) -> None:
    folder(path)
    head = struct.pack("<Q", 3 << 30) + b"{"
    sparse(path / "adapter_model.safetensors", 4 << 30, head)


@case("format_invalid", "adapter_model.safetensors")
def header_not_json(path: Path) -> None:
    folder(path, weights=struct.pack("<Q", 4) + b"{{{{")


@case("format_invalid", "adapter_model.safetensors")
def header_nested(path: Path) -> None:
    text = b"[" * 100_000
    folder(path, weights=struct.pack("<Q", len(text)) + text)


@case("format_invalid", "adapter_model.safetensors")
def overlapping(path: Path) -> None:
    part = {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}
    header = {f"{Q}.lora_A.weight": part, f"{Q}.lora_B.weight": part}
    folder(path, weights=packed(header) + bytes(128))


@case("format_invalid", "lora_A")
def hole(path: Path) -> None:
    header = {
        f"{Q}.lora_A.weight": {"dtype": "F32", "shape": [4, 8], "data_offsets": [64, 192]},
    }
    folder(path, weights=packed(header) + bytes(192))


@case("format_invalid", "adapter_model.safetensors")
def huge_shape(path: Path) -> None:
    part = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 128]}
    folder(path, weights=packed({f"{Q}.lora_A.weight": part}) + bytes(128))


@case("format_invalid", "adapter_model.safetensors")
def negative_shape(path: Path) -> None:
    part = {"dtype": "F32", "shape": [-4, -8], "data_offsets": [0, 128]}
    folder(path, weights=packed({f"{Q}.lora_A.weight": part}) + bytes(128))


@case("format_invalid", "header")
def million_names(path: Path) -> None:
    names = ",".join(
        f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(10**6)
    )
    text = ("{" + names + "}").encode()
    folder(path, weights=struct.pack("<Q", len(text)) + text)


@case("format_invalid", "q_proj: has lora_A but no lora_B")
def half_pair(path: Path) -> None:
    tensors = pair()
    del tensors[f"{Q}.lora_B.weight"]
    folder(path, weights=safetensors(tensors))


@case("format_invalid", "q_proj")
def ranks_disagree(path: Path) -> None:
    tensors = pair()
    tensors[f"{Q}.lora_B.weight"] = np.zeros((6, 3), np.float32)
    folder(path, weights=safetensors(tensors))


@case("format_invalid", "rank 16")
def rank_not_of_config(path: Path) -> None:
    folder(path, r=16)


@case("format_invalid", "[1, 4, 8]")
def wrong_dimensions(path: Path) -> None:
    tensors = {name: array[None] for name, array in pair().items()}
    folder(path, weights=safetensors(tensors))


@case("format_invalid", "[4, 0]")
def empty_tensor(path: Path) -> None:
    tensors = pair()
    tensors[f"{Q}.lora_A.weight"] = np.zeros((4, 0), np.float32)
    folder(path, weights=safetensors(tensors))


@case("format_invalid", "int64")
def integers(path: Path) -> None:
    tensors = {name: array.astype(np.int64) for name, array in pair().items()}
    folder(path, weights=safetensors(tensors))


@case("format_invalid", "no tensor")
def no_tensors(path: Path) -> None:
    folder(path, weights=safetensors({}))


@case("format_invalid", "etc")
def climbing_name(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model.../../../etc/q_proj")))


@case("format_invalid", "not a tensor name")
def control_characters(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model.\x1b[31m.q_proj")))


@case("format_invalid", "not a tensor name")
def long_name(path: Path) -> None:
    folder(path, weights=safetensors(pair() | pair("base_model.model." + "a" * 10**5 + ".q_proj")))


@case("format_invalid", "lora_C")
def unknown_tensor(path: Path) -> None:
    extra = {"base_model.model.model.layers.0.self_attn.q_proj.lora_C": np.ones(4, np.float32)}
    folder(path, weights=safetensors(pair() | extra))


@case("format_invalid", "step")
def stray_tensor(path: Path) -> None:
    folder(path, weights=safetensors(pair() | {"step": np.ones(1, np.float32)}))


@case("format_invalid", "q_proj")
def untargeted(path: Path) -> None:
    folder(path, target_modules=["k_proj"])


@case("format_invalid", "second tensor")
def two_names_for_one(path: Path) -> None:
    extra = {f"{Q}.lora_A.default.weight": np.ones((4, 8), np.float32)}
    folder(path, weights=safetensors(pair() | extra))


@case("format_invalid", "layers.1")
def magnitude_alone(path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"
    folder(path, weights=safetensors(pair() | {name: np.ones(6, np.float32)}), use_dora=True)


@case("format_invalid", "no magnitude")
def dora_without_magnitude(path: Path) -> None:
    folder(path, use_dora=True)


@case("format_invalid", "embed_tokens")
def rows_without_ids(path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder(path, weights=safetensors(pair() | {name: np.ones((3, 8), np.float32)}))


@case("format_invalid", "embed_tokens")
def rows_twice(path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = pair() | {name: np.ones((3, 8), np.float32)}
    folder(path, weights=safetensors(tensors), trainable_token_indices=[5, 6, 5])


@case("format_invalid", "a list")
def config_list(path: Path) -> None:
    folder(path, config=[1, 2])


@case("format_invalid", "a number")
def config_number(path: Path) -> None:
    folder(path, config=7)


@case("format_invalid", "JSON")
def config_not_json(path: Path) -> None:
    folder(path, config="{peft")


@case("format_invalid", "JSON")
def config_nested(path: Path) -> None:
    folder(path, config="[" * 10**6)


@case("format_invalid", "larger")
def config_of_100_mb(path: Path) -> None:
    folder(path)
    sparse(path / "adapter_config.json", 100 << 20, b'{"peft_type": "LORA"')


@case("format_invalid", "JSON")
def config_huge_number(path: Path) -> None:
    folder(path, config='{"peft_type": "LORA", "r": ' + "9" * 10**5 + "}")


@case("format_invalid", "lora_alpha")
def config_infinite_alpha(path: Path) -> None:
    folder(path, config='{"peft_type": "LORA", "r": 4, "lora_alpha": Infinity}')


@case("format_invalid", "rank_pattern")
def config_wrong_types(path: Path) -> None:
    folder(path, r="4", lora_alpha=None, rank_pattern=[1], target_modules=[[1]], use_dora="no")


@case("format_invalid", "r:")
def config_zero_rank(path: Path) -> None:
    folder(path, r=0)


@case("format_invalid", "rank_pattern")
def rank_of_billions(path: Path) -> None:
    folder(path, rank_pattern={"q_proj": 10**12})


@case("format_invalid", "q_proj")
def exploding_target(path: Path) -> None:
    folder(path, target_modules="((a+)+)+$")


@case("format_unsupported", "too large")
def exploding_pattern(path: Path) -> None:
    folder(path, rank_pattern={"(((((a{999}){999}){999}){999}){999})": 8})


@case("format_unsupported", "look-behind")
def look_behind(path: Path) -> None:
    folder(path, rank_pattern={"(?<=q_)proj": 8})


@case("format_unsupported", "work")
def look_aheads_within_each_other(path: Path) -> None:
    folder(path, target_modules="(?!(.?){2000}" * 40 + ")" * 40 + ".*")


@case("format_unsupported", "work")
def many_expressions(path: Path) -> None:
    folder(path, rank_pattern={f"x{i}.*": 8 for i in range(200_000)})


@case("format_unsupported", "work")
def many_dotted_names(path: Path) -> None:
    """Names and keys whose dots are all elsewhere, so that no index helps."""
    tensors: dict[str, Any] = {}
    for index in range(2000):
        tensors |= pair(f"base_model.model.{'a' * (index % 100 + 1)}.{'b' * (index // 100)}.q_proj")
    dots = {"".join("." if n >> b & 1 else "a" for b in range(14)): 8 for n in range(1 << 14)}
    folder(path, weights=safetensors(tensors), rank_pattern=dots)


@case("format_unsupported", "pissa")
def pissa(path: Path) -> None:
    folder(path, init_lora_weights="pissa_niter_4")


@case("format_unsupported", "loftq")
def loftq(path: Path) -> None:
    folder(path, init_lora_weights="loftq")


@case("format_invalid", "target_parameters")
def experts(path: Path) -> None:
    folder(path, target_parameters=["mlp.experts.gate_up_proj"])


@case("format_unsupported", "megatron")
def megatron(path: Path) -> None:
    folder(path, megatron_config={"a": 1}, megatron_core="os")


@case("format_unsupported", "layer_replication")
def replicated_layers(path: Path) -> None:
    folder(path, layer_replication=[[0, 4], [2, 5]])


@case("format_unsupported", "use_hyperlora")
def unknown_variant(path: Path) -> None:
    folder(path, use_hyperlora=True)


@case("format_unsupported", "IA3")
def not_lora(path: Path) -> None:
    folder(path, peft_type="IA3")


@case("pickle_refused", "pickle")
def pickle_only(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


@case("source_not_found", "adapter_model.safetensors")
def weights_missing(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()


@case("format_invalid", "adapter_model.safetensors")
def weights_a_folder(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.safetensors").mkdir()


@case("format_invalid", "link")
def weights_linked_out(path: Path) -> None:
    folder(path)
    outside = path.parent / f"{path.name}.outside"
    (path / "adapter_model.safetensors").rename(outside)
    (path / "adapter_model.safetensors").symlink_to(outside)


@case("format_invalid", "link")
def config_linked_out(path: Path) -> None:
    folder(path)
    (path / "adapter_config.json").unlink()
    (path / "adapter_config.json").symlink_to("/etc/passwd")


@case("format_invalid", "adapter_model.safetensors")
def linked_to_itself(path: Path) -> None:
    folder(path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")


@case("format_unsupported", "home")
def named_adapters(path: Path) -> None:
    folder(path / "home")
    folder(path / "shop")


@case("source_not_found", "adapter_config.json")
def empty_folder(path: Path) -> None:
    path.mkdir(parents=True)
