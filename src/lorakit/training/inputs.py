"""What a run is given, fetched, read and checked as a whole before anything slow begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.check import check, require_fit
from lorakit.errors import (
    BaseModelError,
    FormatError,
    LorakitError,
    MissingExtraError,
    ParameterError,
)
from lorakit.files.bounded import as_path
from lorakit.model.adapter_config import AdapterRef
from lorakit.model.load import ready, unused_name
from lorakit.sources import default_name
from lorakit.training.bundle import DataFile
from lorakit.training.data import Example, read_examples
from lorakit.training.data.read import declare_tools
from lorakit.training.data.review import about_words
from lorakit.training.data.split import held_apart
from lorakit.training.render import Renderer
from lorakit.training.replay import Asked, everyday, read_requests
from lorakit.training.settings import TrainSettings, filled, held_out, make_settings
from lorakit.values import shown

PathLike = str | os.PathLike[str]
Examples = PathLike | Sequence[Example]
FEW = 10  # examples below which a user is warned
Fetch = Callable[..., Path]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """All of it. settings: with nothing left open. identity: what a checkpoint must agree with.

    examples: to learn from; held: held out of those. evaluation: the user's evaluation data.
    asked: requests that the base answers itself, the answers to be kept; labelled: examples of
    what to keep, held_labelled those that measure it. companions: by name.
    """

    base: Base
    settings: TrainSettings
    renderer: Renderer
    examples: tuple[Example, ...]
    held: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    asked: tuple[Asked, ...]
    labelled: tuple[Example, ...]
    held_labelled: tuple[Example, ...]
    companions: Mapping[str, Adapter]
    start: Adapter | None
    files: tuple[DataFile, ...]
    identity: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def declare(self) -> bool:
        """Whether measurements declare the tools: as most prompts of the training did."""
        return self.settings.mixture.declare > 0.5

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """Every tool that an example declares, once."""
        found: dict[str, Mapping[str, Any]] = {}
        for example in self.examples:
            for tool in example.tools:
                found.setdefault(json.dumps(tool, sort_keys=True), tool)
        return tuple(found.values())


def read_inputs(
    base: PathLike,
    data: Examples,
    get: Fetch,
    *,
    evaluation: Examples | None = None,
    tools: PathLike | None = None,
    keep: PathLike | None = None,
    replay: Examples | None = None,
    companions: Iterable[AdapterRef] = (),
    start: AdapterRef | None = None,
    settings: Mapping[str, Any],
) -> Inputs:
    """Read everything. Raises what reading and checking raise; nothing was written by then."""
    opened = open_base(get(base, kind="base"))
    opened.require_weights()
    chosen = make_settings(settings, opened)
    renderer = Renderer.of(opened)
    files: list[DataFile] = []
    read = partial(_read, tools=tools, files=files)
    given = read("train", data)
    if not given:
        raise ParameterError("there is no data to train on: give a path or Examples")
    tests = read("eval", evaluation)
    labelled = read("replay", replay)
    kept = _requests(keep, files)
    calls = any(example.task == "calls" for example in given)
    wanted = bool(kept or labelled or calls)
    if chosen.mixture.replay_share == 0 and (kept or labelled):
        raise ParameterError("replay_share 0 leaves out what keep and replay ask for")
    count = held_out(chosen, len(given))
    # With evaluation data they only choose the best state, which is worth no wording.
    examples, held = held_apart(given, count, chosen.seed, wordings=not tests)
    beside, warnings = _companions(companions, opened, get)
    begun, more = _started(start, opened, get)
    engine = chosen.compute.engine or "onnx"
    chosen = replace(chosen, compute=replace(chosen.compute, engine=engine))
    chosen = filled(chosen, opened, examples=len(examples), replay=wanted)
    asked = (*everyday([*given, *tests]), *kept) if wanted and chosen.mixture.replay_share else ()
    measured = min(len(labelled) // 7, 60)
    labelled, held_labelled = held_apart(labelled, measured, chosen.seed)
    _require_rendered(renderer, [*given, *tests], chosen.mixture.declare)
    _require_rendered(renderer, [*labelled, *held_labelled], 1.0)
    warnings += [*more, *_warnings(given, tests, held, calls)]
    warnings += _unlearnt(renderer, [*given, *labelled, *held_labelled], chosen.mixture.declare)
    if held and len(held) < (chosen.checks.holdout or 0):
        warnings.append(f"{len(held)} examples are held out, not {count}: the rest ask the same")
    found = Inputs(
        base=opened,
        settings=chosen,
        renderer=renderer,
        examples=examples,
        held=held,
        evaluation=tests,
        asked=asked,
        labelled=labelled,
        held_labelled=held_labelled,
        companions=beside,
        start=begun,
        files=tuple(files),
        identity={},
        warnings=tuple(warnings),
    )
    return replace(found, identity=_identity(found))


def require_extra() -> None:
    """Raises MissingExtraError where torch or transformers is missing or too old."""
    from lorakit.engines.torch.versions import require_versions  # reads metadata, which is slow

    hint = "pip install 'lorakit[train]'"
    try:
        require_versions("torch", "transformers")
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except MissingExtraError as error:
        raise MissingExtraError(error.message, items=error.items, hint=hint) from error
    except ImportError as error:
        raise MissingExtraError(
            f"training needs torch and transformers: {error}", hint=hint
        ) from error


def require_device(name: object) -> None:
    """Raises CapabilityError where the machine lacks a device; an unknown name is refused later."""
    from lorakit.engines.torch.loading import DEVICES, choose_device  # torch

    if isinstance(name, str) and name in DEVICES:
        choose_device(name)


def _read(
    role: str, given: Examples | None, *, tools: PathLike | None, files: list[DataFile]
) -> tuple[Example, ...]:
    if given is None:
        return ()
    if isinstance(given, str | os.PathLike):
        path = as_path(given)
        found = read_examples(path, tools=tools).require()
        files.append(DataFile.of(role, path, len(found)))
        return found
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    if strange := [shown(each) for each in found if not isinstance(each, Example)]:
        raise ParameterError(f"the {role} data must be a path or Examples, found {strange[0]}")
    if not found:
        raise FormatError(f"the {role} data holds no example")
    return found if tools is None else declare_tools(found, tools).require()


def _requests(keep: PathLike | None, files: list[DataFile]) -> list[Asked]:
    if keep is None:
        return []
    path = as_path(keep)
    found = read_requests(path)
    files.append(DataFile.of("keep", path, len(found)))
    return found


def _require_rendered(renderer: Renderer, examples: Sequence[Example], declare: float) -> None:
    """Render each example in every form that training may meet. Raises with all faults."""
    faults = []
    for example in examples:
        try:
            for declared in {declare > 0, declare == 1}:
                renderer.render(example, declared)
        except BaseModelError as error:
            if error.code != "template_missing":
                raise
            raise BaseModelError(
                error.message,
                code=error.code,
                hint='train it on {"prompt": ..., "completion": ...}, or add a chat_template.jinja',
            ) from error
        except LorakitError as error:
            faults.append("; ".join([error.message, *error.items[:2]]))
            hint = error.hint
    if faults:
        raise FormatError(
            f"{len(faults)} examples cannot be learnt from this base's template and context",
            items=faults,
            hint=hint,
        )


def _unlearnt(renderer: Renderer, examples: Sequence[Example], declare: float) -> list[str]:
    lost = [each.place for each in examples if renderer.loses_words(each, declare > 0.5)]
    return about_words(lost, lost=True)


def _companions(
    references: Iterable[AdapterRef], base: Base, get: Fetch
) -> tuple[dict[str, Adapter], list[str]]:
    found: dict[str, Adapter] = {}
    warnings: list[str] = []
    for reference in references:
        adapter, said = _adapter(reference, base, get)
        name = "companion" if isinstance(reference, Adapter) else default_name(reference)
        found[unused_name(name, {*found, "trained"})] = adapter
        warnings += said
    return found, warnings


def _started(
    reference: AdapterRef | None, base: Base, get: Fetch
) -> tuple[Adapter | None, list[str]]:
    return (None, []) if reference is None else _adapter(reference, base, get)


def _adapter(reference: AdapterRef, base: Base, get: Fetch) -> tuple[Adapter, list[str]]:
    """An adapter that fits. Raises MismatchError for one of another base."""
    found = ready(reference, base, get)
    require_fit(found.adapter, base)
    return found.adapter, [f"{found.source}: {each}" for each in check(found.adapter, base)]


def _warnings(
    given: Sequence[Example], tests: Sequence[Example], held: Sequence[Example], calls: bool
) -> list[str]:
    found = []
    if len(given) < FEW:
        count = f"{len(given)} examples are" if len(given) > 1 else "one example is"
        found.append(f"{count} very few: forty and more, in words of your users, do much better")
    if not tests and not held:
        found.append("nothing is held out to measure the adapter on: give evaluation data")
    if calls and not any(example.tools for example in given):
        found.append("no tools are declared, so that values are not checked against a schema")
    known = {_request(example) for example in given}
    leaked = [example for example in tests if _request(example) in known]
    if leaked:
        found.append(
            f"{len(leaked)} of the {len(tests)} examples of the evaluation ask what an example of "
            f"the training data asks, word for word; the first is {leaked[0].place}"
        )
    return found


def _request(example: Example) -> str:
    return json.dumps(example.messages[:-1]) if example.messages else example.prompt + example.text


def _identity(inputs: Inputs) -> dict[str, Any]:
    """What decides every bit of the adapter; when something is saved or measured after does not."""
    settings = json.loads(json.dumps(asdict(inputs.settings)))  # plain, as a checkpoint gives it
    del settings["checks"]["checkpoint_every"], settings["checks"]["sweep"]
    rows = (inputs.examples, inputs.held, inputs.labelled, inputs.held_labelled, inputs.asked)
    data = json.dumps([[asdict(one) for one in part] for part in rows], sort_keys=True)
    return {
        "base": inputs.base.fingerprint,
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "start": inputs.start.digest if inputs.start else None,
        "companions": {name: adapter.digest for name, adapter in inputs.companions.items()},
        **{f"{part}.{k}": v for part, values in settings.items() if part != "seed"
           for k, v in values.items()},
        "seed": inputs.settings.seed,
    }  # fmt: skip
