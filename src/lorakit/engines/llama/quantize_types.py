"""Which type each tensor of a quantised GGUF file takes: llama.cpp's mixes, as tables.

A file type such as Q4_K_M is a mix: most tensors take its usual type, those that suffer most from
rounding a larger one. The rules are those of ggml-org/llama.cpp, src/llama-quant.cpp, where there
is no importance matrix (read in the source that llama-cpp-python 0.3.36 builds). They ask for
names, shapes and a few numbers of the model; what a type's blocks hold is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorakit.errors import FormatError
from lorakit.files.gguf import Value
from lorakit.files.gguf_types import BLOCKS, PLAIN

BLOCK_FORMAT = 2  # GGML_QNT_VERSION: of how blocks are laid out
Rules = Mapping[str, str]  # condition -> type; the first that holds counts


@dataclass(frozen=True, slots=True)
class Mix:
    """A file type: its llama_ftype, its tensors' usual type, and the rules of those that differ."""

    number: int
    usual: str
    value: Rules = field(default_factory=dict)  # attn_v, attn_qkv, attn_kv_b
    down: Rules = field(default_factory=dict)  # ffn_down
    out: Rules = field(default_factory=dict)  # attn_output
    table: str = ""  # token_embd beside an output of its own


# Without those that need an importance matrix (IQ1, IQ2, IQ3_XXS, Q2_K_S).
MIXES = {
    "F32": Mix(0, "F32"),
    "F16": Mix(1, "F16"),
    "BF16": Mix(32, "BF16"),
    "Q8_0": Mix(7, "Q8_0"),
    "Q6_K": Mix(18, "Q6_K"),
    "Q5_K_M": Mix(17, "Q5_K", value={"outer or third": "Q6_K"}, down={"outer or third": "Q6_K"}),
    "Q5_K_S": Mix(16, "Q5_K"),
    "Q5_1": Mix(9, "Q5_1"),
    "Q5_0": Mix(8, "Q5_0"),
    "Q4_K_M": Mix(
        15, "Q4_K", value={"outer or third": "Q6_K"}, down={"outer or third": "Q6_K"},
        out={"8 experts": "Q5_K"},
    ),
    "Q4_K_S": Mix(
        14, "Q4_K", value={"first 4": "Q5_K"}, down={"first 1/8": "Q5_K"},
        out={"8 experts": "Q5_K"},
    ),
    "Q4_1": Mix(3, "Q4_1"),
    "Q4_0": Mix(2, "Q4_0"),
    "IQ4_NL": Mix(
        25, "IQ4_NL", value={"shared by 4": "Q5_K"}, down={"first 1/8": "Q5_K"},
        out={"8 experts": "Q5_K"},
    ),
    "IQ4_XS": Mix(
        30, "IQ4_XS", value={"shared by 4": "Q5_K"}, down={"first 1/8": "Q5_K"},
        out={"8 experts": "Q5_K"},
    ),
    "Q3_K_L": Mix(
        13, "Q3_K", value={"all": "Q5_K"}, down={"all": "Q5_K"}, out={"not 8 experts": "Q5_K"},
    ),
    "Q3_K_M": Mix(
        12, "Q3_K", value={"first 2": "Q5_K", "all": "Q4_K"},
        down={"first 1/16": "Q5_K", "all": "Q4_K"}, out={"8 experts": "Q5_K", "all": "Q4_K"},
    ),
    "Q3_K_S": Mix(11, "Q3_K", out={"8 experts": "Q5_K"}),
    "IQ3_M": Mix(
        27, "IQ3_S", value={"all": "Q4_K"},
        down={"first 1/8": "Q4_K", "outer or third of 8 experts": "Q4_K"},
        out={"8 experts": "Q5_K", "all": "Q4_K"},
    ),
    "IQ3_S": Mix(26, "IQ3_S", value={"shared by 4": "Q4_K"}, out={"8 experts": "Q5_K"}),
    "Q2_K": Mix(
        10, "Q2_K", value={"shared by 4": "Q4_K", "all": "Q3_K"}, down={"all": "Q3_K"},
        out={"8 experts": "Q5_K", "all": "Q3_K"},
    ),
    "TQ2_0": Mix(37, "TQ2_0", table="Q4_K"),
    "TQ1_0": Mix(36, "TQ1_0", table="Q4_K"),
}  # fmt: skip
# Falcon's ffn_down, where it differs, and attn_output.
_FALCON_DOWN: Mapping[str, Rules] = {
    "Q4_K_M": {"first 1/16": "Q6_K", "outer or third": "Q5_K"},
    "Q4_K_S": {},
    "Q3_K_L": {"all": "Q4_K"},
    "Q3_K_M": {"first 1/16": "Q5_K", "outer or third": "Q4_K"},
}
_FALCON_OUT: Mapping[str, Rules] = {"Q3_K_L": {"all": "Q4_K"}}
# What a tensor takes whose rows are no multiple of the type's block; F16 if that fits as little.
_SMALLER_BLOCKS = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q4_K": "Q5_0",
    "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
