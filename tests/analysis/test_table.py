"""Summary of networks: values checked by hand, and the layout at any width."""

import io
import math
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from fipray import analysis
from fipray.analysis.intervals import wilson
from fipray.errors import UsageError
from fipray.records import Store
from tests.analysis.made_up import MANIFEST, NUM_PATHS, write_made_up_study
from tests.records.rows import path_row, point_rows, robustness_row

LINF, L2 = {"norm": "linf", "epsilon": 0.1}, {"norm": "l2", "epsilon": 1.5}
CLEAN = {"norm": "linf", "epsilon": 0.0, "num_examples": 10_000, "clean_accuracy": 0.97, "robust_accuracy": 0.97}


@pytest.fixture
def by_hand(tmp_path):
    """Results with a base, a path under two threat models, a path that was not evaluated, and an ensemble."""
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("a", "path", 1, {"paths": [path_row("a", "near")], "points": point_rows("a", "near")})
    marks = {"objective_end": 3.5, "accuracy_collapsed_step": 2, "warnings": "objective 3.00 -> 3.50: worse"}
    far = path_row("b", "far", sparsity=0.75, **marks)
    store.commit("b", "path", 1, {"paths": [far], "points": point_rows("b", "far")})
    rows = [
        robustness_row("r", "near", "path", "none", **CLEAN, sparsity=0.5, functional_distance_held_out=0.02),
        robustness_row("r", "near", "path", "pgd-20x1", **LINF, robust_accuracy=0.6),
        robustness_row("r", "near", "path", "fgsm", **LINF, robust_accuracy=0.7),
        robustness_row("r", "near", "path", "worst", **LINF, robust_accuracy=0.5),
        robustness_row("r", "near", "path", "worst", **L2, robust_accuracy=0.25),
    ]
    store.commit("r", "robustness", 1, {"robustness": rows})
    of_both = {"num_members": 2, "sparsity": None, "functional_distance_held_out": 0.03}
    rows = [
        robustness_row("s", "both", "ensemble", "none", **{**CLEAN, "clean_accuracy": 0.99}, **of_both),
        robustness_row("s", "both", "ensemble", "worst", **LINF, robust_accuracy=0.625, **of_both),
    ]
    store.commit("s", "robustness", 1, {"robustness": rows})
    return analysis.load(tmp_path)


def printed(results, width):
    file = io.StringIO()
    Console(file=file, width=width).print(analysis.render(results))
    return file.getvalue()


def test_summary_equals_values_found_by_hand(by_hand):
    nan, sentence = math.nan, "completed: all 3 steps were walked"
    wanted = pd.DataFrame(
        {
            "name": ["base", "far", "near", "both"],
            "kind": ["base", "path", "path", "ensemble"],
            "num_members": [1, 1, 1, 2],
            "outcome": [None, sentence, sentence, None],
            "objective_start": [nan, 3.0, 3.0, nan],
            "objective_end": [nan, 3.5, 1.0, nan],
            "accuracy_collapsed_step": [nan, 2.0, nan, nan],
            "warnings": [None, "objective 3.00 -> 3.50: worse", "", None],
            "sparsity": [0.0, 0.75, 0.5, nan],
            "functional_distance_held_out": [0.0, 0.02, 0.02, 0.03],
            "clean_accuracy": [0.75, 0.75, 0.97, 0.99],
            "robust_accuracy worst l2 1.5": [nan, nan, 0.25, nan],
            "robust_accuracy fgsm linf 0.1": [nan, nan, 0.7, nan],
            "robust_accuracy pgd-20x1 linf 0.1": [nan, nan, 0.6, nan],
            "robust_accuracy worst linf 0.1": [nan, nan, 0.5, 0.625],
        }
    )
    texts = {"outcome": "str", "warnings": "str"}
    pd.testing.assert_frame_equal(analysis.summary(by_hand), wanted.astype(texts))


def test_summary_lists_warnings_below_the_table(by_hand):
    marked = [line.rstrip() for line in printed(by_hand, 120).splitlines() if line.startswith(("far: ", "near: "))]
    assert marked == ["far: objective 3.00 -> 3.50: worse"]


