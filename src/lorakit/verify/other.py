"""What a base with adapters is compared with: the other side made, of what opening.py reads.

`verify_against` opens both sides, compares them and says by which rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.engines.onnx.options import CALIBRATED
from lorakit.errors import ParameterError
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.merge.record import differences, read_record
from lorakit.model.adapter_config import config_of
from lorakit.model.load import unused_name
from lorakit.sources import fetch
from lorakit.sources.scaled import scaled
from lorakit.verify.answers import REPEATS, compare_answers
from lorakit.verify.forms import GGUF, MOST, CostLimits
from lorakit.verify.opening import Opening, Other, parse_other
from lorakit.verify.parity import TOLERANCE, LogitsOf, ParityReport, Rounding, verify
from lorakit.verify.prompts import PromptChoice, samples_for
from lorakit.verify.sides import (
    adapted,
    built_in,
    coarsest,
    merged_weights,
    peft_logits,
    recorded,
    scale_steps,
    stored_dtype,
)
from lorakit.verify.verdict import Evidence, Stored

if TYPE_CHECKING:
    from lorakit.model.model import Model

_PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of GGUF


@dataclass(frozen=True, slots=True)
class Side:
    """The other side: its logits, the prompts that it brings along, and what to say of it.

    stored: the coarsest dtype whose rounding is between the sides; None where weights are
    quantised, which no rounding of floats explains. form: the name in forms.MOST of what they are
    held as, where the sides hold them in two. model: the other side, where it is a model.
    """

    logits: LogitsOf
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    stored: Stored | None = "float32"
    weights: Sequence[Evidence] = ()  # of a merge, to settle its scales
    notes: Sequence[str] = ()
    form: str = ""
    model: Model | None = None


def verify_against(
    opening: Opening,
    against: Sequence[str],
    *,
    prompts: PromptChoice | None = None,
    tolerance: float | None = None,
    max_kl: float | None = None,
    min_top1: float | None = None,
    repeats: int = REPEATS,
) -> ParityReport:
    """Compare a base with adapters with something else; see docs/verify.md for what `against` says.

    Judged by what rounding of the dtypes that the sides are stored in explains; where they hold
    the weights in two forms, by what the KL of such a form may be (forms.py), and both sides answer
    the prompts too, the other with `repeats` requests made again. tolerance: judge by the largest
    difference instead. max_kl, min_top1: judge by these instead.
    Raises ParameterError for words that make no sense, what `lorakit.open`, `load_adapter`,
    `recorded` and `peft_logits` raise for what is opened, and what `verify` and `compare_answers`
    raise.
    """
    other, choice = parse_other(against), prompts or PromptChoice()
    _require_calibrated(opening, other)
    with ExitStack() as stack:
        model = stack.enter_context(opening.open())
        scales = {info.name: info.scale for info in model.adapters if info.scale is not None}
        named = choice.read(model)
        side = other_side(other, model, opening, choice, stack)
        limited = max_kl is not None or min_top1 is not None
        limits = CostLimits(form=side.form, max_kl=max_kl, min_top1=min_top1)
        judged = limits if limited or (side.form and tolerance is None) else None
        samples = samples_for(model.tokenizer, model.capabilities.context) if judged else {}
        chosen = named or side.prompts or samples or built_in(model)
        held = _held(opening, model)
        stored = side.stored if not held else None
        report = verify(
            adapted(model, scales),
            side.logits,
            chosen,
            tolerance=tolerance,
            rounding=Rounding(stored, _steps(model, scales), side.weights) if stored else None,
            limits=judged,
            plain=adapted(model, {}) if scales else None,
            names=(opening.text, other.text),
            notes=[*([] if judged else rounded(held)), *side.notes],
        )
        if not judged or side.model is None or report.total.non_finite:
            return report
        asked = list(chosen.values())
        answers = compare_answers(model, side.model, asked, repeats=repeats)
        return replace(report, answers=answers)


def _require_calibrated(opening: Opening, other: Other) -> None:
    held = {opening.quantize, other.value if other.kind == "quantize" else "none"}
    if opening.calibration is not None and not held & set(CALIBRATED):
        raise ParameterError(
            "a calibration text is for weights of 8 and 4 bits, and neither side holds them so",
            hint="compare with quantize:int8, or leave it out",
        )


def _steps(model: Model, scales: Mapping[str, float]) -> Mapping[str, LogitsOf]:
    """What scales that are a little wrong would give, where adapters can have other scales."""
    return {} if model.base.held else scale_steps(model, scales)


def _held(opening: Opening, model: Model) -> str:
    """The form that a side's weights are held in, a name in forms.MOST; "" for float32."""
    own = model.base.exported
    if own is not None:
        return "" if own.form == "none" else f"{own.form} export"
    return "" if opening.quantize == "none" else opening.quantize


