"""Text and HTML of paths and problems: complete, escaped, and with curves where the numbers put them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
import torch

import fipray as fip
from fipray.geometry import Euclidean
from fipray.paths import Outcome, PathPoint, WeightPath
from fipray.paths.display import charts, listing, table
from tests.problems import mlp, normal

SVG = "{http://www.w3.org/2000/svg}"


def point(step: int, objective: float, distance: float, **changes) -> PathPoint:
    measured = {"functional_distance": distance, "functional_distance_held_out": 2 * distance, "sparsity": 0.25}
    return PathPoint(step, torch.zeros(3), 0.1, 0.0, objective_value=objective, **{**measured, **changes})


def a_path(sentence: str = "all 20 steps were walked") -> WeightPath:
    points = (point(0, 4.0, 0.0), point(5, 1.0, 0.1), point(20, 2.0, 0.2))
    return WeightPath(points, Outcome("completed", sentence))


def curves_of(text: str) -> list[list[tuple[float, float]]]:
    """Vertices of each polyline, in order."""
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", text).group())
    found = [line.get("points").split() for line in svg.iter(f"{SVG}polyline")]
    return [[tuple(map(float, place.split(","))) for place in places] for places in found]


def rows_of(text: str) -> dict[str, str]:
    body = ElementTree.fromstring(re.search(r"<table>.*</table>", text).group())
    return {row[0].text: row[1].text for row in body.iter("tr")}


class TestAPath:
    def test_its_table_holds_the_outcome_and_the_numbers_at_the_end(self):
        assert rows_of(a_path()._repr_html_()) == {
            "outcome": "completed: all 20 steps were walked",
            "steps": "20 (points kept: 3)",
            "functional distance, anchors": "0.2",
            "functional distance, held-out inputs": "0.4",
            "objective": "4 at the start, 2 at the end",
            "gain": "2",
            "sparsity": "0.25",
        }

    def test_distances_of_several_quantities_have_a_row_each(self):
        distances = {"field": 0.125, "<b>": 0.5}
        path = WeightPath((point(0, 1.0, 0.0), point(2, 1.0, 0.3, distances_held_out=distances)), Outcome("stuck", ""))
        rows = rows_of(path._repr_html_())
        assert rows["distance of 'field', held-out inputs"] == "0.125"
        assert rows["distance of '<b>', held-out inputs"] == "0.5"

    def test_its_text_is_a_few_lines_and_no_tensors(self):
        lines = repr(a_path()).splitlines()
        assert lines[0] == "WeightPath"
        assert len(lines) == 8
        assert lines[1].split() == ["outcome", "completed:", "all", "20", "steps", "were", "walked"]
        assert "tensor" not in repr(a_path())

    def test_its_curves_run_from_the_least_to_the_greatest_value_over_all_steps(self):
        objective, anchors, held_out = curves_of(a_path()._repr_html_())
        left, right, top, bottom = objective[0][0], objective[2][0], objective[0][1], objective[1][1]
        assert objective[1][0] == pytest.approx(left + (right - left) / 4, abs=0.1)
        assert objective[2][1] == pytest.approx(bottom + (top - bottom) / 3, abs=0.1)
        assert right - left > 200
        assert bottom - top > 100
        assert anchors[0][1] == held_out[0][1] == bottom
        assert held_out[2][1] == top
        assert anchors[2][1] == pytest.approx((top + bottom) / 2, abs=0.1)
        assert anchors[0][0] > right

    def test_axes_are_labelled(self):
        svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", a_path()._repr_html_()).group())
        texts = [one.text for one in svg.iter(f"{SVG}text")]
        assert texts.count("step") == 2
        assert {"objective", "functional distance", "anchors", "held-out inputs", "0", "20", "1", "4", "0.4"} <= {
            *texts
        }

    def test_text_is_escaped(self):
        shown = a_path("<script>alert('x')</script> & more\x1b[31m")._repr_html_()
        assert "<script>" not in shown
        assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more\\x1b[31m" in shown
        assert "\x1b" not in repr(a_path("red \x1b[31m"))

    def test_a_path_of_its_start_alone_is_shown(self):
        shown = WeightPath((point(0, 1.0, 0.0),), Outcome("out of time", ""))._repr_html_()
        assert [len(curve) for curve in curves_of(shown)] == [1, 1, 1]
        assert "nan" not in shown

    def test_a_traced_path_is_shown(self):
        path = fip.trace(
            mlp(6, 8, 3),
            fip.objectives.RandomWalk(),
            anchors=normal(20, 6),
            held_out=normal(9, 6, seed=1),
            num_steps=4,
            batch_size=10,
        )
        rows = rows_of(path._repr_html_())
        assert rows["outcome"] == f"{path.outcome.kind}: {path.outcome}"
        assert rows["functional distance, held-out inputs"] == f"{path.end.functional_distance_held_out:.4g}"
        assert [len(curve) for curve in curves_of(path._repr_html_())] == [len(path.points)] * 3


class TestAProblem:
    def test_its_table_holds_the_network_the_quantities_and_the_numbers_of_inputs(self):
        examples = fip.Examples(normal(30, 2, seed=7), torch.arange(30) % 2)
        problem = fip.Problem(
            mlp(2, 8, 2).only(["0.*"]),
            normal(5, 2, seed=1),
            normal(1200, 2, seed=2),
            keeps={
                "energy": fip.keeps.Residual("tests.quantities:energy_rate", on="<orbit>"),
                "field": fip.keeps.Outputs(Euclidean()),
            },
            sets={"<orbit>": normal(4, 2, seed=3)},
            tasks={"new": examples},
        )
        wanted = {
            "network": "Sequential with 42 weights, 24 of which may change",
            "keeps 'field'": "Outputs in Euclidean coordinates",
            "keeps 'energy'": "Residual on the set '<orbit>'",
            "anchors": "5 of shape [2]",
            "held-out inputs": "1,200 of shape [2]",
            "tasks": "'new' (30 examples)",
        }
        assert rows_of(problem._repr_html_()) == wanted
        assert "<orbit>" not in problem._repr_html_()
        assert repr(problem).splitlines()[0] == "Problem"
        assert len(repr(problem).splitlines()) == 7

    def test_without_inputs_and_tasks_it_says_none(self):
        rows = rows_of(fip.Problem(mlp(2, 8, 2))._repr_html_())
        assert (rows["anchors"], rows["held-out inputs"], rows["tasks"]) == ("none", "none", "none")


def test_columns_of_a_listing_are_aligned():
    assert listing("Title", {"a": "1", "long": "2"}) == "Title\n  a     1\n  long  2"


def test_names_in_a_table_are_escaped():
    assert rows_of(table("<t>", {"<a>": "<b>"})) == {"<a>": "<b>"}
    assert "<t>" not in table("<t>", {})


def test_values_that_are_not_finite_are_left_out_of_a_curve():
    (curve,) = curves_of(charts([0, 1, 2, 3], {"y": {"one": [1.0, math.nan, math.inf, 2.0]}}))
    assert len(curve) == 2
    (empty,) = curves_of(charts([0, 1], {"y": {"one": [math.nan, math.nan]}}))
    assert empty == []


def test_ends_of_an_axis_have_the_digits_that_tell_them_apart():
    texts = charts([0, 1], {"y": {"one": [1.0, 1.00001]}})
    assert ">1.00001<" in texts
    assert ">1<" in texts
