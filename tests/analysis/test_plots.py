"""Figures: complete, correctly placed, and not cut off."""

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


def test_points_figure_has_a_line_per_path_in_four_panels(results):
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


def test_points_figure_of_few_paths_shows_the_distance_on_anchors(results, few):
    assert len(analysis.plot_points(results).axes[0].get_lines()) == NUM_PATHS
    assert len(analysis.plot_points(few).axes[0].get_lines()) == 2 * 3


def test_points_figure_names_all_paths_and_gives_each_its_own_style(results):
    figure = analysis.plot_points(results)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"path-{number}" for number in range(NUM_PATHS)]
    looks = {(line.get_color(), line.get_linestyle()) for line in labelled(figure.axes[1]).values()}
    assert len(looks) == NUM_PATHS


def test_points_figure_omits_what_was_not_measured(few):
    points = few.points.assign(clean_accuracy=np.nan)
    assert len(analysis.plot_points(replace(few, points=points)).axes) == 3


def test_points_figure_without_held_out_inputs_shows_the_distance_on_anchors(few):
    points = few.points.assign(functional_distance_held_out=np.nan)
    line = labelled(analysis.plot_points(replace(few, points=points)).axes[0])["path-0"]
    np.testing.assert_array_equal(line.get_ydata(), points.loc[points["name"] == "path-0", "functional_distance"])


def test_robustness_figure_has_a_line_per_network_and_the_worst_accuracy_as_number(results):
    (axis,) = analysis.plot_robustness(results).axes
    lines, *_ = axis.collections  # the others are intervals
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


def test_robustness_figure_has_a_marker_per_network_and_attack(results):
    (axis,) = analysis.plot_robustness(results).axes
    markers = labelled(axis)
    assert list(markers) == ["no attack", "fgsm", "pgd-20x1", "worst"]
    assert [len(line.get_xdata()) for line in markers.values()] == [NUM_NETWORKS] * 4
    assert len({line.get_marker() for line in markers.values()}) == 4


def test_robustness_figure_has_a_panel_per_threat_model(few):
    figure = analysis.plot_robustness(with_two_threat_models(few))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["l2, epsilon 1.5\n200 examples", "linf, epsilon 0.1\n500 examples"]
    assert [len(axis.texts) for axis in figure.axes] == [5, 5]


def test_transfer_figure_has_sources_in_rows_and_targets_in_columns(results):
    axis, _ = analysis.plot_transfer(results).axes
    assert len(axis.texts) == NUM_NETWORKS**2
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["base", *(f"path-{number}" for number in range(NUM_PATHS)), "all"]
    assert [text.get_text() for text in axis.get_xticklabels()] == names
    pairs = results.transfer.set_index(["source", "target"])["accuracy"]
    for text in axis.texts:
        column, row = (int(position) for position in text.get_position())
        assert text.get_text() == f"{pairs[names[row], names[column]] * 100:.0f}"
    image = np.asarray(axis.images[0].get_array())
    assert image[0, 1] == pairs["base", "path-0"] * 100


def test_transfer_figure_has_a_panel_per_threat_model_and_empty_cells_for_missing_pairs(few):
    two = with_two_threat_models(few)
    first, second, _ = analysis.plot_transfer(replace(two, transfer=two.transfer.iloc[:-3])).axes
    assert {text.get_text() for text in first.texts} == {"25"}
    assert (len(first.texts), len(second.texts)) == (22, 25)


@pytest.mark.parametrize("plot", PLOTS)
def test_figures_without_results_are_refused(plot, tmp_path):
    Store.create_or_open(tmp_path, MANIFEST)
    with pytest.raises(UsageError, match=r"holds no .* yet"):
        plot(analysis.load(tmp_path))


@pytest.mark.parametrize("plot", PLOTS)
def test_figures_cut_nothing_off(plot, few):
    name = "diverse-with-a-penalty-of-0.25-and-sixteen-members-of-seed-12345"
    texts = {column: {"path-1": name} for column in ("name", "source", "target")}
    tables = ("paths", "points", "robustness", "transfer")
    long = replace(few, **{table: getattr(few, table).replace(texts) for table in tables})
    figure = plot(with_two_threat_models(long))
    FigureCanvasAgg(figure).draw()
    whole, wanted = figure.bbox, figure.get_tightbbox().padded(-0.02)
    corners = wanted.get_points() * figure.dpi
    assert (corners >= 0).all()
    assert (corners <= [whole.width, whole.height]).all()


def test_figures_do_not_import_pyplot(few, tmp_path):
    for plot in PLOTS:
        plot(few).savefig(tmp_path / f"{plot.__name__}.png", dpi=40)
    assert len([*tmp_path.glob("*.png")]) == 3
    assert "matplotlib.pyplot" not in sys.modules


def transfer_of(prefix, num_members):
    names = [f"{prefix}-{number}" for number in range(num_members)]
    pairs = [(source, target) for source in names for target in names]
    rows = pd.DataFrame(pairs, columns=["source", "target"])
    return rows.assign(accuracy=np.linspace(0.1, 0.9, len(rows)), attack="pgd-20x1", norm="linf", epsilon=0.1)


