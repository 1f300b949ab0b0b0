"""PEFT's adapter_config.json: which fields count, which are refused, and what they say of a module.

The file is active content for its own library (regular expressions, imports, downloads). Here it
is data: fields are read by name from an allowlist, and whatever would change the arithmetic in a
way that lorakit cannot express is refused by name. Rules as in peft 0.21 (tuners/lora/config.py,
tuners_utils.check_target_module_exists, utils.other.get_pattern_key).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats.names import asking_unwrapped
from lorakit.formats.pattern_parser import PatternError, UnknownSyntaxError
from lorakit.formats.patterns import Budget, PatternTable, Regex

# Fields that change the arithmetic beyond what an Adapter can say, when they are set.
ACTIVE = {
    "megatron_config": "adapts Megatron's parallel layers",
    "layer_replication": "repeats layers of the base",
    "use_qalora": "pools the inputs of A in groups (QA-LoRA)",
    "use_bdlora": "stores block-diagonal factors (BD-LoRA)",
    "arrow_config": "routes between adapters (Arrow)",
    "kasa_config": "changes the base by an SVD and adds a diagonal (KaSA)",
    "monteclora_config": "samples its weights (MonteCLoRA)",
}
# Ways to initialise that leave the base as it is. All others move a part of it into the adapter.
PLAIN_INITS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
MAX_RANK = 1 << 16
MAX_TOKENS = 1 << 20

# Fields that never change what a trained adapter computes.
INERT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "layers_pattern",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)
READ = frozenset(
    {
        "alora_invocation_tokens",
        "alpha_pattern",
        "bias",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The fields of adapter_config.json that count. Build it with `parse`."""

    r: int
    alpha: float
    use_rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    target_modules: frozenset[str] | str | None
    target_parameters: frozenset[str]
    experts_flipped: bool | None  # in and out exchanged, as by PEFT before 0.19; None: not said
    exclude_modules: frozenset[str] | str
    layers: frozenset[int] | None
    layers_pattern: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    use_dora: bool
    token_indices: Mapping[str, tuple[int, ...]]
    invocation_tokens: tuple[int, ...]
    raw: Mapping[str, Any]


class Resolver:
    """Answers for one module name at a time; the patterns are compiled once.

    Every method raises PatternError where a pattern cannot be matched within its bounds. Where one
    for modules is of a syntax that the automaton lacks, the names of the tensors decide: `notes`
    says so, and `readable` is false.
    """

    def __init__(self, config: LoraConfig) -> None:
        budget = Budget()
        for name in config.layers_pattern:
            if not re.fullmatch(r"[\w.-]*", name):
                raise PatternError(f"layers_pattern {name!r:.80} is not a plain name")
        self._config = config
        ranks, alphas = tuple(config.ranks), tuple(config.alphas)
        self._ranks = PatternTable(ranks, budget)
        self._alphas = self._ranks if alphas == ranks else PatternTable(alphas, budget)
        self.notes: list[str] = []
        self._target = self._regex("target_modules", config.target_modules, budget)
        self._exclude = self._regex("exclude_modules", config.exclude_modules, budget)
        self.readable = not self.notes
        self._saved = [
            Regex.compile(rf"(^|.*\.){name}($|\..*)", budget) for name in config.modules_to_save
        ]

    def _regex(
        self, field: str, pattern: frozenset[str] | str | None, budget: Budget
    ) -> Regex | None:
        if not isinstance(pattern, str) or pattern in ("", "all-linear"):
            return None
        try:
            return Regex.compile(pattern, budget)
        except UnknownSyntaxError as error:
            self.notes.append(
                f"{field} is a pattern that lorakit cannot read ({error}): the names of the "
                "tensors decide which modules are adapted"
            )
            return None

    def rank(self, module: str) -> int:
        key = self._ranks.first(module)
        return self._config.r if key is None else self._config.ranks[key]

    def alpha(self, module: str) -> float:
        key = self._alphas.first(module)
        return self._config.alpha if key is None else self._config.alphas[key]

    def scale(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023)."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self._config.use_rslora else rank)

    def targeted(self, module: str) -> bool:
        """Whether PEFT would put a LoRA layer on this module, going by its name."""
        config = self._config
        if self._excluded(module) or self.saved(module):
            return False
        if config.target_modules is None and config.target_parameters:
            return False  # experts alone
        if self._target is not None:
            return self._target.fullmatch(module)
        if config.target_modules is None or isinstance(config.target_modules, str):
            return True  # by architecture, or a pattern that cannot be read: the tensors say what
        if module in config.target_modules:
            return True  # named in full: PEFT does not ask for the layer then
        if not _names(config.target_modules, module):
            return False
        return config.layers is None or self._layer(module) in config.layers

    def targeted_parameter(self, name: str) -> bool:
        """Whether PEFT would put a LoRA layer on this bare parameter (target_parameters)."""
        return _names(self._config.target_parameters, name)

    def saved(self, module: str) -> bool:
        """Whether PEFT keeps a trained copy of this module (modules_to_save)."""
        return any(saved.fullmatch(module) for saved in self._saved)

    def _excluded(self, module: str) -> bool:
        if self._exclude is not None:
            return self._exclude.fullmatch(module)
        names = self._config.exclude_modules
        return not isinstance(names, str) and _names(names, module)

    def _layer(self, module: str) -> int | None:
        """The layer index in a module name, by PEFT's rule: the first number that follows a name
        that is not the first part, or that follows one of `layers_pattern`."""
        parts = module.split(".")
        for index in range(1, len(parts) - 1):
            before = ".".join(parts[:index])
            if self._config.layers_pattern:
                listed = any(
                    before == name or before.endswith(f".{name}")
                    for name in self._config.layers_pattern
                )
            else:
                listed = index > 1
            if listed and parts[index].isdecimal():
                return int(parts[index])
        return None


