"""What forms of the weights cost, and the limits of that."""

import math
from pathlib import Path

import pytest

from lorakit.errors import ParameterError
from lorakit.verify import FORMS, CostLimits
from lorakit.verify.forms import GGUF, MOST

PAGE = (Path(__file__).parents[2] / "bench/README.md").read_text("utf-8")


def measured(page, form):
    """Bits, KL and top-1 of a form without adapters, as the bench's table has them."""
    row = next(line for line in page.splitlines() if line.startswith(f"| {form} | no |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return float(cells[2]), float(cells[3]), float(cells[5])


@pytest.mark.parametrize("name", FORMS)
def test_the_table_is_that_of_the_bench(name):
    form = FORMS[name]
    assert (form.bits, form.kl, form.top1) == measured(PAGE, name)
    assert form.most >= 2 * form.kl
    changed = PAGE.replace(f"| {name} | no | {form.bits:.2f} |", f"| {name} | no | 1.00 |")
    assert measured(changed, name)[0] == 1


def test_limits_of_a_form():
    limits = CostLimits(form="int8")
    assert limits.hold(MOST["int8"], 0.0)
    assert (
        limits.verdict(0.003, 0.965) == "measured for int8: KL 0.003, top-1 96.5%; no limit was set"
    )
    assert not limits.hold(0.2, 1.0)
    assert limits.verdict(0.2, 1.0).startswith("something is wrong: KL 0.2, top-1 100.0%; int8 may")
    assert CostLimits(form=GGUF).hold(0.5, 0.6)
    assert not CostLimits(form="int8").hold(math.nan, 1.0)


def test_limits_of_the_user():
    limits = CostLimits(form="int8", max_kl=0.01, min_top1=0.95)
    assert limits.hold(0.01, 0.95)
    assert not limits.hold(0.02, 0.95)
    assert not limits.hold(0.01, 0.94)
    said = "the limits: KL 0.01 (at most 0.01), top-1 95.0% (at least 95%)"
    assert limits.verdict(0.01, 0.95) == f"within {said}"
    assert limits.verdict(0.02, 0.95) == f"beyond {said}".replace("KL 0.01", "KL 0.02")
    assert CostLimits(min_top1=0.9).verdict(0.01, 0.8) == (
        "beyond the limits: KL 0.01, top-1 80.0% (at least 90%)"
    )
    assert CostLimits().verdict(0.01, 0.8) == "measured: KL 0.01, top-1 80.0%; no limit was set"
    assert CostLimits(form="int8", max_kl=9).hold(8, 0)
    assert not CostLimits(form="int8", min_top1=0.5).hold(8, 1)  # the form's own limit stays
    assert CostLimits(min_top1=0.5).hold(8, 1)
    assert CostLimits(min_top1=0.5).to_dict() == {
        "form": "", "max_kl": None, "min_top1": 0.5, "most": None,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"max_kl": -1}, {"max_kl": math.nan}, {"min_top1": 1.5}])
def test_limits_are_numbers(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        CostLimits(**wrong)
