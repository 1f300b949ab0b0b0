"""Module names: mlx-lm's and Hugging Face's.

They are the same but for experts, which mlx-lm keeps in a SwitchLinear for each projection, and for
GPT-2, whose decoder it calls `model`.
"""

from __future__ import annotations

import re

from lorakit.architectures import Decoder

TABLES = frozenset({"embed_tokens", "wte"})  # modules that are embeddings, by the end of the name
HEAD = "lm_head"
LAYER = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(.+)")
_SWITCH = re.compile(r"(.+\.)switch_mlp(\.(?:gate|up|down)_proj)")
_EXPERTS = re.compile(r"(.+\.)experts(\.(?:gate|up|down)_proj)")
_GPT2 = re.compile(r"model\.(h\.\d+\..+|wte|wpe)")


def canonical(name: str) -> str:
    """The Hugging Face path of an mlx-lm module."""
    if match := _SWITCH.fullmatch(name):
        return f"{match[1]}experts{match[2]}"
    if match := _GPT2.fullmatch(name):
        return f"transformer.{match[1]}"
    return name


def native(module: str) -> str:
    """mlx-lm's name of a module."""
    if match := _EXPERTS.fullmatch(module):
        return f"{match[1]}switch_mlp{match[2]}"
    rest = module.removeprefix("transformer.")
    return f"model.{rest}" if rest != module else module


def is_table(module: str, decoder: Decoder | None) -> bool:
    """Whether a module is an embedding."""
    shape = decoder.modules().get(module) if decoder else None
    return shape.embedding if shape else module.rpartition(".")[2] in TABLES


def relative(name: str) -> str:
    """The name of a module within its block, which is how mlx-lm's keys name it."""
    found = LAYER.fullmatch(name)
    return found[2] if found else name