def _names(names: frozenset[str], module: str) -> bool:
    """Whether a name is one of them, or its end is."""
    at = len(module) if names else -1
    while at >= 0:
        at = module.rfind(".", 0, at)
        if module[at + 1 :] in names:
            return True
    return False


def parse(raw: Mapping[str, Any], *, where: str) -> LoraConfig:
    """The config's meaning; `where` is the adapter's name in errors.

    Raises UnsupportedError listing every active field that lorakit cannot express, and FormatError
    listing every field that has the wrong type.
    """
    _refuse_active(raw, where)
    reader = _Reader(raw)
    layers = reader.ints("layers_to_transform")
    tokens = raw.get("trainable_token_indices")
    config = LoraConfig(
        r=reader.whole("r", 8, 1, MAX_RANK),
        alpha=reader.number("lora_alpha", 8.0),
        use_rslora=reader.flag("use_rslora"),
        ranks=reader.table("rank_pattern", lambda v: _is_int(v) and 1 <= v <= MAX_RANK),
        alphas=reader.table("alpha_pattern", _is_number),
        target_modules=reader.names("target_modules") or None,
        target_parameters=frozenset(reader.listed("target_parameters")),
        experts_flipped=flipped_by(raw.get("peft_version")),
        exclude_modules=reader.names("exclude_modules"),
        layers=frozenset(layers) if layers else None,
        layers_pattern=reader.listed("layers_pattern"),
        modules_to_save=reader.listed("modules_to_save"),
        use_dora=reader.flag("use_dora"),
        token_indices=(
            reader.token_table(tokens)
            if isinstance(tokens, dict)
            else {"embed_tokens": tuple(reader.ints("trainable_token_indices"))}
            if tokens
            else {}
        ),
        invocation_tokens=tuple(reader.ints("alora_invocation_tokens")),
        raw=dict(raw),
    )
    if reader.faults:
        raise FormatError(
            f"{where}: adapter_config.json has fields of the wrong kind", items=reader.faults
        )
    return config


