"""A model's own sampling defaults as keys of a GGUF file, where llama.cpp's programs find them.

Keys and types as in gguf-py (constants.py, gguf_writer.py). What the model does not say stays
llama.cpp's own default, as in files of its converter; unlike there a model that does not sample is
at temperature 0, whatever temperature stands beside.
"""

from __future__ import annotations

from lorakit.base.folder import Base
from lorakit.base.gguf import SAMPLING
from lorakit.files.gguf import Value
from lorakit.model.defaults import OWN, PLAIN, defaults_of

WHOLE_CONTEXT = -1  # tokens that a penalty looks at: transformers' looks at all, llama.cpp's at 64


def sampling_keys(base: Base) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The keys, none where the base says nothing; and what there is no key for."""
    own, _ = defaults_of(base)
    said = {name: value for name in OWN if (value := getattr(own, name)) != getattr(PLAIN, name)}
    lost = tuple(
        f"{name} {value:g}, its own default, has no key in a GGUF file"
        for name, value in said.items()
        if not OWN[name]
    )
    kept = {name: value for name, value in said.items() if OWN[name]}
    if not kept:
        return {}, lost
    keys = {SAMPLING + OWN[name]: _packed(value) for name, value in kept.items()}
    keys.setdefault(SAMPLING + OWN["temperature"], Value("f32", own.temperature))
    if "repetition_penalty" in kept:
        keys[f"{SAMPLING}penalty_last_n"] = Value("i32", WHOLE_CONTEXT)
    return keys, lost


def _packed(value: float) -> Value:
    return Value("i32", value) if isinstance(value, int) else Value("f32", value)
