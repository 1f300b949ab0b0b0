"""What lorakit knows of each model family: one row per `model_type` of a Hugging Face config.

`describe(config)` turns a config into a `Decoder`: plain numbers from which the graph builder, the
checker and the converters work. Nothing here reads weights. Shapes and defaults, which hold where
a config lacks a field, were read in the configuration and model classes of transformers 5.
"""

from lorakit.architectures.decoder import (
    Architecture,
    Decoder,
    Experts,
    Layer,
    ModuleShape,
    Rope,
)
from lorakit.architectures.describe import describe
from lorakit.architectures.foreign import foreign
from lorakit.architectures.inner import (
    Spelling,
    in_files,
    is_other,
    is_seeing,
    seeing_in_files,
    spelling_of,
    text_config,
    with_text,
)
from lorakit.architectures.layouts import HEAD, Layout, Linear, Part
from lorakit.architectures.stored import Stored, spellings
from lorakit.architectures.table import ARCHITECTURES

__all__ = [
    "ARCHITECTURES",
    "HEAD",
    "Architecture",
    "Decoder",
    "Experts",
    "Layer",
    "Layout",
    "Linear",
    "ModuleShape",
    "Part",
    "Rope",
    "Spelling",
    "Stored",
    "describe",
    "foreign",
    "in_files",
    "is_other",
    "is_seeing",
    "seeing_in_files",
    "spelling_of",
    "spellings",
    "text_config",
    "with_text",
]