def _refuse_active(raw: Mapping[str, Any], where: str) -> None:
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedError(
            f"{where} is a PEFT adapter of type {kind!r:.40}, not LoRA",
            hint="merge it into its base with PEFT and use the merged model",
        )
    faults = [f"{name}: {reason}" for name, reason in ACTIVE.items() if raw.get(name)]
    init = str(raw.get("init_lora_weights", True)).lower()
    if init.startswith(BASE_CHANGING):
        faults.append(f"init_lora_weights = {init!r}: its base is not the original base model")
    elif init not in PLAIN_INITS:
        faults.append(f"init_lora_weights = {init!r}: lorakit does not know this initialisation")
    unknown = [name for name in raw if name not in INERT | READ | set(ACTIVE)]
    faults += [
        f"{name}: lorakit does not know this option"
        for name in unknown
        if raw[name] and (name.startswith("use_") or name.endswith("_config"))
    ]
    if faults:
        changed = init.startswith(BASE_CHANGING)
        raise UnsupportedError(
            f"the PEFT adapter in {where} computes more than lorakit can express",
            items=faults,
            hint="PiSSA, OLoRA, CorDA and LoRA-GA are converted where the initial adapter is "
            "given (init= or a folder pissa_init and so on within); PEFT can do it "
            "too (save_pretrained with path_initial_model_for_weight_conversion). Merge the "
            "others into their base with PEFT"
            if changed
            else "merge it into its base with PEFT and use the merged model",
        )


def flipped_by(version: object) -> bool | None:
    """Of "0.21.2.dev0@abc". PEFT writes its version since 0.18; others may write none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})", version) if isinstance(version, str) else None
    return (int(found[1]), int(found[2])) < (0, 19) if found else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e30


class _Reader:
    """Reads typed fields and collects what is wrong with them."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self.faults: list[str] = []

    def _fault(self, name: str, expected: str) -> None:
        shown = repr(self._raw.get(name))
        self.faults.append(f"{name}: expected {expected}, found {shown[:80]}")

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self._raw.get(name, default)
        if _is_int(value) and low <= value <= high:
            return int(value)
        self._fault(name, f"a whole number from {low} to {high}")
        return default

    def number(self, name: str, default: float) -> float:
        value = self._raw.get(name, default)
        if _is_number(value):
            return float(value)
        self._fault(name, "a finite number")
        return default

    def flag(self, name: str) -> bool:
        value = self._raw.get(name) or False
        if not isinstance(value, bool):
            self._fault(name, "true or false")
        return bool(value)

    def table(self, name: str, valid: Any) -> dict[str, Any]:
        value = self._raw.get(name) or {}
        if isinstance(value, dict):
            found: Collection[Any] = value.values()
            if set(map(type, found)) <= {int, float}:
                found = set(found)  # a few numbers, however many names
            if all(valid(v) for v in found):
                return _asking(value)
        self._fault(name, "an object of names and numbers")
        return {}

    def names(self, name: str) -> frozenset[str] | str:
        value = self._raw.get(name)
        return asking_unwrapped(value) if isinstance(value, str) else frozenset(self.listed(name))

    def listed(self, name: str) -> tuple[str, ...]:
        value = self._raw.get(name) or ()
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(map(asking_unwrapped, value))
        self._fault(name, "a list of names")
        return ()

    def ints(self, name: str) -> list[int]:
        value = self._raw.get(name)
        value = [] if value is None else [value] if _is_int(value) else value
        if isinstance(value, list) and len(value) <= MAX_TOKENS and _all_token_ids(value):
            return value
        self._fault(name, "a list of whole numbers")
        return []

    def token_table(self, tokens: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        if all(isinstance(ids, list) and _all_token_ids(ids) for ids in tokens.values()):
            return _asking({name: tuple(ids) for name, ids in tokens.items()})
        self._fault("trainable_token_indices", "lists of token ids")
        return {}


def _asking(table: dict[str, Any]) -> dict[str, Any]:
    """A table by what asks for no wrapper; as it is where two names would become one."""
    plain = {asking_unwrapped(name): value for name, value in table.items()}
    return plain if len(plain) == len(table) else table


def _all_token_ids(values: list[Any]) -> bool:
    return all(_is_int(value) and 0 <= value < 1 << 31 for value in values)