def test_heat_maps_share_a_scale_and_have_their_own_names():
    tables = {"scratch": transfer_of("scratch", 3), "paths": transfer_of("path", 11)}
    *axes, bar = analysis.transfer_heat_maps(tables).axes
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        names = list(table["source"].unique())
        assert axis.get_title().startswith(f"{title}\n")
        assert [text.get_text() for text in axis.get_yticklabels()] == names
        assert [text.get_text() for text in axis.get_xticklabels()] == names
        values = np.asarray(axis.images[0].get_array())
        np.testing.assert_allclose(values, table["accuracy"].to_numpy().reshape(len(names), -1) * 100)
        assert [text.get_text() for text in axis.texts] == [f"{value:.0f}" for value in values.flat]
        assert axis.images[0].get_clim() == (0, 100)
    assert bar.get_ylabel() == "accuracy of the target, %"


def test_heat_map_title_gives_means_on_own_and_other_inputs():
    table = transfer_of("path", 3).assign(accuracy=[0.1, 0.5, 0.5, 0.5, 0.2, 0.5, 0.5, 0.5, 0.3])
    assert (
        analysis.transfer_heat_maps({"paths": table}).axes[0].get_title() == "paths\nown inputs 20.0 %, others' 50.0 %"
    )
    others = table[table["source"] != table["target"]]
    assert analysis.transfer_heat_maps({"paths": others}).axes[0].get_title() == "paths\nothers' 50.0 %"


def test_heat_map_shows_the_measurement_with_the_most_examples():
    table = transfer_of("path", 2)
    twice = pd.concat([table.assign(num_examples=500), table.assign(num_examples=100, accuracy=0.99)])
    assert [text.get_text() for text in analysis.transfer_heat_maps({"": twice}).axes[0].texts] == [
        "10",
        "37",
        "63",
        "90",
    ]


def test_heat_map_of_an_invalid_table_is_refused():
    table = transfer_of("path", 2)
    with pytest.raises(UsageError, match="no tables of transfer"):
        analysis.transfer_heat_maps({})
    with pytest.raises(UsageError, match="the table 'paths' holds nothing"):
        analysis.transfer_heat_maps({"paths": table.head(0)})
    with pytest.raises(UsageError, match="the table 'paths' holds several attacks or threat models"):
        analysis.transfer_heat_maps({"paths": pd.concat([table, table.assign(epsilon=0.2)])})
    with pytest.raises(UsageError, match="the table 'paths' lacks accuracy, source"):
        analysis.transfer_heat_maps({"paths": table[["target"]]})


FRONT = pd.DataFrame(
    {
        "method": ["paths", "paths", "paths", "paths", "scratch"],
        "clean_accuracy": [0.98, 0.96, 0.97, 0.95, 0.99],
        "robust_accuracy": [0.70, 0.90, 0.80, 0.60, 0.10],
        "seconds": [10.0, 30.0, 20.0, 40.0, 5.0],
    },
    index=[0, 1, 0, 1, 0],
)


def test_front_of_a_method_is_a_step_line_through_undominated_networks():
    axis = analysis.front(FRONT).axes[0]
    paths, scratch = (line for line in axis.get_lines() if len(line.get_xdata()))
    assert paths.get_drawstyle() == "steps-pre"
    (left, _), (bottom, _) = axis.get_xlim(), axis.get_ylim()
    assert left < 95
    assert bottom < 10
    np.testing.assert_allclose(paths.get_xydata(), [[left, 90], [96, 90], [97, 80], [98, 70], [98, bottom]])
    np.testing.assert_allclose(scratch.get_xydata(), [[left, 10], [99, 10], [99, bottom]])
    assert list(labelled(axis)) == ["paths", "scratch"]
    assert paths.get_color() != scratch.get_color()


def test_front_markers_are_filled_on_the_front_and_sized_by_seconds():
    axis = analysis.front(FRONT, seconds="seconds").axes[0]
    dominated, best, nothing, scratch, *legend = axis.collections
    np.testing.assert_allclose(dominated.get_offsets(), [[95, 60]])
    assert dominated.get_facecolor()[0].tolist() == [1, 1, 1, 1] != best.get_facecolor()[0].tolist()
    assert [len(marks.get_offsets()) for marks in (best, nothing, scratch)] == [3, 0, 1]
    assert sorted(best.get_sizes()) == list(best.get_sizes())[::-1]
    assert [marks.get_label() for marks in legend] == ["5 s", "40 s"]
    assert [marks.get_sizes()[0] for marks in legend] == [scratch.get_sizes()[0], dominated.get_sizes()[0]]


def test_front_without_rows_or_columns_is_refused():
    with pytest.raises(UsageError, match="with the columns method, clean_accuracy, robust_accuracy, time; the columns"):
        analysis.front(FRONT, seconds="time")
    with pytest.raises(UsageError, match="needs rows"):
        analysis.front(FRONT.head(0))


def test_figures_draw_names_literally(tmp_path):
    write_made_up_study(tmp_path, 2)
    results = analysis.load(tmp_path)
    name = r"$\frac{$ \x{"
    for frame in (results.paths, results.points, results.robustness, results.transfer):
        for column in {"name", "source", "target"} & {*frame}:
            frame[column] = frame[column].replace("path-0", name)
    results.robustness["attack"] = results.robustness["attack"].replace("fgsm", name)
    results.transfer["attack"] = name
    for plot in (analysis.plot_points, analysis.plot_robustness, analysis.plot_transfer, analysis.plot_lineage):
        plot(results).savefig(tmp_path / "plot.png")
