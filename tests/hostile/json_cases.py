"""Config files: JSON that asks for much memory or time, or means two things."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CONFIG, case, folder

HEAD = json.dumps(CONFIG)[:-1]


def raw(path: Path, content: bytes) -> None:
    folder(path)
    (path / "adapter_config.json").write_bytes(content)


@case("format_invalid", "more than 300000 items")
def million_keys(path: Path) -> None:
    folder(path, config=HEAD + "".join(f',"{i:x}":1' for i in range(10**6)) + "}")


@case("format_invalid", "more than 300000 items")
def million_lists(path: Path) -> None:
    folder(path, config=HEAD + ',"a":[' + ",".join(["[]"] * (5 * 10**6)) + "]}")


@case("format_invalid", "more than 300000 items")
def million_lists_behind_a_quote(path: Path) -> None:
    """An unbalanced quote inside a string must not hide what follows."""
    folder(path, config=HEAD + ',"a\\"":[' + ",".join(["[]"] * 10**6) + "]}")


@case("format_invalid", "not valid JSON")
def quotes_without_end(path: Path) -> None:
    folder(path, config=HEAD + ',"' + '\\"' * (4 << 20))


@case("format_invalid", "the key 'r' is there twice")
def duplicate_keys(path: Path) -> None:
    folder(path, config=HEAD + ',"r":8}')


@case("format_invalid", "the key 'q_proj' is there twice")
def duplicate_keys_inside(path: Path) -> None:
    folder(path, config=HEAD + ',"rank_pattern":{"q_proj":4,"q_proj":8}}')


@case("format_invalid", "not valid JSON")
def invalid_utf8(path: Path) -> None:
    raw(path, HEAD.encode() + b',"a":"\xff\xfe"}')


@case("format_invalid", "not valid JSON")
def utf16(path: Path) -> None:
    raw(path, json.dumps(CONFIG).encode("utf-16"))


@case("format_invalid", "not valid JSON")
def zero_bytes(path: Path) -> None:
    raw(path, bytes(1000))


@case("format_invalid", "not valid JSON")
def empty(path: Path) -> None:
    raw(path, b"")


@case("format_invalid", "lora_alpha")
def not_a_number(path: Path) -> None:
    folder(path, config=json.dumps({**CONFIG, "lora_alpha": float("nan")}))


@case("format_invalid", "alpha_pattern")
def infinite_in_a_pattern(path: Path) -> None:
    folder(path, config=json.dumps({**CONFIG, "alpha_pattern": {"q_proj": float("-inf")}}))


@case("format_invalid", "lora_alpha")
def number_of_4000_digits(path: Path) -> None:
    folder(path, config=HEAD.replace("8", "9" * 4000, 1) + "}")


@case("format_invalid", "r: expected")
def exponent(path: Path) -> None:
    folder(path, config=json.dumps({**CONFIG, "r": 1e308}))


@case("format_invalid", "r: expected")
def negative_rank(path: Path) -> None:
    folder(path, r=-4)


@case("format_unsupported", "init_lora_weights")
def name_of_10_mb(path: Path) -> None:
    folder(path, init_lora_weights="a" * (10 << 20))


@case("format_unsupported", "use_0")
def many_unknown_options(path: Path) -> None:
    folder(path, **{f"use_{i}": True for i in range(100_000)})


@case("format_unsupported", "use_\\x1b[2J\\x1b]0;owned\\x07\\n")
def terminal_codes_in_an_option(path: Path) -> None:
    folder(path, **{"use_\x1b[2J\x1b]0;owned\x07\nerror: none": True})


def _wrong(field: str, value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        folder(path, **{field: value})

    label = type(value).__name__ if value not in ([[]], -1) else "nested" if value != -1 else "less"
    write.__name__, write.__module__ = f"{field}_as_{label}", __name__
    return write


for _field, _values in {
    "r": (True, 4.0, "4", [4], {}),
    "lora_alpha": (True, "8", [8], {}),
    "use_dora": ("false", 1, [1]),
    "use_rslora": ("true", 1, {"a": 1}),
    "rank_pattern": (4, "q", [4], {"q_proj": "4"}, True),
    "alpha_pattern": (4, "q", [4], {"q_proj": None}),
    "target_modules": (4, True, {"q_proj": 1}, [[]]),
    "exclude_modules": (4, {"a": 1}, [[]]),
    "layers_to_transform": ("0", {"0": 1}, 1.5, [[]], -1),
    "layers_pattern": (4, {"a": 1}, [[]]),
    "modules_to_save": (4, {"a": 1}, [[]]),
    "trainable_token_indices": ("0", {"embed_tokens": 5}, [[]], 1.5),
    "alora_invocation_tokens": ("1", {"a": 1}, [[]], -1),
}.items():
    for _value in _values:
        case("format_invalid", _field)(_wrong(_field, _value))
case("format_unsupported", "['LORA']")(_wrong("peft_type", ["LORA"]))
