"""Patterns that trainers write for target_modules, and tables with a key for each expert."""

import numpy as np
import pytest
from adapter_files import BASE, peft, scales

from lorakit.check import check
from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats import patterns, read_adapter
from lorakit.formats.patterns import Budget, PatternTable

LAYERS = [
    "^(?!.*visual).*(?:q_proj|v_proj).*",  # LLaMA-Factory
    "^(language_model|model)(?!.*(lm_head|output|emb|wte|shared)).*",  # ms-swift
    r"^(?!.*(?:vision|visual|merger|lm_head)).*\.(?:q_proj|v_proj)$",
    r"model\.layers\.(?!9)\d\..*proj",
]


@pytest.mark.parametrize("pattern", LAYERS)
def test_a_look_ahead_is_read(tmp_path, pattern):
    adapter = read_adapter(peft(tmp_path / "a", target_modules=pattern), BASE.decoder)
    assert len(adapter.deltas) == 8
    assert scales(adapter) == {2.0}
    assert not [m for m in check(adapter, BASE) if m.severity == "error"]


@pytest.mark.parametrize("pattern", ["^(?!.*q_proj).*", r"^(?!.*layers\.3).*proj"])
def test_what_a_look_ahead_excludes_may_not_be_there(tmp_path, pattern):
    with pytest.raises(FormatError, match="does not target it"):
        read_adapter(peft(tmp_path / "a", target_modules=pattern))


@pytest.mark.parametrize(
    "pattern", ["(?i).*Q_PROJ|.*v_proj", "(?<!visual).*(q|v)_proj", r"(.)*\1?(q|v)_proj"]
)
def test_where_a_pattern_cannot_be_read_the_names_decide_and_it_is_said(tmp_path, pattern):
    adapter = read_adapter(peft(tmp_path / "a", target_modules=pattern), BASE.decoder)
    assert len(adapter.deltas) == 8
    assert "cannot read" in adapter.reading.notes[0]
    assert [m.item for m in check(adapter, BASE)] == ["reading"]
    table = {"rank_pattern": {pattern: 4}}  # what decides about the scale is not guessed
    with pytest.raises(UnsupportedError, match="cannot be used"):
        read_adapter(peft(tmp_path / "b", **table))
    excluded = read_adapter(peft(tmp_path / "c", exclude_modules=pattern))
    assert "exclude_modules" in excluded.reading.notes[0]


def names(layers, experts):
    return [
        f"model.layers.{layer}.mlp.experts.{expert}.{name}_proj"
        for layer in range(layers)
        for expert in range(experts)
        for name in ("gate", "up", "down")
    ]


def spent(count):
    """The work that a table of `count` layers of 128 experts takes for all of its own names."""
    keys, budget = names(count, 128), Budget()
    table = PatternTable(keys, budget)
    assert all(table.first(key) == key for key in keys)
    return patterns.MAX_WORK - budget.left


def test_a_key_for_each_of_18432_experts_takes_a_step_or_two_each():
    """Steps are counted, not seconds: they grow with the keys, not with their square."""
    small, large = spent(8), spent(48)
    assert large < 12 * small
    assert large < 5 * len(names(48, 128))
    assert large < patterns.MAX_WORK / 8


def test_a_key_for_each_expert_is_read(tmp_path):
    made, table = {}, dict.fromkeys(names(6, 128), 2)
    for name in table:
        made[f"base_model.model.{name}.lora_A.weight"] = np.ones((2, 4), np.float32)
        made[f"base_model.model.{name}.lora_B.weight"] = np.ones((4, 2), np.float32)
    config = {"target_modules": ["gate_proj", "up_proj", "down_proj"], "rank_pattern": table}
    path = peft(tmp_path / "a", made, modules=[], **config, alpha_pattern=dict.fromkeys(table, 6))
    adapter = read_adapter(path)
    assert len(adapter.deltas) == 18
    assert scales(adapter) == {3.0}
