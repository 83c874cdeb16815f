"""What all figures have in common: seeds, several results, names, axes and styles."""

import itertools
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fipray import analysis
from fipray.analysis.drawing import look
from fipray.analysis.intervals import student, wilson
from fipray.errors import UsageError
from tests.analysis.made_up import write_made_up_study
from tests.analysis.seeded import write_seeded_study

EXAMPLES = pd.DataFrame({"confidence": [0.55, 0.65, 0.95, 0.99, 1.0], "correct": [0, 1, 1, 1, 1]})
FRONT = pd.DataFrame({"method": ["a", "a", "b"], "clean_accuracy": [0.9, 0.8, 0.7], "robust_accuracy": [0.4, 0.5, 0.6]})
# Figures, and the number of panels that each has of the results below.
PLOTS = {
    analysis.plot_points: 4,
    analysis.plot_robustness: 1,
    analysis.plot_sparsity: 1,
    analysis.plot_calibration: 4,
    analysis.plot_lineage: 1,
}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seeded")
    return [write_seeded_study(directory / str(seed), seed) for seed in (0, 1, 2)]


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def settings():
    # Not the backend: to read it is to import pyplot.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def labels(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_paths_that_differ_in_their_seed_are_one_line_with_the_interval_of_the_mean(seeded):
    figure = analysis.plot_points(seeded[0], quantities=["clean_accuracy"])
    (axis,) = figure.axes
    assert list(lines(axis)) == ["other", "sparse (n = 3)"]
    runs = seeded[0].points.query("name != 'other'").pivot(index="name", columns="step", values="clean_accuracy")
    np.testing.assert_allclose(lines(axis)["sparse (n = 3)"].get_ydata(), 100 * runs.mean())
    low, high = student(runs)
    drawn = axis.collections[-1].get_paths()[0].vertices[:, 1]
    assert drawn.min() == pytest.approx(100 * low.min())
    assert drawn.max() == pytest.approx(100 * max(high))
    assert axis.get_title() == "n runs: mean, 95 % interval of the mean"
    each = analysis.plot_points(seeded[0], quantities=["clean_accuracy"], seeds="each").axes[0]
    assert list(lines(each)) == ["other", "sparse-0", "sparse-1", "sparse-2"]


def test_single_path_has_wilsons_interval_of_its_accuracy(seeded):
    (axis,) = analysis.plot_points(seeded[0], quantities=["clean_accuracy"], names=["other"]).axes
    accuracy = seeded[0].points.query("name == 'other'")["clean_accuracy"]
    low, high = wilson(accuracy, 1000)
    drawn = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (drawn.min(), drawn.max()) == pytest.approx((100 * low.min(), 100 * high.max()))


def test_studies_that_differ_in_their_seed_are_pooled_and_others_are_not(seeded, tmp_path):
    (axis,) = analysis.plot_points(seeded, quantities=["sparsity"]).axes
    assert list(lines(axis)) == ["other (n = 3)", "sparse (n = 9)"]
    write_made_up_study(tmp_path / "else", 1)
    both = [seeded[0], analysis.load(tmp_path / "else")]
    found = list(lines(analysis.plot_points(both, quantities=["sparsity"]).axes[0]))
    assert found == ["0: other", "0: sparse (n = 3)", "else: path-0"]


def test_robustness_of_one_network_has_wilsons_interval_and_of_several_that_of_the_mean(seeded):
    figure = analysis.plot_robustness(seeded[0], names=["base", "sparse", "sparse@0.5", "other"])
    (axis,) = figure.axes
    assert labels(figure) == ["base", "sparse (n = 3)", "sparse@0.5 (n = 3)", "other"]
    assert axis.get_title() == "linf, epsilon 8/255\n500 examples"
    bounds = {height: (left, right) for (left, height), (right, _) in axis.collections[2].get_segments()}
    assert bounds[0] == pytest.approx([100 * bound for bound in wilson(0.5, 500)])
    assert bounds[3] == pytest.approx([100 * bound for bound in wilson(0.45, 500)])
    runs = [0.3, 0.35, 0.4]
    assert bounds[1] == bounds[2] == pytest.approx([100 * bound for bound in student(runs)])
    assert [text.get_text() for text in axis.texts] == ["50.0", "35.0", "35.0", "45.0"]


def test_several_results_have_their_names_before_those_of_their_networks(seeded):
    for given, names in ((seeded[:2], ["ours", "theirs"]), (dict(zip(("ours", "theirs"), seeded, strict=False)), None)):
        found = labels(analysis.plot_robustness(given, names=names))
        assert found[:2] == ["ours: base", "ours: other"]
        assert "theirs: sparse (n = 3)" in found
    found = labels(analysis.plot_robustness({"ours": seeded[0], "theirs": seeded[1]}, names={"sparse": "pruned"}))
    assert found == ["ours: pruned (n = 3)", "theirs: pruned (n = 3)"]


