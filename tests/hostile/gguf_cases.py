"""GGUF adapters whose counts, lengths, types, shapes or offsets lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, sparse

STR, ARRAY, F32, U32, F64 = 8, 9, 6, 4, 12
ALPHA = "adapter.lora.alpha"
Q = "blk.0.attn_q.weight"
BIG = 1 << 63


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def string(value: str | bytes) -> bytes:
    return struct.pack("<I", STR) + text(value)


def f32(value: float) -> bytes:
    return struct.pack("<If", F32, value)


def u32(value: int) -> bytes:
    return struct.pack("<II", U32, value)


KEYS = {
    "general.architecture": string("gemma3"),
    "general.type": string("adapter"),
    "adapter.type": string("lora"),
    ALPHA: f32(8.0),
}
# name -> (ne, ggml type, bytes)
PAIR: dict[str, tuple[list[int], int, bytes]] = {
    f"{Q}.lora_a": ([8, 4], 0, np.ones(32, "<f4").tobytes()),
    f"{Q}.lora_b": ([4, 6], 0, np.ones(24, "<f4").tobytes()),
}


def packed(
    keys: Any = None,
    tensors: Any = None,
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    n_tensors: int | None = None,
    n_keys: int | None = None,
    offsets: dict[str, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file; keys and tensors may be lists of pairs, so that a name may come twice."""
    pairs = list((KEYS if keys is None else keys).items() if not isinstance(keys, list) else keys)
    items = PAIR if tensors is None else tensors
    infos = items if isinstance(items, list) else list(items.items())
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(infos) if n_tensors is None else n_tensors,
        len(pairs) if n_keys is None else n_keys,
    )
    head += b"".join(text(key) + value for key, value in pairs)
    data = b""
    for name, (ne, kind, raw) in infos:
        at = (offsets or {}).get(name, len(data))
        head += text(name) + struct.pack(f"<I{len(ne)}Q", len(ne), *ne)
        head += struct.pack("<IQ", kind, at)
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def with_key(path: Path, key: str, value: bytes) -> None:
    write(path, packed({**KEYS, key: value}))


def with_tensor(path: Path, name: str, ne: list[int], kind: int = 0, raw: bytes = b"") -> None:
    write(path, packed(tensors={**PAIR, name: (ne, kind, raw)}))


@case("format_unsupported", "a file of an unknown kind")
def magic(path: Path) -> None:
    write(path, packed(magic=b"GGML"))


@case("format_unsupported", "version 1")
def version_1(path: Path) -> None:
    write(path, packed(version=1))


@case("format_unsupported", "big-endian")
def big_endian(path: Path) -> None:
    write(path, packed(version=3 << 24))


@case("format_unsupported", "version 4294967295")
def version_of_the_future(path: Path) -> None:
    write(path, packed(version=0xFFFFFFFF))


@case("format_invalid", "the file ends at byte")
def magic_alone(path: Path) -> None:
    write(path, b"GGUF")


@case("format_invalid", "claims bytes")
def truncated(path: Path) -> None:
    write(path, packed()[:-64])


@case("format_invalid", "the file ends at byte")
def truncated_in_the_keys(path: Path) -> None:
    write(path, packed()[:120])


@case("format_invalid", "claims 9223372036854775808 tensors")
def tensors_2_to_the_63(path: Path) -> None:
    write(path, packed(n_tensors=BIG))


@case("format_invalid", "claims 9223372036854775808 keys")
def keys_2_to_the_63(path: Path) -> None:
    write(path, packed(n_keys=BIG))


@case("format_invalid", "not a valid GGUF file")
def one_tensor_too_many(path: Path) -> None:
    write(path, packed(n_tensors=3))


@case("format_invalid", "not a valid GGUF file")
def one_key_too_many(path: Path) -> None:
    write(path, packed(n_keys=5))


