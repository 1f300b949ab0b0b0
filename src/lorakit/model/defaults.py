"""What a model's own files say about sampling: the defaults of its answers.

A folder says it in generation_config.json (transformers' GenerationConfig: without do_sample it is
greedy, whatever else stands there), a GGUF file in general.sampling.* (gguf-py, constants.py), into
which llama.cpp's converter writes the same values without do_sample.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields
from typing import Any

from lorakit.base.folder import Base, read_json
from lorakit.errors import LorakitError, ParameterError
from lorakit.runtime.params import SamplingParams
from lorakit.values import shown

GENERATION = "generation_config.json"
PLAIN = SamplingParams()
# What a file may say, by the names of SamplingParams, with the last part of a GGUF file's key.
OWN = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "",
    "repetition_penalty": "penalty_repeat",
}
FILTERS = ("top_k", "top_p", "min_p", "typical_p")
SAMPLED = 1.0  # the temperature of a model that samples and does not say at which


def defaults_of(base: Base) -> tuple[SamplingParams, list[str]]:
    """How a base's own files sample, and what is ignored of them, in words."""
    faults: list[str] = []
    if base.is_gguf:
        given = _valid({ours: base.sampling.get(key) for ours, key in OWN.items()}, faults)
        if any(name in given for name in FILTERS):
            given.setdefault("temperature", SAMPLED)
        return SamplingParams(**given), [f"{base.name}: {fault}" for fault in faults]
    try:
        said = read_json(base.path / GENERATION)
    except LorakitError as error:
        missing = not (base.path / GENERATION).is_file()
        return PLAIN, [] if missing else [f"{error.message}; the answers are greedy"]
    samples = said.get("do_sample") or False
    if not isinstance(samples, bool):
        faults.append(f"do_sample must be true or false, found {shown(samples)}")
    given = _valid(said, faults)
    given["temperature"] = given.get("temperature", SAMPLED) if samples is True else 0.0
    return SamplingParams(**given), [f"{GENERATION}: {fault}" for fault in faults]


def defaults_for(own: SamplingParams, options: Mapping[str, Any]) -> SamplingParams:
    """The defaults for a call that says these options: its mirostat takes the filters' place."""
    if options.get("mirostat_tau") is None:
        return own
    kept = {item.name: getattr(own, item.name) for item in fields(own)}
    return SamplingParams(**{name: v for name, v in kept.items() if name not in FILTERS})


def in_words(params: SamplingParams, given: Container[str] = ()) -> str:
    """Defaults that are not lorakit's own, such as "temperature 0.7, top_k 20"; or "".

    given: names that the caller says otherwise.
    """
    pairs = [(name, getattr(params, name)) for name in OWN if name not in given]
    return ", ".join(f"{name} {value:g}" for name, value in pairs if value != getattr(PLAIN, name))


def _valid(said: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The values that can be meant; the others are listed."""
    found = {}
    for name in OWN:
        value = said.get(name)
        if value is None:
            continue
        try:
            SamplingParams(**{name: value})
        except ParameterError as error:
            faults.append(f"{error.items[0]}; it is ignored")
        else:
            found[name] = float(f"{value:.6g}") if isinstance(value, float) else value
    return found