# Matrices that are small or sensitive, by a part of their names: they keep their type.
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel",
    "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight",
    "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight",
    "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd",
    "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook",
    "mm.a.code_embd",
)  # fmt: skip
_KEPT_WHOLE = ("position_embd.weight", "token_types.weight")
_GLM5, _GLM5_KEPT, _GLM5_Q8_0 = "glm5-next", (
    "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
    "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight",
    "ssm_g_b.weight", "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight",
    "attn_v_b.weight",
), ("attn_q_a", "attn_q_b", "nextn.eh_proj")  # fmt: skip
# Models of 70 billion values: architecture -> layers.
_70B = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}
_ROLES = (
    ("attn_qkv.weight", "value"), ("attn_kv_b.weight", "value"), ("attn_v.weight", "value"),
    ("attn_k.weight", "key"), ("attn_output.weight", "out"), ("ffn_down", "down"),
)  # fmt: skip
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What the rules ask of a model. shared: query heads for one head of keys and values."""

    architecture: str
    layers: int
    experts: int
    heads: int
    key_heads: int

    @property
    def shared(self) -> int:
        return self.heads // self.key_heads if self.key_heads else 0

    @property
    def is_70b(self) -> bool:
        plain = self.heads == self.key_heads or self.experts == 8
        if self.architecture.startswith("llama") and plain:
            return False
        return _70B.get(self.architecture) == self.layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A tensor's type; wanted is another where its rows do not divide into that one's blocks."""

    name: str
    wanted: str
    kind: str


