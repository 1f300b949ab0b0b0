"""The things whose logits are compared: an open model, PEFT, a file of recorded logits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.errors import (
    EngineError,
    FormatError,
    LorakitError,
    MissingExtraError,
    ParameterError,
)
from lorakit.files.npz import read_npz
from lorakit.verify.parity import LogitsOf, ParityReport, Rounding, verify
from lorakit.verify.prompts import prompts_for
from lorakit.verify.verdict import STEP, UNITS, Evidence, Stored
from lorakit.verify.weights import weight_evidence

if TYPE_CHECKING:
    from lorakit.model.adapters import Scales
    from lorakit.model.model import Model

AnyAdapter = str | os.PathLike[str] | Adapter


def adapted(model: Model, scales: Scales) -> LogitsOf:
    """An open model with some of its loaded adapters; {} is the plain base."""
    return lambda ids: model.logits(ids, adapters=scales)


def scale_steps(model: Model, scales: Mapping[str, float]) -> dict[str, LogitsOf]:
    """The model with one scale a percent up or down: what a comparison must tell from rounding."""
    return {
        step: adapted(model, {**scales, name: scales[name] * factor})
        for step, (name, factor) in _steps(scales).items()
    }


def merged_weights(
    model: Model, scales: Mapping[str, float], merged: Model
) -> tuple[Evidence, ...]:
    """At which scales a model's adapters are in another model's weights; see weights.py."""
    found = {name: model.find(name) for name in scales}
    adapters = {
        name: (handle.adapter, scales[name]) for name, handle in found.items() if handle is not None
    }
    return weight_evidence(model.base, merged.base, adapters, _steps(scales))


def _steps(scales: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """What a scale that is wrong by a percent is called, the adapter, and the factor."""
    return {
        f"{name!r} at {factor:g} of its scale": (name, factor)
        for name, scale in scales.items()
        if scale
        for factor in (1 + STEP, 1 - STEP)
    }


def stored_dtype(adapters: Iterable[Adapter]) -> Stored:
    """The coarsest dtype of the adapters' values; float32 for none."""
    return coarsest(array.dtype.name for adapter in adapters for array in _arrays(adapter))


def coarsest(names: Iterable[str]) -> Stored:
    """Of names of dtypes the one that rounds most; what is no less than float32 is float32."""
    found = set(names)
    return max((each for each in UNITS if each in found), key=UNITS.__getitem__, default="float32")


def _arrays(adapter: Adapter) -> Iterator[npt.NDArray[Any]]:
    for delta in adapter.deltas:
        yield from (delta.a, delta.b)
    yield from (replacement.value for replacement in adapter.replacements)


def verify_conversion(
    model: Model,
    source: AnyAdapter,
    target: AnyAdapter,
    *,
    prompts: Mapping[str, Sequence[int]] | None = None,
    tolerance: float | None = None,
    names: tuple[str, str] = ("source", "target"),
    notes: Sequence[str] = (),
) -> ParityReport:
    """Whether an adapter and another form of it give the same logits on an open model.

    prompts: None takes the built-in ones. tolerance: None judges by the rounding of the coarsest
    dtype that either stores its values in. Both are loaded and unloaded again. Raises what
    `Model.load_adapter` and `verify` raise.
    """
    one = model.load_adapter(source, unused(model, "verify-source"))
    try:
        other = model.load_adapter(target, unused(model, "verify-target"))
        try:
            return verify(
                adapted(model, {one.name: 1.0}),
                adapted(model, {other.name: 1.0}),
                prompts or built_in(model),
                tolerance=tolerance,
                rounding=Rounding(
                    stored_dtype([one.adapter, other.adapter]), scale_steps(model, {one.name: 1.0})
                ),
                plain=adapted(model, {}),
                names=names,
                notes=notes,
            )
        finally:
            other.unload()
    finally:
        one.unload()


def built_in(model: Model) -> dict[str, list[int]]:
    """The built-in prompts for a model and all adapters that it has loaded."""
    handles = [model.find(info.name) for info in model.adapters]
    adapters = [handle.adapter for handle in handles if handle is not None]
    return prompts_for(model.tokenizer, model.capabilities.vocabulary, adapters)


def unused(model: Model, name: str) -> str:
    """`name`, or `name-2`, ... where the model has one of that name."""
    taken = {info.name for info in model.adapters}
    tries = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 2))]
    return next(each for each in tries if each not in taken)


# Recorded logits.


