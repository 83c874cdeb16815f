"""Every figure shows all there is, at its place, and nothing of it is cut off."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fipray import analysis
from fipray.errors import UsageError
from fipray.records import Store
from tests.analysis.made_up import MANIFEST, NUM_PATHS, write_made_up_study

NUM_NETWORKS = NUM_PATHS + 2
PLOTS = [analysis.plot_points, analysis.plot_robustness, analysis.plot_transfer]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    directory = tmp_path_factory.mktemp("few")
    write_made_up_study(directory, 3)
    return analysis.load(directory)


def with_two_threat_models(results):
    robustness, transfer = results.robustness, results.transfer
    attacked = robustness[robustness["attack"] != "none"].assign(norm="l2", epsilon=1.5, num_examples=200)
    return replace(
        results,
        robustness=pd.concat([robustness, attacked]),
        transfer=pd.concat([transfer, transfer.assign(norm="l2", epsilon=1.5, accuracy=0.25)]),
    )


def labelled(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_points_have_a_line_a_path_in_each_of_four_panels(results):
    axes = analysis.plot_points(results).axes
    assert [len(labelled(axis)) for axis in axes] == [NUM_PATHS] * 4
    path = results.points[results.points["name"] == "path-4"]
    for axis, values in zip(
        axes,
        [path["functional_distance_held_out"], path["objective_value"], path["sparsity"], path["clean_accuracy"] * 100],
        strict=True,
    ):
        line = labelled(axis)["path-4"]
        np.testing.assert_array_equal(line.get_xdata(), path["step"])
        np.testing.assert_allclose(line.get_ydata(), values)


def test_the_distance_on_anchors_is_drawn_beside_where_the_paths_are_few(results, few):
    assert len(analysis.plot_points(results).axes[0].get_lines()) == NUM_PATHS
    assert len(analysis.plot_points(few).axes[0].get_lines()) == 2 * 3


def test_the_legend_names_every_path_and_no_two_paths_look_alike(results):
    figure = analysis.plot_points(results)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"path-{number}" for number in range(NUM_PATHS)]
    looks = {(line.get_color(), line.get_linestyle()) for line in labelled(figure.axes[1]).values()}
    assert len(looks) == NUM_PATHS


def test_a_panel_of_what_was_not_measured_is_left_out(few):
    points = few.points.assign(clean_accuracy=np.nan)
    assert len(analysis.plot_points(replace(few, points=points)).axes) == 3


def test_the_distance_on_anchors_stands_in_for_held_out_inputs_that_were_none(few):
    points = few.points.assign(functional_distance_held_out=np.nan)
    line = labelled(analysis.plot_points(replace(few, points=points)).axes[0])["path-0"]
    np.testing.assert_array_equal(line.get_ydata(), points.loc[points["name"] == "path-0", "functional_distance"])


def test_robustness_has_a_line_a_network_from_the_worst_to_no_attack_and_the_worst_in_figures(results):
    (axis,) = analysis.plot_robustness(results).axes
    (lines,) = axis.collections
    worst = results.robustness[results.robustness["attack"] == "worst"].set_index("name")
    assert len(lines.get_segments()) == NUM_NETWORKS
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["base", *(f"path-{number}" for number in range(NUM_PATHS)), "all"]
    for (left, height), (right, same) in lines.get_segments():
        row = worst.loc[names[int(height)]]
        assert height == same
        np.testing.assert_allclose([left, right], [row["robust_accuracy"] * 100, row["clean_accuracy"] * 100])
    figures = {names[int(text.xy[1])]: text.get_text() for text in axis.texts}
    assert figures == {name: f"{worst.loc[name, 'robust_accuracy'] * 100:.1f}" for name in names}


def test_robustness_has_a_marker_a_network_and_attack(results):
    (axis,) = analysis.plot_robustness(results).axes
    markers = labelled(axis)
    assert list(markers) == ["no attack", "fgsm", "pgd-20x1", "worst"]
    assert [len(line.get_xdata()) for line in markers.values()] == [NUM_NETWORKS] * 4
    assert len({line.get_marker() for line in markers.values()}) == 4


def test_robustness_has_a_panel_a_threat_model_with_its_number_of_examples(few):
    figure = analysis.plot_robustness(with_two_threat_models(few))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["l2, epsilon 1.5\n200 examples", "linf, epsilon 0.1\n500 examples"]
    assert [len(axis.texts) for axis in figure.axes] == [5, 5]


def test_transfer_has_a_cell_a_pair_with_makers_in_rows_and_targets_in_columns(results):
    axis, _ = analysis.plot_transfer(results).axes
    assert len(axis.texts) == NUM_NETWORKS**2
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["base", *(f"path-{number}" for number in range(NUM_PATHS)), "all"]
    assert [text.get_text() for text in axis.get_xticklabels()] == names
    pairs = results.transfer.set_index(["maker", "target"])["accuracy"]
    for text in axis.texts:
        column, row = (int(position) for position in text.get_position())
        assert text.get_text() == f"{pairs[names[row], names[column]] * 100:.0f}"
    image = np.asarray(axis.images[0].get_array())
    assert image[0, 1] == pairs["base", "path-0"] * 100


def test_transfer_has_a_panel_a_threat_model_and_leaves_open_what_is_missing(few):
    two = with_two_threat_models(few)
    first, second, _ = analysis.plot_transfer(replace(two, transfer=two.transfer.iloc[:-3])).axes
    assert {text.get_text() for text in first.texts} == {"25"}
    assert (len(first.texts), len(second.texts)) == (22, 25)


@pytest.mark.parametrize("plot", PLOTS)
def test_there_is_nothing_to_draw_before_there_are_results(plot, tmp_path):
    Store.create_or_open(tmp_path, MANIFEST)
    with pytest.raises(UsageError, match=r"holds no .* yet"):
        plot(analysis.load(tmp_path))


@pytest.mark.parametrize("plot", PLOTS)
def test_nothing_is_cut_off_with_long_names_and_two_threat_models(plot, few):
    name = "diverse-with-a-penalty-of-0.25-and-sixteen-members-of-seed-12345"
    texts = {column: {"path-1": name} for column in ("name", "maker", "target")}
    tables = ("paths", "points", "robustness", "transfer")
    long = replace(few, **{table: getattr(few, table).replace(texts) for table in tables})
    figure = plot(with_two_threat_models(long))
    FigureCanvasAgg(figure).draw()
    whole, wanted = figure.bbox, figure.get_tightbbox().padded(-0.02)
    corners = wanted.get_points() * figure.dpi
    assert (corners >= 0).all()
    assert (corners <= [whole.width, whole.height]).all()


def test_drawing_and_saving_keeps_no_state_and_shows_nothing(few, tmp_path):
    for plot in PLOTS:
        plot(few).savefig(tmp_path / f"{plot.__name__}.png", dpi=40)
    assert len([*tmp_path.glob("*.png")]) == 3
    assert "matplotlib.pyplot" not in sys.modules