@case("format_invalid", "limit")
def million_tensors(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse(path, 100 << 20, packed(n_tensors=10**6))


@case("format_invalid", "limit")
def million_keys(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse(path, 100 << 20, packed(n_keys=10**6))


@case("format_invalid", "'a'")
def million_strings(path: Path) -> None:
    items = struct.pack("<IIQ", ARRAY, STR, 5 * 10**6) + text("") * (5 * 10**6)
    with_key(path, "a", items)


@case("format_invalid", "limit")
def wide_text(path: Path) -> None:
    """One character that needs four bytes makes Python take four for each."""
    with_key(path, "a", string("\U0001f600" + "a" * (60 << 20)))


@case("format_invalid", "limit")
def text_2_to_the_63(path: Path) -> None:
    with_key(path, "a", struct.pack("<IQ", STR, BIG) + b"a")


@case("format_invalid", "limit")
def key_of_10_mb(path: Path) -> None:
    with_key(path, "a" * (10 << 20), u32(1))


@case("format_invalid", "the file ends at byte")
def array_2_to_the_63(path: Path) -> None:
    with_key(path, "a", struct.pack("<IIQ", ARRAY, U32, BIG))


@case("format_invalid", "before the 1152921504606846976 strings")
def strings_2_to_the_60(path: Path) -> None:
    with_key(path, "a", struct.pack("<IIQ", ARRAY, STR, 1 << 60))


@case("format_invalid", "array of arrays")
def nested_arrays(path: Path) -> None:
    with_key(path, "a", struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 100_000)


@case("format_invalid", "unknown type 99")
def unknown_type(path: Path) -> None:
    with_key(path, "a", struct.pack("<IQ", 99, 0))


@case("format_invalid", "neither true nor false")
def bool_of_two(path: Path) -> None:
    with_key(path, "a", struct.pack("<IB", 7, 2))


@case("format_invalid", "not UTF-8")
def text_not_utf8(path: Path) -> None:
    with_key(path, "a", string(b"\xff\xfe"))


@case("format_invalid", "general.type must be of the type str")
def type_a_number(path: Path) -> None:
    """llama.cpp aborts the process on this, and on the next two."""
    with_key(path, "general.type", u32(1))


@case("format_invalid", f"{ALPHA} must be of the type f32, found u32")
def alpha_whole(path: Path) -> None:
    with_key(path, ALPHA, u32(8))


@case("format_invalid", f"{ALPHA} must be of the type f32, found an array")
def alpha_array(path: Path) -> None:
    with_key(path, ALPHA, struct.pack("<IIQf", ARRAY, F32, 1, 8.0))


@case("format_invalid", f"{ALPHA} must be of the type f32, found f64")
def alpha_double(path: Path) -> None:
    with_key(path, ALPHA, struct.pack("<Id", F64, 8.0))


@case("format_invalid", f"{ALPHA} is nan")
def alpha_nan(path: Path) -> None:
    with_key(path, ALPHA, f32(float("nan")))


@case("format_invalid", f"{ALPHA} is -inf")
def alpha_infinite(path: Path) -> None:
    with_key(path, ALPHA, f32(float("-inf")))


@case("format_unsupported", "'model'")
def type_model(path: Path) -> None:
    with_key(path, "general.type", string("model"))


@case("format_unsupported", "control_vector")
def another_adapter(path: Path) -> None:
    with_key(path, "adapter.type", string("control_vector"))


@case("format_unsupported", "\\x1b[2J")
def architecture_of_terminal_codes(path: Path) -> None:
    with_key(path, "general.architecture", string("\x1b[2J"))


@case("format_unsupported", "'a")
def architecture_of_10_mb(path: Path) -> None:
    with_key(path, "general.architecture", string("a" * (10 << 20)))


@case("format_invalid", "is there twice")
def duplicate_key(path: Path) -> None:
    write(path, packed([*KEYS.items(), (ALPHA, f32(1.0))]))


@case("format_invalid", "is there twice")
def duplicate_tensor(path: Path) -> None:
    write(path, packed(tensors=[*PAIR.items(), *PAIR.items()]))


@case("format_invalid", "overlap")
def overlapping(path: Path) -> None:
    write(path, packed(offsets={f"{Q}.lora_b": 0}))


@case("format_invalid", "claims bytes")
def offset_past_the_end(path: Path) -> None:
    write(path, packed(offsets={f"{Q}.lora_b": 1 << 20}))


@case("format_invalid", "claims bytes")
def offset_that_wraps(path: Path) -> None:
    write(path, packed(offsets={f"{Q}.lora_b": (1 << 64) - 32}))


@case("format_invalid", "claims bytes")
def offset_unaligned(path: Path) -> None:
    write(path, packed(offsets={f"{Q}.lora_b": 4}))


@case("format_invalid", "general.alignment is 0")
def alignment_0(path: Path) -> None:
    with_key(path, "general.alignment", u32(0))


@case("format_invalid", "general.alignment is 3")
def alignment_3(path: Path) -> None:
    with_key(path, "general.alignment", u32(3))


@case("format_invalid", "general.alignment is 2147483648")
def alignment_huge(path: Path) -> None:
    with_key(path, "general.alignment", u32(1 << 31))


@case("format_invalid", "general.alignment is '32'")
def alignment_text(path: Path) -> None:
    with_key(path, "general.alignment", string("32"))


@case("format_invalid", "general.alignment is array")
def alignment_array(path: Path) -> None:
    with_key(path, "general.alignment", struct.pack("<IIQI", ARRAY, U32, 1, 32))


@case("format_invalid", "cannot have the shape")
def dimension_0(path: Path) -> None:
    with_tensor(path, f"{Q}x", [0, 4])


@case("format_invalid", "claims bytes")
def product_that_wraps(path: Path) -> None:
    with_tensor(path, f"{Q}x", [1 << 32, 1 << 32])


@case("format_invalid", "claims bytes")
def product_of_2_to_the_252(path: Path) -> None:
    with_tensor(path, f"{Q}x", [BIG, BIG, BIG, BIG])


@case("format_invalid", "has 0 dimensions")
def no_dimensions(path: Path) -> None:
    with_tensor(path, f"{Q}x", [])


@case("format_invalid", "has 4294967295 dimensions")
def four_billion_dimensions(path: Path) -> None:
    one = text("a") + struct.pack("<I", 0xFFFFFFFF)
    write(path, packed(tensors={})[:8] + struct.pack("<QQ", 1, 0) + one + bytes(64))


@case("format_unsupported", "ggml type 77")
def unknown_ggml_type(path: Path) -> None:
    with_tensor(path, f"{Q}x", [8, 4], 77, bytes(128))


@case("format_unsupported", "ggml type 2")
def quantised_to_4_bits(path: Path) -> None:
    with_tensor(path, f"{Q}x", [32, 4], 2, bytes(72))


@case("format_invalid", "as Q8_0")
def quantised_rows_of_8(path: Path) -> None:
    with_tensor(path, f"{Q}x", [8, 4], 8, bytes(34))


@case("format_invalid", "in Q8_0")
def quantised_sparse(path: Path) -> None:
    """8.5 GB of holes that would become 32 GB of float32."""
    a, b = ([1 << 28, 16], 8, b""), ([32, 1 << 27], 8, b"")
    sizes = {f"{Q}.lora_b": (1 << 28) * 17}
    head = packed(tensors={f"{Q}.lora_a": a, f"{Q}.lora_b": b}, offsets=sizes)
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse(path, len(head) + (1 << 28) * 17 + (1 << 27) * 34, head)


@case("format_invalid", "limit")
def terabyte(path: Path) -> None:
    rows = 1 << 37
    tensors = {f"{Q}.lora_a": ([rows, 4], 0, b""), f"{Q}.lora_b": ([4, 6], 0, b"")}
    head = packed(tensors=tensors, offsets={f"{Q}.lora_b": rows * 16})
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse(path, len(head) + rows * 16 + 96, head)


@case("format_invalid", "without its other half")
def half_pair(path: Path) -> None:
    write(path, packed(tensors={f"{Q}.lora_a": PAIR[f"{Q}.lora_a"]}))


@case("format_invalid", "disagree on the rank")
def ranks_disagree(path: Path) -> None:
    other = ([3, 8], 0, np.ones(24, "<f4").tobytes())
    write(path, packed(tensors={**PAIR, f"{Q}.lora_b": other}))


@case("format_invalid|format_unsupported", "")
def experts_that_lie(path: Path) -> None:
    """llama.cpp does not look at ne[2] and writes out of bounds (llama.cpp#29128)."""
    tensors = {
        "blk.0.ffn_gate_exps.weight.lora_a": ([8, 4, 3], 0, np.ones(96, "<f4").tobytes()),
        "blk.0.ffn_gate_exps.weight.lora_b": ([4, 6, 2], 0, np.ones(48, "<f4").tobytes()),
    }
    write(path, packed({**KEYS, "general.architecture": string("qwen3moe")}, tensors))


@case("format_invalid", "no pair")
def no_tensors(path: Path) -> None:
    write(path, packed(tensors={}))


@case("format_unsupported", "blk.0.attn_norm.weight")
def norm(path: Path) -> None:
    with_tensor(path, "blk.0.attn_norm.weight", [8], 0, bytes(32))


@case("format_unsupported", "lora_c")
def unknown_half(path: Path) -> None:
    with_tensor(path, f"{Q}.lora_c", [8, 4], 0, bytes(128))


@case("format_unsupported", "../../etc/passwd")
def climbing_name(path: Path) -> None:
    with_tensor(path, "../../etc/passwd.weight.lora_a", [8, 4], 0, bytes(128))


@case("format_unsupported", "\\x1b[31m\\nblk")
def control_characters(path: Path) -> None:
    with_tensor(path, "\x1b[31m\nblk.0.attn_q.weight.lora_a", [8, 4], 0, bytes(128))


@case("format_unsupported", "no low-rank pair")
def other_digits(path: Path) -> None:
    """Digits of another script are digits to Python's int()."""
    with_tensor(path, "blk.\u0661.attn_q.weight.lora_a", [8, 4], 0, bytes(128))


@case("format_invalid", "invocation_tokens")
def invocation_of_texts(path: Path) -> None:
    with_key(
        path, "adapter.alora.invocation_tokens", struct.pack("<IIQ", ARRAY, STR, 1) + text("a")
    )


@case("adapter_mismatch", "NaN or infinity", opens="fit")
def values_nan(path: Path) -> None:
    nan = np.full(96 * 4, np.nan, "<f4").tobytes()
    tensors = {f"{Q}.lora_a": ([96, 4], 0, nan), f"{Q}.lora_b": ([4, 96], 0, nan)}
    write(path, packed(tensors=tensors))


@case("format_unsupported", "number of heads")
def llama_without_heads(path: Path) -> None:
    with_key(path, "general.architecture", string("llama"))


@case("format_invalid", "KV heads")
def llama_with_heads_that_lie(path: Path) -> None:
    at = "llama.attention.head_count"
    keys = {**KEYS, "general.architecture": string("llama"), at: u32(1 << 31), f"{at}_kv": u32(7)}
    write(path, packed(keys))