def test_names_select_order_and_rename(seeded):
    names = {"sparse-2": "last", "other": "rest"}
    assert labels(analysis.plot_robustness(seeded[0], names=names)) == ["last", "rest"]
    axis = analysis.plot_points(seeded[0], names=names).axes[1]
    assert list(lines(axis)) == ["last", "rest"]
    assert list(lines(analysis.front(FRONT, names={"b": "best"}).axes[0])) == ["best"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["nobody"], "there are no attacked networks of 'nobody'; there are those of: base"), ({"x": "y"}, "'x'")],
)
def test_unknown_names_are_refused_with_the_known_ones(seeded, names, sentence):
    with pytest.raises(UsageError, match=sentence):
        analysis.plot_robustness(seeded[0], names=names)


def test_wrong_results_and_axes_are_refused(seeded):
    with pytest.raises(UsageError, match="no results were given"):
        analysis.plot_points([])
    with pytest.raises(UsageError, match="2 results and 3 names were given"):
        analysis.plot_points(seeded[:2], names=["a", "b", "c"])
    with pytest.raises(UsageError, match="given twice"):
        analysis.plot_points([seeded[0], seeded[0]])
    with pytest.raises(UsageError, match="has 4 panels, and 1 axes was given"):
        analysis.plot_points(seeded[0], ax=Figure().subplots())
    with pytest.raises(UsageError, match="ax holds a Figure"):
        analysis.plot_points(seeded[0], ax=Figure())
    with pytest.raises(UsageError, match="no 'radius' was measured"):
        analysis.plot_points(seeded[0], quantities=["radius"])


@pytest.mark.parametrize("x", ["step", "fraction", "seconds"])
def test_points_of_paths_of_different_length_are_compared_along_any_axis(seeded, x):
    (axis,) = analysis.plot_points(seeded[0], quantities=["sparsity"], names=["other"], x=x).axes
    points = seeded[0].points.query("name == 'other'")
    wanted = {"step": points["step"], "fraction": points["step"] / 4, "seconds": points["seconds"]}[x]
    np.testing.assert_allclose(lines(axis)["other"].get_xdata(), wanted)


@pytest.mark.parametrize(("num_points", "line"), [(1, "None"), (2, "None"), (3, "-")])
def test_no_line_is_drawn_between_two_points(tmp_path, num_points, line):
    results = write_seeded_study(tmp_path, num_paths=1, num_points=num_points)
    (axis,) = analysis.plot_points(results, quantities=["sparsity"], names=["other"]).axes
    assert lines(axis)["other"].get_linestyle() == line
    assert lines(axis)["other"].get_marker() == "o"


def test_lines_differ_in_grey_and_no_two_of_many_look_alike():
    looks = [look(number) for number in range(60)]
    assert len({tuple(each.values()) for each in looks}) == 60
    for one, other in itertools.pairwise(looks):
        assert one["linestyle"] != other["linestyle"]
        assert one["marker"] != other["marker"]


@pytest.mark.parametrize("plot", PLOTS)
def test_given_axes_are_drawn_on_and_their_figure_is_returned(seeded, plot):
    own = Figure(layout="constrained")
    axes = own.subplots(2, 2)
    used = axes if PLOTS[plot] == 4 else axes[0, 1]
    assert plot(seeded[0], ax=used) is own
    assert len(own.axes) == 4
    assert not own.legends
    FigureCanvasAgg(own).draw()
    if PLOTS[plot] == 1:
        assert not axes[0, 0].has_data()


PAPERS = [(plot, "paper", 3.3) for plot in PLOTS] + [(analysis.plot_points, "paper-wide", 6.9)]


@pytest.mark.parametrize(("plot", "style", "width"), PAPERS)
def test_papers_have_their_width_embedded_fonts_and_small_text_and_settings_are_restored(
    seeded, tmp_path, plot, style, width
):
    before = settings()
    figure = plot(seeded[0], style=style)
    assert settings() == before
    assert figure.get_figwidth() == pytest.approx(width)
    figure.savefig(tmp_path / "plot.pdf")
    assert settings() == before
    content = (tmp_path / "plot.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content
    sizes = {
        label.get_fontsize()
        for axis in figure.axes
        if axis.axison
        for label in (*axis.get_xticklabels(), axis.xaxis.label, axis.title)
        if label.get_text()
    }
    assert sizes <= {7.0, 8.0}


def test_settings_are_restored_after_an_error(seeded):
    before = settings()
    with pytest.raises(UsageError, match="panels"):
        analysis.plot_points(seeded[0], ax=Figure().subplots(), style="paper")
    assert settings() == before


@pytest.mark.parametrize(
    ("num_paths", "style"),
    [
        (1, "default"),
        (2, "paper"),
        *(pytest.param(50, style, marks=pytest.mark.slow) for style in ("default", "paper")),
    ],
)
def test_any_number_of_paths_is_drawn_without_overlapping_labels(tmp_path, num_paths, style):
    write_made_up_study(tmp_path, num_paths)
    results = analysis.load(tmp_path)
    plots = [analysis.plot_robustness, analysis.plot_transfer]
    plots += [analysis.plot_calibration, analysis.plot_points] if num_paths > 1 else []
    for plot in plots:
        figure = plot(results, style=style)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axis = figure.axes[0]
        shown = [label for label in axis.get_yticklabels() if label.get_text()]
        boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.y0)
        for below, above in itertools.pairwise(boxes):
            assert above.y0 - below.y0 >= 0.72 * below.height  # letters are about as high; the box holds their line
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(each.get_window_extent()) for each in figure.axes)