def test_summary_counts_warnings_beyond_the_first(tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    for number in range(14):
        id, name = f"id{number}", f"path-{number}"
        tables = {"paths": [path_row(id, name, warnings="worse")], "points": point_rows(id, name)}
        store.commit(id, "path", 1, tables)
    lines = [line.rstrip() for line in printed(analysis.load(tmp_path), 120).splitlines()]
    assert [line for line in lines if line.endswith(": worse")] == [f"path-{number}: worse" for number in range(12)]
    assert lines[-1] == "and 2 more paths with warnings"


def test_summary_takes_clean_accuracy_from_the_row_without_attack(results):
    table = analysis.summary(results)
    assert set(table["clean_accuracy"]) == {0.97}  # on all 10,000; the attacked 500 have 0.98, the paths' ends less
    assert not [column for column in table.columns if "none" in column]


def test_summary_uses_the_measurement_with_the_most_examples(by_hand):
    more = robustness_row("t", "near", "path", "worst", **LINF, robust_accuracy=0.4, num_examples=5000)
    grown = replace(by_hand, robustness=pd.concat([pd.DataFrame([more]), by_hand.robustness]))
    near = analysis.summary(grown).set_index("name").loc["near"]
    assert near["robust_accuracy worst linf 0.1"] == 0.4
    assert near["clean_accuracy"] == 0.97


def test_summary_of_an_empty_study_is_empty_and_printable(tmp_path):
    Store.create_or_open(tmp_path, MANIFEST)
    results = analysis.load(tmp_path)
    table = analysis.summary(results)
    assert table.empty
    assert {"name", "kind", "outcome", "clean_accuracy"} <= set(table.columns)
    assert "study made-up" in printed(results, 80)


def test_summary_contains_paths_that_were_not_evaluated(tmp_path):
    write_made_up_study(tmp_path, 3, judged=False)
    assert list(analysis.summary(analysis.load(tmp_path))["name"]) == ["base", "path-0", "path-1", "path-2"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_summary_shows_all_networks_with_clean_and_worst_accuracy_at_any_width(results, width):
    worst = analysis.summary(results).set_index("name")["robust_accuracy worst linf 0.1"]
    lines = printed(results, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split()[-1] == "worst"
    assert lines[1].split()[-2:] == ["linf", "0.1"]
    assert "accuracy" in lines[1]
    for name in ["base", *(f"path-{number}" for number in range(NUM_PATHS)), "all"]:
        row = next(line for line in lines if line.startswith(f"{name} "))
        # With its interval, where there is room: "83.4 [79.9, 86.4]".
        assert row.split()[-3 if "]" in row else -1] == f"{worst[name] * 100:.1f}"
        assert " 97.0 " in row
    if width > 80:  # or else there is no room for outcomes
        assert "10 members" in next(line for line in lines if line.startswith("all "))


def test_narrow_summary_drops_attacks_and_says_so(results):
    narrow, wide = printed(results, 80), printed(results, 120)
    assert "fgsm" in wide
    assert "pgd-20x1" in wide
    assert "do not fit" not in wide
    assert "fgsm" not in narrow.splitlines()[0]
    assert "pgd-20x1" not in narrow.splitlines()[0]
    assert "that do not fit here (fipray show --csv has all): " in " ".join(narrow.split())
    assert " ".join(narrow.split()).endswith("fgsm linf 0.1, pgd-20x1 linf 0.1")


def test_summary_drops_columns_in_the_order_of_their_importance(by_hand):
    table, dropped = analysis.render(by_hand), []
    for width in range(200, 10, -1):
        columns, hidden = table.fitted(width)
        assert [column.header[1] for column in columns if column.header[1] == "name"] == ["name"]
        now = [" ".join(filter(None, column.header)) for column in hidden]
        assert now[: len(dropped)] == dropped, "a narrower table lacks what a wider one lacks"
        dropped = now
    attacks = ["pgd-20x1 linf 0.1", "fgsm linf 0.1"]
    others = ["outcome", "kind", "functional distance", "sparsity", "clean accuracy", "worst l2 1.5"]
    assert dropped == [*attacks, *others]


def test_wide_summary_has_wilsons_intervals_and_bounds_as_people_write_them(by_hand):
    rows = by_hand.robustness.assign(epsilon=by_hand.robustness["epsilon"].replace({0.1: 8 / 255}))
    text = printed(replace(by_hand, robustness=rows), 220)
    assert "linf 8/255" in text
    near = next(line for line in text.splitlines() if line.startswith("near"))
    low, high = wilson(0.5, 500)
    assert near.split()[-3:] == ["50.0", f"[{100 * low:.1f},", f"{100 * high:.1f}]"]
    assert "75.0 [" not in text  # far was not evaluated: nobody knows on how many examples


@pytest.mark.parametrize("sort", ["clean_accuracy", "-clean_accuracy"])
def test_summary_is_sorted_with_missing_values_last(by_hand, sort):
    lines = printed_sorted(by_hand, sort)
    first = ["base", "far", "near", "both"] if sort[0] != "-" else ["both", "near", "base", "far"]
    assert lines == first
    assert printed_sorted(by_hand, "robust_accuracy") == ["near", "both", "base", "far"]
    assert printed_sorted(by_hand, "-robust_accuracy worst l2 1.5")[0] == "near"
    with pytest.raises(UsageError, match=r"cannot sort by 'accuracy'.* the columns are: name, kind, .*worst linf 0\.1"):
        analysis.render(by_hand, sort="accuracy")


def printed_sorted(results, sort):
    return analysis.render(results, sort=sort).frame["name"].tolist()


def test_csv_is_the_summary_with_all_digits(by_hand):
    read = pd.read_csv(io.StringIO(analysis.as_csv(by_hand)))
    wanted = analysis.summary(by_hand)
    assert list(read) == list(wanted)
    numbers = list(wanted.select_dtypes("number"))
    pd.testing.assert_frame_equal(read[numbers], wanted[numbers], check_exact=True)
    assert analysis.as_csv(by_hand, sort="-name").splitlines()[1].startswith("near,")


def test_latex_table_has_booktabs_and_escaped_names(by_hand):
    name = r"50%_of$x&y#{z}~^\<"
    paths = by_hand.paths.replace({"name": {"far": name}})
    lines = analysis.as_latex(replace(by_hand, paths=paths)).splitlines()
    assert lines[1].startswith(r"\begin{tabular}{llrrr")
    assert (lines[2], lines[-2], lines[-1]) == (r"\toprule", r"\bottomrule", r"\end{tabular}")
    rows = [line for line in lines if line.endswith(r"\\")]
    num_columns = len(lines[1].partition("{tabular}")[2]) - 2
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {num_columns}
    assert r"50\%\_of\$x\&y\#\{z\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{} & path" in "\n".join(
        rows
    )


def test_summary_folds_long_names_and_sentences(by_hand):
    name, sentence = "n" * 64, "the objective came to rest at last " * 4
    paths = by_hand.paths.replace({"name": {"far": name}}).assign(outcome=sentence.strip(), warnings="")
    text = printed(replace(by_hand, paths=paths), 130)
    assert max(map(len, text.splitlines())) <= 130
    assert text.count("n" * 25) == 2
    assert "…" not in text
    assert text.count("rest") == 8


@pytest.mark.parametrize("columns", [None, "80", "200"])  # without any, as wide as it takes
def test_summary_without_terminal_has_the_width_of_columns(results, monkeypatch, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    file = io.StringIO()
    analysis.print_summary(results, file)
    assert file.getvalue() == printed(results, int(columns or 10_000))


def test_summary_names_networks_with_signs_of_gradient_masking(by_hand):
    assert "masking" not in printed(by_hand, 120)
    rows = by_hand.robustness.copy()
    rows.loc[rows["attack"] == "worst", "warnings"] = ""
    assert "masking" not in printed(replace(by_hand, robustness=rows), 120)
    rows.loc[(rows["attack"] == "worst") & (rows["name"] == "near"), "warnings"] = "more steps still help"
    text = " ".join(printed(replace(by_hand, robustness=rows), 80).split())
    assert "(column `warnings` of `robustness`), in: near far: objective" in text


def test_summary_gives_the_number_of_attacked_examples(by_hand):
    assert "under attack on 500 examples" in " ".join(printed(by_hand, 120).split())
    more = by_hand.robustness.copy()
    more.loc[more["norm"] == "l2", "num_examples"] = 2000
    assert "on 500 to 2000 examples" in " ".join(printed(replace(by_hand, robustness=more), 120).split())