def _outer_or_third(model: Numbers, at: int, of: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = of // 8
    return at < eighth or at >= 7 * of // 8 or (at - eighth) % 3 == 2


_CONDITIONS: Mapping[str, Callable[[Numbers, int, int], bool]] = {
    "all": lambda model, at, of: True,
    "first 2": lambda model, at, of: at < 2,
    "first 4": lambda model, at, of: at < 4,
    "first 1/8": lambda model, at, of: at < of // 8,
    "first 1/16": lambda model, at, of: at < of // 16,
    "outer or third": _outer_or_third,
    "outer or third of 8 experts": lambda model, at, of: (
        model.experts == 8 and _outer_or_third(model, at, of)
    ),
    "shared by 4": lambda model, at, of: model.shared >= 4,
    "8 experts": lambda model, at, of: model.experts == 8,
    "not 8 experts": lambda model, at, of: model.experts != 8,
}


def type_keys(file_type: str) -> dict[str, Value]:
    """What a file says of its type."""
    return {
        "general.quantization_version": Value("u32", BLOCK_FORMAT),
        "general.file_type": Value("u32", MIXES[file_type].number),
    }


def numbers_of(values: Mapping[str, Value], path: Path) -> Numbers:
    """The numbers of the model whose values these are; path: of its file, for errors.

    Raises FormatError where they do not say what the rules ask.
    """
    found = values.get("general.architecture")
    if found is None or not isinstance(found.data, str) or not found.data:
        raise FormatError(
            f"{path} does not say which model it holds: general.architecture is missing"
        )
    name = found.data
    if name == "clip":  # a projector: llama.cpp reads no numbers of it
        return Numbers(architecture=name, layers=0, experts=0, heads=0, key_heads=0)

    def number(key: str, default: int = 0) -> int:
        return _number(values.get(f"{name}.{key}"), default, f"{path}: {name}.{key}")

    heads, layers = number("attention.head_count"), number("block_count")
    if not layers:
        raise FormatError(f"{path} does not say how many layers it has: {name}.block_count")
    if name == "nanbeige":  # runs through its layers more than once
        layers *= max(1, number("num_loops", 1))
    return Numbers(
        architecture=name,
        layers=layers + (name == "graniteswitch"),  # one more, which routes
        experts=number("expert_count"),
        heads=heads,
        key_heads=number("attention.head_count_kv", heads),
    )


def _number(value: Value | None, default: int, where: str) -> int:
    """A whole number of a file, of a list the first layer's."""
    if value is None:
        return default
    items = list(value.data) if value.array else [value.data]
    if not value.kind.startswith(("u", "i")) or not items:
        raise FormatError(f"{where} is no whole number")
    return int(items[0])


def in_order(names: Iterable[str]) -> list[str]:
    """Names as llama.cpp orders and counts them: those of no layer first, then layer by layer."""

    def key(name: str) -> tuple[int, bytes]:
        layer = _LAYER.match(name)
        return (int(layer[1]) if layer else -1, name.encode())

    return sorted(names, key=key)


def dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones that begin it, which llama.cpp does not count."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def choose_types(
    file_type: str, model: Numbers, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> list[Choice]:
    """The types of all tensors, in llama.cpp's order. tensors: the type and shape of each.

    Raises FormatError where an expert's tensor does not name a layer of the model.
    """
    chooser = _Chooser(file_type, model, tensors)
    return [chooser.choose(name, *tensors[name]) for name in in_order(tensors)]


class _Chooser:
    """What llama.cpp counts while it goes through the tensors."""

    def __init__(self, file_type: str, model: Numbers, names: Iterable[str]) -> None:
        mix = MIXES[file_type]
        if model.architecture == "falcon":
            out = _FALCON_OUT.get(file_type, {})
            mix = replace(mix, out=out, down=_FALCON_DOWN.get(file_type, mix.down))
        self._mix, self._model = mix, model
        roles = [_role(name) for name in names]
        self._tied = "output" not in roles
        self._values = roles.count("value")
        self._seen = {"value": 0, "down": 0}

    def choose(self, name: str, kind: str, shape: tuple[int, ...]) -> Choice:
        shape = dimensions(shape)
        if _keeps(name, shape, self._model.architecture):
            return Choice(name=name, wanted=kind, kind=kind)
        if self._mix.usual in PLAIN:
            return Choice(name=name, wanted=self._mix.usual, kind=self._mix.usual)
        wanted = self._wanted(name, shape[-1])
        return Choice(name=name, wanted=wanted, kind=_fitting(wanted, shape[-1]))

    def _wanted(self, name: str, row: int) -> str:
        mix, model, role = self._mix, self._model, _role(name)
        if model.architecture == _GLM5 and any(part in name for part in _GLM5_Q8_0):
            return "Q8_0"
        if role == "output" or (role == "table" and self._tied):
            large = mix.usual == "Q8_0" or model.architecture == "falcon"
            return "Q8_0" if large or row % BLOCKS[mix.usual][0] else "Q6_K"
        if role == "table":
            return mix.table or mix.usual
        if role == "key" and model.experts == 8:
            return "Q8_0"
        if role == "value":
            return self._value()
        if role == "down":
            return self._first(mix.down, self._layer(name), model.layers)
        return self._first(mix.out) if role == "out" else mix.usual

    def _value(self) -> str:
        found = self._first(self._mix.value, self._seen["value"], self._values)
        self._seen["value"] += 1
        if self._model.experts == 8:
            return "Q8_0"
        return "Q5_K" if self._model.is_70b and found in ("Q3_K", "Q4_K") else found

    def _layer(self, name: str) -> int:
        """Where an ffn_down is: by its name among experts, else by counting."""
        self._seen["down"] += 1
        if self._model.experts <= 1:
            return self._seen["down"] - 1
        found = _LAYER.match(name)
        if found is None or int(found[1]) >= self._model.layers:
            raise FormatError(f"{name:.80} is in none of the {self._model.layers} layers")
        return int(found[1])

    def _first(self, rules: Rules, at: int = 0, of: int = 0) -> str:
        for condition, kind in rules.items():
            if _CONDITIONS[condition](self._model, at, of):
                return kind
        return self._mix.usual


def _role(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "table"
    return next((role for part, role in _ROLES if part in name), "")


def _keeps(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether a tensor keeps its type in every mix."""
    if len(shape) < 2 or not name.endswith("weight") or name in _KEPT_WHOLE:
        return True
    parts = _KEPT + _GLM5_KEPT if architecture == _GLM5 else _KEPT
    return any(part in name for part in parts)


def _fitting(kind: str, row: int) -> str:
    """The type, or a similar one whose blocks divide the rows."""
    if row % BLOCKS[kind][0] == 0:
        return kind
    smaller = _SMALLER_BLOCKS.get(kind, kind)
    return smaller if row % BLOCKS[smaller][0] == 0 else "F16"
