"""Pictures of adapters: they show what the report says, and can be read at any size."""

import math

import numpy as np
import pytest

from laid_out import faults, texts
from lorakit import demo
from lorakit.adapter import Adapter, Delta, Replacement
from lorakit.base.folder import Base
from lorakit.drawing.shapes import Path, Rect
from lorakit.drawing.theme import NOT_FINITE, amount, as_hex
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.inspect.charts import plot_overlap, plot_ranks
from lorakit.inspect.grid import grid, places_of
from lorakit.inspect.overlap import overlap
from lorakit.inspect.panels import MOST, POINTS, curves
from lorakit.inspect.plot import plot
from lorakit.inspect.ranks import rank_curve
from lorakit.inspect.report import inspect

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
LONG = "mlp.experts.shared_expert_with_a_very_long_name.gate_up_down_projection_matrix_of_it"


def delta(module, size, **more):
    return Delta(module=module, a=np.ones((1, 1)), b=np.ones((1, 1)), scale=size, **more)


def adapter(layers, kinds=KINDS, rank=4, experts=None):
    rng = np.random.default_rng(layers)
    lead = () if experts is None else (experts,)
    return Adapter(
        deltas=tuple(
            Delta(
                module=f"model.layers.{layer}.{kind}",
                a=rng.standard_normal((*lead, rank, 9)),
                b=rng.standard_normal((*lead, 7, rank)),
                scale=1 + layer / layers,
            )
            for layer in range(layers)
            for kind in kinds
        )
    )


def report(made):
    return inspect(made, spectrum=True)


def test_the_grid_places_norms_between_the_least_and_the_largest():
    names = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1, 3)]
    sizes = (1.0, 2.0, 3.0)
    made = Adapter(
        deltas=(
            *(delta(name, size) for name, size in zip(names, sizes, strict=True)),
            delta("model.layers.0.mlp.experts.up_proj", 1.5),
            delta("lm_head", 50.0),
        )
    )
    found = grid(inspect(made, values=True).modules)
    assert found.kinds == ("up_proj", "q_proj")
    assert (found.layers, found.low, found.high, found.logarithmic) == (4, 1, 3, False)
    assert found.cells[("q_proj", 1)] == (2.0, 0.5)
    assert ("q_proj", 2) not in found.cells
    assert found.outside == {"lm_head": 50.0}
    assert [found.value(share) for share in (0, 0.5, 1)] == [1, 2, 3]
    assert grid(inspect(made).modules) is None


def test_a_large_span_is_logarithmic_and_odd_norms_have_a_place():
    names = [f"model.layers.{n}.self_attn.q_proj" for n in range(4)]
    deltas = [delta(*pair) for pair in zip(names, (1e-3, 1.0, 1e3, 0.0), strict=True)]
    nan = np.full((1, 1), np.nan)
    odd = Delta(module="transformer.h.0.attn.c_attn", a=nan, b=np.ones((1, 1)), scale=1.0)
    made = report(Adapter(deltas=(*deltas, odd)))
    found = grid(made.modules)
    assert found.logarithmic
    assert found.cells[("q_proj", 1)][1] == pytest.approx(0.5)
    assert found.cells[("q_proj", 3)] == (0.0, 0.0)
    assert math.isnan(found.cells[("c_attn", 0)][1])
    assert found.value(0.5) == pytest.approx(1.0)
    drawn = plot(made)
    assert sum(getattr(s, "ink", "") == as_hex(NOT_FINITE) for s in drawn.shapes) == 1
    assert any(text.endswith(", logarithmic") for text in texts(drawn.svg()))


def test_modules_with_the_same_last_name_are_told_apart():
    names = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.experts.gate_proj"]
    assert places_of(names[:1]) == {names[0]: ("gate_proj", 0)}
    assert places_of(names) == {
        names[0]: ("mlp.gate_proj", 0),
        names[1]: ("mlp.experts.gate_proj", 0),
    }
    towers = ["model.layers.2.q_proj", "vision_tower.layers.2.q_proj", "lm_head"]
    assert places_of(towers) == {
        towers[0]: ("model.layers.*.q_proj", 2),
        towers[1]: ("vision_tower.layers.*.q_proj", 2),
    }