def recorded(
    path: Path,
    family: str | None = None,
    *,
    likely: str = "logits",
    ids: Mapping[str, Sequence[int]] | None = None,
) -> tuple[LogitsOf, dict[str, list[int]]]:
    """Logits from an .npz file, and the token ids that it has them for.

    family: which arrays: "logits" for logits0, logits1, ..., "scale1" for scale1_0, ...; None takes
    the only one that there is, or `likely` among several. ids: token sequences ids0, ids1, ...
    where the file holds none.
    Raises SourceError, FormatError, and ParameterError where the family must be chosen or the ids
    are missing; the function raises ParameterError for ids that were not recorded.
    """
    arrays = _read_npz(path)
    families = sorted({name.rstrip("0123456789").rstrip("_") for name in arrays} - {"ids"})
    if family is None:
        family = families[0] if len(families) == 1 else likely if likely in families else None
    if family not in families:
        raise ParameterError(
            f"{path} holds several kinds of logits"
            if family is None
            else f"{path} holds no logits {family!r}",
            items=families,
            hint=f"choose one: {path}#{families[0]}" if families else "",
        )
    known = {n: list(map(int, a)) for n, a in arrays.items() if n.startswith("ids")}
    known |= {name: list(map(int, each)) for name, each in (ids or {}).items()}
    table: dict[tuple[int, ...], npt.NDArray[Any]] = {}
    prompts: dict[str, list[int]] = {}
    for name, sequence in known.items():
        number = name.removeprefix("ids")
        found = arrays.get(f"{family}_{number}", arrays.get(f"{family}{number}"))
        if found is not None:
            table[tuple(sequence)], prompts[name] = found, sequence
    if not prompts:
        raise ParameterError(
            f"{path} does not say which token ids its logits are of",
            hint='give the file of ids that they were made from: ids="FILE.npz"',
        )
    return lambda asked: _lookup(table, path, asked), prompts


def _lookup(
    table: Mapping[tuple[int, ...], npt.NDArray[Any]], path: Path, ids: Sequence[int]
) -> npt.NDArray[Any]:
    if tuple(ids) not in table:
        raise ParameterError(f"{path} holds no logits for {list(ids)[:8]}... ({len(ids)} tokens)")
    return table[tuple(ids)]


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays = read_npz(path)
    faults = []
    for name, array in arrays.items():
        ids = name.startswith("ids")
        if array.ndim != (1 if ids else 2) or array.dtype.kind not in ("iu" if ids else "f"):
            faults.append(f"{name}: {array.dtype} {list(array.shape)}")
    if faults:
        raise FormatError(
            f"{path} is no record of logits",
            items=faults,
            hint="ids0, ... are whole numbers [tokens], logits0, ... floats [tokens, vocabulary]",
        )
    return arrays


# PEFT.


@contextmanager
def peft_logits(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    *,
    absolute: Sequence[float | None] = (),
) -> Iterator[LogitsOf]:
    """PEFT itself, in torch at float32 with eager attention, on adapters at user scales.

    Scales act as LoraLayer.set_scale does, and several adapters as PEFT's own active list.
    absolute: of each adapter what alpha / r is replaced by, or None. Raises MissingExtraError
    without the extra, ParameterError for folders that are not PEFT's, EngineError for whatever PEFT
    refuses.
    """
    from lorakit.engines.torch.versions import require_versions  # reads metadata, which is slow

    require_versions("torch", "transformers", "peft")
    try:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_log
    except ImportError as error:
        raise MissingExtraError(
            f"comparing with PEFT needs torch, transformers and peft: {error}",
            hint="pip install 'lorakit[torch]'",
        ) from error
    foreign = [str(path) for path, _ in adapters if not (path / "adapter_config.json").is_file()]
    if foreign:
        raise ParameterError(
            "PEFT reads only folders of its own format",
            items=foreign,
            hint="lorakit convert ADAPTER OUT --to peft",
        )
    with _peft_errors(), _quiet(transformers_log):
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        for number, (path, _) in enumerate(adapters):
            name = f"adapter{number}"
            if number == 0:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=name)
            else:
                model.load_adapter(str(path), adapter_name=name)
        _activate(model, [scale for _, scale in adapters], absolute)
        model.eval()

    def logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        with _peft_errors(), torch.inference_mode():
            found = model(input_ids=torch.tensor([list(ids)])).logits[0]
            result: npt.NDArray[np.float32] = found.float().numpy()
            return result

    yield logits


def _activate(model: Any, scales: Sequence[float], absolute: Sequence[float | None]) -> None:
    if not scales:
        return
    names = [f"adapter{number}" for number in range(len(scales))]
    if len(names) > 1:
        model.base_model.set_adapter(names)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            for name, scale in zip(names, scales, strict=True):
                module.set_scale(name, scale)
            for name, value in zip(names, absolute, strict=False):
                if value is not None and name in module.scaling:
                    module.scaling[name] = value


@contextmanager
def _quiet(log: Any) -> Iterator[None]:
    """No progress bars of transformers' own on the terminal."""
    before = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            log.enable_progress_bar()


@contextmanager
def _peft_errors() -> Iterator[None]:
    """What torch, transformers and PEFT raise, as one error of ours; their warnings are not about
    the user's model and stay unsaid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LorakitError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise EngineError(f"PEFT failed: {type(error).__name__}: {error}") from error
