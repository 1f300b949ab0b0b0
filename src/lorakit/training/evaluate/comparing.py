"""Opens what is to be compared, one model after another, and evaluates it.

Sides that share a model (other adapters, other scales) run on it in one mixed batch. Everything
that can be found wrong without running is found before the first model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from lorakit.base.gguf import open_base
from lorakit.base.grown import grown
from lorakit.chat.dialogue import Dialogue
from lorakit.check import for_text, require_fit
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.table import ENGINES, choose_engine, make_options
from lorakit.engines.torch.options import Device
from lorakit.errors import MissingExtraError
from lorakit.formats import read_adapter
from lorakit.model.adapter_config import AdapterConfig
from lorakit.model.adapters import Scales
from lorakit.model.load import is_held, unused_name
from lorakit.model.model import Model
from lorakit.model.open import open as open_model
from lorakit.sources import OnProgress, fetch
from lorakit.training.data import Example
from lorakit.training.evaluate.comparison import Comparison, Learnt
from lorakit.training.evaluate.constrained import tool_uses
from lorakit.training.evaluate.contestants import Contestant
from lorakit.training.evaluate.evaluating import OnDone, evaluate_all
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.work import Rules, require_dialogue, to_answer

Waiting = Callable[[], AbstractContextManager[object]]  # entered while something is opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How models are opened, beside what each side says itself. device: of the torch engine.

    waiting: entered while a model is opened, and progress called for what is fetched. reading: how
    all adapters are read, as fields of AdapterConfig.
    """

    threads: int | None = None
    context: int | None = None
    device: Device | None = None
    gpu_layers: int | None = None
    allow_private: bool = False
    waiting: Waiting = nullcontext
    progress: OnProgress | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def open(
        self, side: Contestant, applied: Sequence[AdapterConfig], batch: int
    ) -> tuple[Model, dict[AdapterConfig, str]]:
        """A side's model with its merged adapters in it and these loaded, none of them active; and
        the names of these. Raises what lorakit.open raises.

        They are opened together, so that the base has the tokens that they bring.
        """
        merged = [each.merged for each in side.adapters if side.merged]
        native = None if self.gpu_layers is None else LlamaOptions(gpu_layers=self.gpu_layers)
        with self.waiting():
            model = open_model(
                side.base,
                adapter=[replace(each, **self.reading) for each in (*merged, *applied)],
                engine=side.engine,
                quantize=side.quantize,
                threads=self.threads,
                context=self.context,
                max_batch=batch,
                device=self.device if side.engine == "torch" else None,
                llama=native,
                progress=self.progress,
                allow_private=self.allow_private,
            )
        model.clear_adapters()
        names: dict[AdapterConfig, str] = {}
        for config in applied:  # as `open` names them
            held = is_held(config, model.base.held)
            taken = {*names.values(), *model.base.held}
            names[config] = str(config.path) if held else unused_name(config.name, taken)
        return model, names


def compare(
    sides: Sequence[Contestant],
    examples: Sequence[Example],
    rules: Rules,
    opening: Opening | None = None,
    *,
    learnt: Learnt | None = None,
    progress: OnDone | None = None,
) -> Comparison:
    """Evaluate all sides on the same examples; the first is what the others are compared with.

    learnt: what the first was trained on, to tell new phrasings from known ones.
    Raises what `evaluate`, lorakit.open and Model.load_adapter raise, most of it before the first
    model runs.
    """
    opening = opening or Opening()
    for mode in {side.constrained for side in sides} - {False}:
        tool_uses([each for _, each in to_answer(examples, rules)], mode)
    by_model: dict[Contestant, list[Contestant]] = {}
    for side in sides:
        by_model.setdefault(side.model, []).append(side)
    for group in list(by_model.values())[1:]:  # opening the first says it at once
        _require(group, examples, opening)
    found: dict[Contestant, Evaluation] = {}
    before, total = 0, len(examples) * sum(len({s.setting for s in g}) for g in by_model.values())
    for model, group in by_model.items():

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        applied = dict.fromkeys(each.loaded for side in group for each in side.applied)
        opened, names = opening.open(model, tuple(applied), rules.batch)
        with opened:
            found |= _evaluate_group(opened, names, group, examples, rules, report)
        before += len(examples) * len({side.setting for side in group})
    evaluations = [(side, found[side]) for side in sides]
    return Comparison.of(evaluations, declare=rules.declare, learnt=learnt)


def _evaluate_group(
    model: Model,
    names: Mapping[AdapterConfig, str],
    group: Sequence[Contestant],
    examples: Sequence[Example],
    rules: Rules,
    report: OnDone,
) -> dict[Contestant, Evaluation]:
    """All sides of one model, in one mixed batch; those that are the same run once."""
    settings: dict[str, Scales] = {}
    for applied, constrained in dict.fromkeys(side.setting for side in group):
        scales = dict(_scaled(model, names[each.loaded], each.scale) for each in applied)
        settings[repr((applied, constrained))] = scales
    modes = {repr(side.setting): side.constrained for side in group}
    found = evaluate_all(model, examples, settings, rules, constrained=modes, progress=report)
    return {side: found[repr(side.setting)] for side in group}


def _scaled(model: Model, name: str, scale: float | None) -> tuple[str, float]:
    """A loaded adapter with its scale, the default where none is said."""
    if scale is not None:
        return name, scale
    loaded = model.find(name)
    return name, 1.0 if loaded is None else loaded.info.default_scale


# Before anything runs.


def _require(group: Sequence[Contestant], examples: Sequence[Example], opening: Opening) -> None:
    """What opening a group's model and its adapters would raise, as far as that is cheap."""
    side = group[0]
    with opening.waiting():
        get = partial(fetch, progress=opening.progress, allow_private=opening.allow_private)
        base = open_base(get(side.base, kind="base"))
        engine = choose_engine(side.engine, base)
        make_options(engine, {"quantize": side.quantize})
        _require_packages(engine)
        tokenizer = ENGINES[engine].tokenizer(base)
        templates = base.templates if base.is_gguf else None
        require_dialogue(Dialogue(base.path, tokenizer, templates), examples)
        if side.merged:
            base.require_weights()
        named = dict.fromkeys(a.loaded for each in group for a in each.adapters)
        for config in (each for each in named if not is_held(each, base.held)):
            adapter = for_text(read_adapter(get(config.path), base.decoder, **opening.reading))
            require_fit(adapter, grown(base, [(adapter, 1.0)]))


def _require_packages(engine: str) -> None:
    """The torch engine imports them when it opens; llama.cpp's tokenizer loads its own."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if engine == "torch" and missing:
        raise MissingExtraError(
            f"the torch engine needs {' and '.join(missing)}", hint="pip install 'lorakit[torch]'"
        )