def test_front_marks_of_networks_that_took_no_time_are_drawn(tmp_path):
    axis = analysis.front(FRONT.assign(seconds=0.0), seconds="seconds").axes[0]
    sizes = [size for marks in axis.collections for size in marks.get_sizes()]
    assert set(sizes) == {20.0}


def test_front_has_intervals_if_examples_were_counted():
    frame = FRONT.assign(num_examples=100)
    axis = analysis.front(frame, names=["b"]).axes[0]
    (across,), (up,) = (marks.get_segments() for marks in axis.collections if type(marks).__name__ == "LineCollection")
    np.testing.assert_allclose(across[:, 0], [100 * float(bound) for bound in wilson(0.7, 100)])
    np.testing.assert_allclose(up[:, 1], [100 * float(bound) for bound in wilson(0.6, 100)])


def test_calibration_shows_the_measures_of_the_table(seeded):
    figure = analysis.plot_calibration(seeded[0], seeds="each")
    nll = [float(line.get_xdata()[0]) for line in figure.axes[1].get_lines()]
    assert nll == pytest.approx(seeded[0].measures["nll"].tolist())
    accuracies = [float(line.get_xdata()[0]) for line in figure.axes[3].get_lines()][:3]
    row = seeded[0].measures.iloc[0]
    wanted = row[["selective_accuracy_80", "selective_accuracy_90", "clean_accuracy"]] * 100
    assert accuracies == pytest.approx(wanted.tolist())
    (segment,) = figure.axes[3].collections[1].get_segments()
    assert segment[:, 0] == pytest.approx([100 * float(b) for b in wilson(row["selective_accuracy_90"], 9000)])


def test_reliability_diagram_equals_bins_found_by_hand():
    axis = analysis.reliability_diagram({"net": EXAMPLES}, num_bins=5).axes[0]
    line = axis.get_lines()[-1]
    np.testing.assert_allclose(line.get_xdata(), [55, 65, 98])
    np.testing.assert_allclose(line.get_ydata(), [0, 100, 100])
    # (0.55 + 0.35 + 3 * 0.02) / 5
    assert line.get_label() == "net (ECE 19.2 %)"
    for wrong, sentence in (
        ({}, "there are no tables"),
        ({"net": EXAMPLES.head(0)}, "holds no examples"),
        ({"net": EXAMPLES[["correct"]]}, "lacks confidence"),
        ({"net": EXAMPLES.assign(confidence=2.0)}, "outside 0..1"),
        ({"net": EXAMPLES.assign(correct=0.5)}, "other than 0 and 1"),
    ):
        with pytest.raises(UsageError, match=sentence):
            analysis.reliability_diagram(wrong)


def test_reliability_diagram_has_the_error_of_the_measure():
    import torch

    import fipray as fip

    draws = torch.Generator().manual_seed(0)
    outputs, truth = torch.randn(500, 4, generator=draws).double(), torch.randint(4, (500,), generator=draws)
    p = outputs.softmax(1)
    table = pd.DataFrame({"confidence": p.amax(1).numpy(), "correct": (p.argmax(1) == truth).numpy().astype(int)})
    error = fip.measures.expected_calibration_error(outputs, truth)
    label = analysis.reliability_diagram({"net": table}).axes[0].get_lines()[-1].get_label()
    assert label == f"net (ECE {100 * error:.1f} %)"


def test_figures_draw_hostile_names_literally(tmp_path):
    results = write_seeded_study(tmp_path)
    name = r"$\frac{$ \x{ ^_&%#"
    for frame in (results.paths, results.points, results.robustness, results.measures, results.variants):
        frame["name"] = frame["name"].replace("other", name)
    for plot in PLOTS:
        FigureCanvasAgg(plot(results)).draw()
    assert "matplotlib.pyplot" not in sys.modules


def test_rows_of_fifty_networks_do_not_overlap_in_a_column(tmp_path):
    write_made_up_study(tmp_path, 50)
    figure = analysis.plot_robustness(analysis.load(tmp_path), style="paper")
    FigureCanvasAgg(figure).draw()
    tops = sorted(label.get_window_extent().y0 for label in figure.axes[0].get_yticklabels())
    assert len(tops) == 52
    assert min(np.diff(tops)) >= 7 / 72 * figure.dpi * 0.8  # 7 points; letters are lower than their line
    assert figure.get_figheight() < 10  # inches: it fits a page
