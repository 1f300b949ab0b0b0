"""Our gradients against PEFT's own, which knows no shortcut; and what must be seen to differ."""

import pytest

pytest.importorskip("torch", reason="training needs the extra train")
pytest.importorskip("peft", reason="the oracle is PEFT")

from core_cases import CONFIGS, apart, base_of, model_of, naive, ours, peft_of, rows_of

EXACT = 1e-5
BATCHES = {
    "shared prefix": rows_of(40, [17, 17, 17, 17]),
    "uneven tails": rows_of(30, [3, 40, 11, 26, 2]),
    "packing": rows_of(0, [19, 33, 8, 25]),
    "one example": rows_of(0, [37]),
}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_are_pefts(tmp_path, family, batch):
    base = base_of(family, tmp_path)
    model = model_of(base)
    truth = naive(peft_of(base, model.adapter(), tmp_path / "peft"), BATCHES[batch])
    assert apart(ours(model, BATCHES[batch]), truth) < EXACT
