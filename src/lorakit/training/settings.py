"""What a user may choose of a training run; every default is written here, once.

What is left open depends on the size of the base and on the data: `filled` says it, from runs on
the demo base (2 million parameters) and on SmolLM2-135M, see docs/decisions.md. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, get_args

from lorakit.base.folder import Base
from lorakit.engines.table import EngineName
from lorakit.engines.torch.options import Device
from lorakit.errors import ParameterError
from lorakit.formats.peft.config import MAX_RANK
from lorakit.training.core.spec import LoraSpec
from lorakit.values import finite, shown, whole

Decay = Literal["linear", "cosine", "constant"]
DType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train, and how fast.

    steps: updates of the adapter; None: by `epochs` over the data, or by the size of the base.
    batch: examples a step, replayed ones included. accumulate: in how many passes they are
    computed, which needs less memory and changes nothing else. rate: the largest, which `warmup`
    steps lead up to; `decay` leads it to zero.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int | None = None
    accumulate: int = 1
    rate: float | None = None
    warmup: int | None = None
    decay: Decay = "linear"
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a batch is made of.

    declare: how often the prompt holds the tools' declarations, from 0 to 1; without them the
    tools are baked into the weights. augment: give each drawn example of tool calls other values
    and another wording. replay_share: of a batch, requests whose answers the base must not lose;
    None: a third where the data teaches tool calls or such requests are given, else none.
    """

    declare: float = 0.0
    augment: bool = True
    replay_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """When to measure and to save.

    holdout: how many training examples are held out to choose the best state by; None: a tenth, up
    to 64, of 100 and more. evaluate_every: steps between two measurements; None: ten in a run, two
    on the torch engine. patience: stop after so many without an improvement; None: never.
    checkpoint_every: steps between two checkpoints; None: about every half minute. sweep: measure
    other scales at the end.
    """

    holdout: int | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    sweep: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """On what to compute.

    dtype: "auto" is bfloat16 where the processor is fast at it, with the adapter in float32.
    checkpointing: compute activations twice to need less memory; None: where memory is short.
    quantize: the frozen base in 4 bits ("nf4", on CUDA with bitsandbytes). engine: on which the
    base answers and evaluations run; None: onnx.
    """

    dtype: DType = "auto"
    device: Device | None = None
    checkpointing: bool | None = None
    quantize: Literal["nf4"] | None = None
    engine: EngineName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """All of it. The same seed, data and settings give the same adapter, byte for byte, on the
    same machine and packages."""

    lora: LoraSpec = field(default_factory=LoraSpec)
    schedule: Schedule = field(default_factory=Schedule)
    mixture: Mixture = field(default_factory=Mixture)
    checks: Checks = field(default_factory=Checks)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0


class TrainKeywords(TypedDict, total=False):
    """The settings as keyword arguments of `train`; see LoraSpec, Schedule, Mixture, Checks and
    Compute."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool
    dora: bool
    pissa: bool
    embeddings: bool
    tokens: tuple[int, ...]
    steps: int | None
    epochs: float | None
    batch: int | None
    accumulate: int
    rate: float | None
    warmup: int | None
    decay: Decay
    weight_decay: float
    declare: float
    augment: bool
    replay_share: float | None
    holdout: int | None
    evaluate_every: int | None
    patience: int | None
    checkpoint_every: int | None
    sweep: bool
    dtype: DType
    device: Device | None
    checkpointing: bool | None
    quantize: Literal["nf4"] | None
    engine: EngineName | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What came out well for bases of up to so many parameters.

    passes: over the data, so long as that is between `fewest` and `steps` steps.
    """

    parameters: float
    rank: int
    rate: float
    batch: int
    steps: int
    fewest: int
    passes: float


PRESETS = (
    Preset(parameters=3e7, rank=8, rate=1.2e-2, batch=33, steps=800, fewest=700, passes=20),
    Preset(parameters=1e9, rank=16, rate=1e-3, batch=16, steps=400, fewest=50, passes=4),
    Preset(parameters=math.inf, rank=16, rate=2e-4, batch=16, steps=400, fewest=50, passes=3),
)
MOST = (1 << 63) - 1  # that torch counts with
WARMUP = 20  # steps, or a tenth of a short run
REPLAY = 1 / 3
HELD, MOST_HELD, FEW = 0.1, 64, 100  # of the data, at most, and from how many examples on
MEASUREMENTS, FEW_MEASUREMENTS = 10, 2  # of a run, on the onnx engine and on torch


def make_settings(given: Mapping[str, Any], base: Base) -> TrainSettings:
    """Settings from keywords, with rank and alpha filled in. Raises ParameterError."""
    preset = _preset(base)
    rank = given.get("rank")
    lora = {"rank": preset.rank if rank is None else rank}
    lora["alpha"] = 2 * lora["rank"] if whole(lora["rank"]) else 0  # refused by its check
    kinds = {"lora": LoraSpec, "schedule": Schedule, "mixture": Mixture} | {
        "checks": Checks,
        "compute": Compute,
    }
    homes = {f.name: part for part, kind in kinds.items() for f in fields(kind)} | {"seed": ""}
    if unknown := sorted(given.keys() - homes.keys()):
        raise ParameterError(
            f"unknown settings: {', '.join(unknown)}", hint=f"known: {', '.join(sorted(homes))}"
        )
    faults = [fault for name, value in given.items() if (fault := _fault(name, value))]
    if faults:
        raise ParameterError("these settings cannot be used", items=faults)
    values: dict[str, dict[str, Any]] = {part: {} for part in kinds} | {"lora": lora}
    for name, value in given.items():
        if name != "seed" and not (name in ("rank", "alpha") and value is None):
            values[homes[name]][name] = tuple(value) if name in ("targets", "tokens") else value
    parts = {part: kind(**values[part]) for part, kind in kinds.items()}
    return TrainSettings(**parts, seed=given.get("seed", 0))