def other_side(
    other: Other, model: Model, opening: Opening, prompts: PromptChoice, stack: ExitStack
) -> Side:
    """Make the other side; what it opens is closed by `stack`."""
    adapters = opening.adapters
    if other.kind == "base":
        return Side(adapted(model, {}))
    if other.kind == "adapters":
        first = _loaded(model)
        scales = load_others(model, other.references, adapters, opening.reading)
        itself = _itself(other.references == adapters)
        handles = [model.find(name) for name in [*first, *scales]]
        values = [handle.adapter for handle in handles if handle is not None]
        return Side(adapted(model, scales), stored=stored_dtype(values), notes=itself)
    held = _held(opening, model)
    if other.kind == "record":
        path, _, family = other.value.partition("#")
        known = prompts.token_ids() or None
        found = recorded(Path(path), family or None, likely=_likely(adapters), ids=known)
        return Side(*found, form=held)
    if other.kind == "peft":
        model.base.require_weights()
        get = partial(fetch, allow_private=opening.allow_private)
        said = [scaled(reference) for reference in adapters]
        pairs = [
            (get(each.path).expanduser(), 1.0 if info.scale is None else info.scale)
            for each, info in zip(said, model.adapters, strict=True)
        ]
        absolute = [each.absolute for each in said]
        logits = stack.enter_context(peft_logits(model.base.path, pairs, absolute=absolute))
        return Side(logits, form=held)
    changed = opening.changed(other)
    opened = stack.enter_context(changed.open())
    scales = {info.name: info.scale for info in model.adapters if info.scale is not None}
    stored = between(opened, model)
    return Side(
        opened.logits,
        stored=stored if changed.quantize == "none" else None,
        weights=merged_weights(model, scales, opened) if other.kind == "model" else (),
        notes=[
            *_native(opened, model),
            *_itself(changed == opening),
            *_unlike(opened, model, scales),
        ],
        form=_form((opening, model), (changed, opened)),
        model=opened,
    )


def _unlike(merged: Model, model: Model, scales: Mapping[str, float]) -> list[str]:
    """What a merged folder's own record says against the comparison."""
    found = [(model.find(name), scale) for name, scale in scales.items()]
    adapters = [(handle.adapter, scale) for handle, scale in found if handle is not None]
    return differences(read_record(merged.base.path), model.base, adapters)


def _form(one: tuple[Opening, Model], two: tuple[Opening, Model]) -> str:
    """The coarsest that a side is held in; "" where both hold the same weights, or floats."""
    if (one[0].base, one[0].quantize) == (two[0].base, two[0].quantize):
        return ""
    held = [_held(*side) for side in (one, two)]
    models = [model for _, model in (one, two) if model.base.is_gguf]
    held += [GGUF for model in models if "quantised" in weights_dtypes(model)]
    return max((form for form in held if form in MOST), key=MOST.__getitem__, default="")


def load_others(
    model: Model,
    references: Sequence[str],
    first: Sequence[str],
    reading: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Load the other adapters beside the first ones; one without a scale takes that of the adapter
    in its place."""
    active = [info.scale for info in model.adapters if info.scale is not None]
    paired = len(references) == len(first) == len(active)
    scales: dict[str, float] = {}
    for number, reference in enumerate(references):
        config = config_of(reference, **(reading or {}))
        if paired and config.scale is None and config.absolute_scale is None:
            absolute = config_of(first[number]).absolute_scale
            config = replace(config, absolute_scale=absolute)
            scale: float | None = active[number]
        else:
            scale = config.scale
        loaded = model.load_adapter(config, unused_name("against", _loaded(model)))
        scales[loaded.name] = 1.0 if scale is None else scale
    return scales


def _loaded(model: Model) -> list[str]:
    return [info.name for info in model.adapters]


def _likely(adapters: Sequence[str]) -> str:
    """The name that recorded logits of these adapters would have."""
    said = {scaled(reference) for reference in adapters}
    scales = {1.0 if each.scale is None else each.scale for each in said}
    if len(scales) > 1 or any(each.absolute is not None for each in said):
        return "logits"
    return f"scale{scales.pop():g}" if scales else "base"


def between(other: Model, first: Model) -> Stored | None:
    """The rounding between two opened models: none but float32's where they read the same file."""
    half = ["float16"] * (_approximates(other) != _approximates(first))
    if other.base.path == first.base.path:
        return coarsest(half)
    names = [*weights_dtypes(other), *weights_dtypes(first), *half]
    return None if "quantised" in names else coarsest(names)


def weights_dtypes(model: Model) -> set[str]:
    """The dtypes that a model's file stores weights in; "quantised" for GGUF's blocks and
    what an export holds otherwise than in float32."""
    base = model.base
    if base.exported is not None:
        return {"float32" if base.exported.form == "none" else "quantised"}
    if base.is_gguf:
        kinds = {tensor.kind for tensor in open_gguf_model(base.path).tensors.values()}
        return {_PLAIN.get(kind, "quantised") for kind in kinds}
    return {tensor.dtype.name for tensor in base.tensors.values()}


def _approximates(model: Model) -> bool:
    """Whether llama.cpp runs it and takes GELU from its table of float16 values."""
    return model.base.is_gguf and model.base.decoder.activation.startswith("gelu")


def rounded(held: str) -> list[str]:
    """What to say of quantised weights."""
    if not held:
        return []
    return [f"weights are held as {held}: a tolerance of {TOLERANCE:g} is for float32"]


def _native(other: Model, first: Model) -> list[str]:
    """llama.cpp beside another engine: what float32 alone does not explain."""
    if other.base.is_gguf != first.base.is_gguf and (_approximates(other) or _approximates(first)):
        return [
            "one side is a GGUF file: llama.cpp takes GELU from a float16 table, which moves the "
            "logits of Gemma and GPT-2 by 1e-3"
        ]
    return []


def _itself(same: bool) -> list[str]:
    return ["both sides are the same thing: this shows that it repeats, nothing else"] * same
