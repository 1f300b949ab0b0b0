"""The text model inside a model that also sees: its config, and what its files call its tensors.

Gemma 3 from 4B up is such a model. Its text runs as any Gemma 3; the rest of it is left out. Names
and defaults were read in the configuration and model classes of transformers 4.50 to 5.24.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.architectures.fields import Config
from lorakit.errors import BaseModelError

Spelling = tuple[tuple[str, str], ...]  # beginnings of names: the model class's, the files'
CONFIG = "text_config"
# Steps under which models that see or hear keep the parts that do: of Gemma 3 and 3n, Llava,
# Qwen-VL, Mllama, Idefics 3 and Phi, as transformers and their own code call them.
SEEING = frozenset(
    {
        *("vision_tower", "vision_model", "vision_encoder", "visual", "embed_vision"),
        *("multi_modal_projector", "mm_projector", "audio_tower", "embed_audio"),
        *("connector", "vision_embed_tokens", "embed_tokens_extend"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A row of the table: what is inside a model of this type.

    spellings: in which the files may name its tensors. others: beginnings of all other names.
    defaults: of its class, for what published configs leave out. outer: fields that are not of the
    text, beside those of its own.
    """

    model_type: str  # of the text alone
    model_class: str
    spellings: tuple[Spelling, ...]
    others: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    outer: frozenset[str]


INNER = {
    "gemma3": Inner(
        model_type="gemma3_text",
        model_class="Gemma3ForCausalLM",
        spellings=(
            (("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")),
            (("model.", "language_model.model."),),
            (("model.", "model.language_model."),),
        ),
        others=(
            *("vision_tower.", "multi_modal_projector."),
            *("model.vision_tower.", "model.multi_modal_projector."),
        ),
        defaults={
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131072,
        },
        outer=frozenset(
            {
                *("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index"),
                *("image_token_index", "image_token_id"),
            }
        ),
    )
}


def inner_of(config: Config) -> Inner | None:
    """The row of a config of a model that also sees; None for a model of text."""
    model_type = config.get("model_type")
    return INNER.get(model_type) if isinstance(model_type, str) else None


def text_config(config: Config) -> Config:
    """The config of the text model that a config describes or holds; a text model's as it is.

    Raises BaseModelError where it should hold one and does not.
    """
    row = inner_of(config)
    if row is None:
        return config
    held = config.get(CONFIG)
    if not isinstance(held, Mapping) or held.get("model_type", row.model_type) != row.model_type:
        raise BaseModelError(
            f"config.json: {CONFIG} must be the config of a {row.model_type}",
        )
    around = {k: v for k, v in config.items() if k not in row.outer and k != CONFIG}
    mine = {"model_type": row.model_type, "architectures": [row.model_class]}
    return {**row.defaults, **around, **held, **mine, **_whole(config)}


def with_text(config: Config, changes: Config) -> dict[str, Any]:
    """A config with fields of its text model changed, wherever it keeps them."""
    held = config.get(CONFIG)
    if inner_of(config) is None or not isinstance(held, Mapping):
        return {**config, **changes}
    outside = {k: v for k, v in changes.items() if k in config} | _whole(changes)
    return {**config, **outside, CONFIG: {**held, **changes}}


def _whole(config: Config) -> dict[str, Any]:
    """What the model around the text decides, which has the head."""
    return {key: config[key] for key in ("tie_word_embeddings",) if key in config}


def spelling_of(config: Config, table: str, head: str | None, names: Collection[str]) -> Spelling:
    """How the files of a model that also sees name the tensors of its text; () where none does.

    table: the embedding's parameter; head: that of a head of its own.
    """
    row = inner_of(config)
    wanted = [name for name in (table, head) if name is not None]
    for spelling in row.spellings if row is not None else ():
        if all(in_files(name, spelling) in names for name in wanted):
            return spelling
    return ()


def in_files(name: str, spelling: Spelling) -> str:
    """What files that spell names so call a parameter of the model class."""
    for before, after in spelling:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def is_seeing(name: str) -> bool:
    """Whether a module or a parameter is of a part that sees or hears, by how its name begins.

    No model of text has such a name.
    """
    return not SEEING.isdisjoint(name.split(".")[:3])


def seeing_in_files(name: str, names: Collection[str]) -> str | None:
    """What files that hold `names` call a parameter of a part that sees; None: they lack it.

    The class calls it `model.vision_tower.encoder...`, or `vision_tower.vision_model.encoder...` in
    transformers 4, of which published files leave out one, the other, or nothing.
    """
    wanted = _seeing_key(name)
    return next((held for held in names if _seeing_key(held) == wanted), None)


def _seeing_key(name: str) -> tuple[str, ...]:
    steps = name.split(".")
    at = next((n for n, step in enumerate(steps[:3]) if step in SEEING), 0)
    nested = steps[at : at + 2] == ["vision_tower", "vision_model"]
    return (steps[at], *steps[at + 1 + nested :])


def is_other(config: Config, name: str) -> bool:
    """Whether a tensor is of the part that is left out of the text model."""
    row = inner_of(config)
    return row is not None and name.startswith(row.others)