def filled(settings: TrainSettings, base: Base, *, examples: int, replay: bool) -> TrainSettings:
    """The settings with nothing left open.

    examples: to train on. replay: whether the data calls for it by default.
    """
    preset, mixture = _preset(base), settings.mixture
    share = mixture.replay_share
    mixture = replace(mixture, replay_share=(REPLAY if replay else 0.0) if share is None else share)
    schedule = settings.schedule
    batch = preset.batch if schedule.batch is None else schedule.batch
    own = max(batch - round(batch * (mixture.replay_share or 0.0)), 1)
    steps = schedule.steps
    if steps is None and schedule.epochs is not None:
        steps = max(math.ceil(schedule.epochs * examples / own), 1)
    elif steps is None:
        steps = math.ceil(preset.passes * examples / own)
        steps = min(max(steps, preset.fewest), preset.steps)
    warmup = min(WARMUP, steps // 10) if schedule.warmup is None else schedule.warmup
    schedule = replace(
        schedule,
        steps=steps,
        batch=batch,
        rate=preset.rate if schedule.rate is None else schedule.rate,
        warmup=warmup,
    )
    checks = settings.checks
    if checks.evaluate_every is None:
        slow = settings.compute.engine == "torch"
        every = max(steps // (FEW_MEASUREMENTS if slow else MEASUREMENTS), 1)
        checks = replace(checks, evaluate_every=every)
    return replace(settings, schedule=schedule, mixture=mixture, checks=checks)


def held_out(settings: TrainSettings, examples: int) -> int:
    """How many of the examples are held out to choose the best state by."""
    asked = settings.checks.holdout
    if asked is None:
        return min(int(examples * HELD), MOST_HELD) if examples >= FEW else 0
    if asked >= examples:
        raise ParameterError(
            f"holdout must leave examples to train on: {asked} of {examples} are held out"
        )
    return asked


def _preset(base: Base) -> Preset:
    size = sum(math.prod(shape) for shape in base.decoder.parameters().values())
    return next(preset for preset in PRESETS if size <= preset.parameters)


def _fault(name: str, value: Any) -> str:
    """What is wrong with a setting; "" where it may be used."""
    expected, valid = _RULES[name]
    return "" if valid(value) else f"{name} must be {expected}, found {shown(value)}"


def _count(low: int, most: int = MOST, *, none: bool = False) -> Any:
    said = f"a whole number of {low} or more" if most == MOST else f"a whole number, {low}-{most}"
    said += " or None" if none else ""
    return said, lambda v: (none and v is None) or (whole(v) and low <= v <= most)


def _number(said: str, valid: Any, *, none: bool = False) -> Any:
    return said, lambda v: (none and v is None) or (finite(v) and valid(v))


def _words(*words: str | None) -> Any:
    named = ", ".join(str(word) for word in words)
    return f"one of {named}", lambda v: any(v is word or v == word for word in words)


def _many(said: str, valid: Any) -> Any:
    return said, lambda v: isinstance(v, list | tuple) and all(map(valid, v))


_SHARE = _number("a number from 0 to 1", lambda v: 0 <= v <= 1)
_TRUTH = ("True or False", lambda v: isinstance(v, bool))
_RULES: Mapping[str, Any] = {
    "rank": _count(1, MAX_RANK, none=True),
    "alpha": _number("a number above 0", lambda v: v > 0, none=True),
    "targets": _many("names of modules", lambda v: isinstance(v, str)),
    "rslora": _TRUTH,
    "dora": _TRUTH,
    "pissa": _TRUTH,
    "embeddings": _TRUTH,
    "tokens": _many("token ids", whole),
    "steps": _count(1, none=True),
    "epochs": _number("a number above 0", lambda v: v > 0, none=True),
    "batch": _count(1, none=True),
    "accumulate": _count(1),
    "rate": _number("a number above 0", lambda v: v > 0, none=True),
    "warmup": _count(0, none=True),
    "decay": _words(*get_args(Decay)),
    "weight_decay": _number("a number of 0 or more", lambda v: v >= 0),
    "declare": _SHARE,
    "augment": _TRUTH,
    "replay_share": _number("a number from 0 to below 1", lambda v: 0 <= v < 1, none=True),
    "holdout": _count(0, none=True),
    "evaluate_every": _count(1, none=True),
    "patience": _count(1, none=True),
    "checkpoint_every": _count(1, none=True),
    "sweep": _TRUTH,
    "dtype": _words(*get_args(DType)),
    "device": _words(None, *get_args(Device)),
    "checkpointing": _words(None, True, False),  # type: ignore[arg-type]
    "quantize": _words(None, "nf4"),
    "engine": _words(None, "onnx", "torch"),
    "seed": _count(0),
}