@pytest.mark.parametrize(
    ("layers", "kinds", "title"),
    [
        (1, KINDS[:1], "one"),
        (6, KINDS, ""),
        (36, (*KINDS, LONG), "a/folder/" * 20),
        (80, KINDS, "eighty"),
        (160, KINDS[:1], "more than there are"),
    ],
)
def test_nothing_is_clipped_or_upon_another(layers, kinds, title):
    made = adapter(layers, kinds)
    with_head = Adapter(deltas=(*made.deltas, delta("lm_head", 50.0)))
    for drawn in (
        plot(report(with_head), title=title),
        plot_overlap(overlap(made, with_head), title=title),
        plot_ranks(rank_curve(made), title=title),
    ):
        assert list(faults(drawn)) == []
        texts(drawn.svg())


def test_the_cells_have_the_colours_of_their_shares_and_say_their_values():
    made = report(adapter(3))
    found = grid(made.modules)
    drawn = plot(made, title="three")
    cells = {s.hint: s.ink for s in drawn.shapes if isinstance(s, Rect) and s.hint}
    assert len(cells) == 9
    for (kind, layer), (value, share) in found.cells.items():
        assert cells[f"layer {layer} {kind}: {value:.3g}"] == as_hex(amount(share))
    said = texts(drawn.svg())
    assert {"three", "q_proj", "k_proj", "down_proj", "layer", "0", "2"} <= set(said)
    assert {f"{found.low:.3g}", f"{found.high:.3g}", "‖scale · B A‖, Frobenius norm"} <= set(said)


def test_with_a_base_the_strength_is_relative():
    home, base = read_adapter(demo.adapter_path("home")), Base.open(demo.base_path())
    relative = inspect(home, spectrum=True, base=base)
    said = texts(plot(relative).svg())
    assert "‖scale · B A‖ / ‖W‖" in said
    assert any(text.endswith("% of the weights that it changes") for text in said)
    strengths = [m.relative_norm for m in relative.modules]
    assert f"{max(strengths) * 100:.3g}%" in said


def test_curves_are_told_apart_by_layer_and_are_short():
    made = adapter(5, rank=POINTS * 2)
    drawn = plot(report(made))
    lines = [s for s in drawn.shapes if isinstance(s, Path) and s.width == 1.4]
    assert len(lines) == 15
    assert len({line.ink for line in lines}) == 5
    assert max(len(line.points) for line in lines) <= POINTS
    found = curves(report(adapter(2, rank=3, experts=4)).modules)
    assert {kind: [c.layer for c in each] for kind, each in found.items()} == {
        kind.rpartition(".")[2]: [0, 1] for kind in sorted(KINDS)
    }
    module = report(adapter(2, rank=3, experts=4)).modules[0]
    mean = np.mean([each.values for each in module.spectra], axis=0)
    assert found[module.module.rpartition(".")[2]][0].values == pytest.approx(tuple(mean))


def test_many_modules_outside_of_layers_are_bounded():
    many = Adapter(deltas=tuple(delta(f"odd{n:03}", n + 1.0) for n in range(60)))
    drawn = plot(report(many))
    assert f"{MOST} of 60 kinds of modules" in texts(drawn.svg())
    assert list(faults(drawn)) == []


def test_nothing_to_draw_is_an_error():
    norm = Replacement(name="model.norm.weight", value=np.ones(2, np.float32))
    with pytest.raises(ParameterError, match="nothing to draw"):
        plot(report(Adapter(replacements=(norm,))))
    zero = Delta(module="model.layers.0.q_proj", a=np.ones((1, 2)), b=np.zeros((2, 1)), scale=1.0)
    assert list(faults(plot(report(Adapter(deltas=(zero,)))))) == []
    assert list(faults(plot(report(Adapter(deltas=(delta("lm_head", 1.0),)))))) == []


def test_a_picture_of_an_overlap_has_a_cell_for_each_module_and_measure():
    first, second = (read_adapter(demo.adapter_path(name)) for name in ("home", "shop"))
    found = overlap(first, second)
    drawn = plot_overlap(found, title="home and shop")
    hints = [s.hint for s in drawn.shapes if isinstance(s, Rect) and s.hint]
    assert len(hints) == 3 * 42
    assert f"{found.modules[0].module}: {found.modules[0].outputs:.3g}" in hints
    assert "Cosine of the changes" in texts(drawn.svg())


def test_a_picture_of_ranks_names_what_is_asked_most():
    curve = rank_curve(read_adapter(demo.adapter_path("home")))
    said = texts(plot_ranks(curve).svg())
    assert "90% of the squares at rank 4, 99% of the squares at rank 6" in said
    assert {"all modules", "the module that fits worst", "rank", "1", "8"} <= set(said)
