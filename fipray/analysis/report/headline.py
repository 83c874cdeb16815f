"""Headline: what was asked of each directory and what came out, in sentences with numbers."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from fipray.analysis.report.content import Section
from fipray.analysis.report.side import Side
from fipray.analysis.report.wording import accuracy, count, listing, number, percent, points, threat
from fipray.analysis.series import lineage, task_series
from fipray.analysis.trial_frames import GIVEN_UP, NOT_FINITE


def headline(sides: Sequence[Side]) -> Section:
    """Summarise every directory in a paragraph, and several of them in one more.

    Args:
        sides: results directories.

    Returns:
        The section; it is never empty.
    """
    groups = []
    for side in sides:
        asked = " ".join([*_asked(side), *_outcomes(side)])
        groups.append((side.label if len(sides) > 1 else "", [asked, *_found(side)]))
    if len(sides) > 1 and (compared := list(_compared(sides))):
        groups.append(("Side by side", compared))
    return Section("headline", "What was asked, and what came out", groups=groups)


def _asked(side: Side) -> Iterator[str]:
    results, paths = side.results, side.results.paths
    kinds = paths["objective"].value_counts()
    objectives = listing(f"{num} {kind.replace('_', ' ')}" for kind, num in kinds.items())
    searched = f"Search {results.manifest['study']}" if len(results.trials) else f"Study {results.manifest['study']}"
    if paths.empty:
        yield f"{searched}: no path is committed yet."
    else:
        steps = int(paths["num_steps"].sum())
        by = f" by objective: {objectives}" if len(kinds) > 1 else f" with the objective {kinds.index[0]}"
        yield f"{searched}: {count(len(paths), 'path')} of {count(steps, 'step')} in all,{by}."
    if len(worst := side.worst):
        attacks = side.attacked["attack"].nunique() - 1
        threats = listing(threat(*pair) for pair in worst[["norm", "epsilon"]].drop_duplicates().to_numpy().tolist())
        num = count(worst[["kind", "name"]].drop_duplicates().shape[0], "network")
        yield f"{num} stood against {count(attacks, 'attack')} at {threats}."


def _outcomes(side: Side) -> Iterator[str]:
    paths = side.results.paths
    if paths.empty:
        return
    kinds = paths["outcome_kind"].value_counts()
    others = listing(f"{num} {kind}" for kind, num in kinds.items() if kind != "completed")
    done = kinds.get("completed", 0)
    if others:
        yield f"{done} of {count(len(paths), 'path')} completed, {others}."
    else:
        yield "The path completed." if len(paths) == 1 else f"All {len(paths):,} paths completed."
    if warned := int((paths["warnings"] != "").sum()):
        yield f"{count(warned, 'path has', 'paths have')} warnings."


def _found(side: Side) -> Iterator[str]:
    yield from _robust(side)
    yield from _sparse(side)
    yield from _learned(side)
    yield from _searched(side)


def _robust(side: Side) -> Iterator[str]:
    base = side.base(side.networks)["clean_accuracy"].dropna()
    if len(base):
        size = side.base(side.networks)["num_examples"].iloc[0]
        yield f"The base network has a clean accuracy of {accuracy(base.iloc[0], size)}."
    for (norm, bound), rows in side.worst.groupby(["norm", "epsilon"], sort=False):
        best = rows.loc[rows["robust_accuracy"].idxmax()]
        text = accuracy(best["robust_accuracy"], best["num_examples"])
        text += f" of {best['num_examples']:,} examples, and {percent(best['clean_accuracy'])} of them without attack"
        own = side.base(rows)
        against = ""
        if len(own) and best["kind"] != "base":
            against = f"; the base network has {accuracy(own['robust_accuracy'].iloc[0], own['num_examples'].iloc[0])}"
        yield f"The highest robust accuracy at {threat(norm, bound)} is that of {best['name']}: {text}{against}."


def _sparse(side: Side) -> Iterator[str]:
    rows = side.results.variants.dropna(subset=["clean_accuracy"])
    if len(rows):
        last = rows.loc[rows["sparsity"].idxmax()]
        base = side.base(side.networks)["clean_accuracy"].dropna()
        lost = f", {points(last['clean_accuracy'] - base.iloc[0])} against the base network" if len(base) else ""
        yield (
            f"The sparsest network, {last['network']}, has {percent(last['sparsity'])} zeros and a clean accuracy of "
            f"{percent(last['clean_accuracy'])}{lost}."
        )


def _learned(side: Side) -> Iterator[str]:
    series = {end: task_series(side.results, id) for end, id in chains(side)}
    if series:
        end, best = max(series.items(), key=lambda each: each[1].average_accuracy)
        lost = "" if np.isnan(best.forgetting) else f" and a forgetting of {percent(best.forgetting)}"
        yield (
            f"The chain that ends with {end} knows {count(len(best.learned_at), 'task')}, with an average accuracy of "
            f"{percent(best.average_accuracy)}{lost}."
        )


def chains(side: Side) -> list[tuple[str, str]]:
    """List the ends of the chains of paths that learned tasks.

    Args:
        side: results directory.

    Returns:
        Names and IDs of paths that no other path continues, if a path on the way to them learned a task.
    """
    paths, tasks = side.results.paths, side.results.tasks
    learned = {*tasks[tasks["learned"].astype(bool)]["path_id"]}
    known = {*paths["path_id"]}
    found = []
    for end in paths[~paths["path_id"].isin(paths["parent_path_id"])].itertuples():
        # Of a running study the path in between may be missing, and with it the chain.
        is_whole = set(paths["parent_path_id"].dropna()) <= known
        if learned and is_whole and learned & {*lineage(side.results, end.path_id)["path_id"]}:
            found.append((end.name, end.path_id))
    return found


def _searched(side: Side) -> Iterator[str]:
    trials = side.results.trials
    if trials.empty:
        return
    ended = trials[~trials["outcome_kind"].isin([GIVEN_UP, NOT_FINITE])]
    yield f"{count(len(trials), 'trial')} finished, {len(ended)} of them at their last step."
    if "objectives" in side.results.manifest and len(front := front_or_none(side)):
        best = [
            f"{name.replace('_', ' ')} {number(front[name].min() if mode == 'min' else front[name].max())}"
            for name, mode in side.results.objectives.items()
        ]
        yield f"{len(front)} are on the Pareto front; the best of each objective: {listing(best)}."


def front_or_none(side: Side) -> pd.DataFrame:
    """Pareto front of a search; empty for a study, and while its objectives are not measured yet.

    Args:
        side: results directory.

    Returns:
        Rows of `Results.pareto`.
    """
    results = side.results
    if results.trials.empty or "objectives" not in results.manifest:
        return results.trials.head(0)
    measured = {*results.point_measures["measure"], *results.paths.columns, *results.points.columns, "robust_accuracy"}
    return results.pareto() if {*results.objectives} <= measured else results.trials.head(0)


def _compared(sides: Sequence[Side]) -> Iterator[str]:
    if len({side.results.manifest.get("data_id") for side in sides}) > 1:
        yield "The directories differ in their data, so their accuracies and distances are not on the same inputs."
    threats = pd.concat([side.worst.assign(label=side.label) for side in sides], ignore_index=True)
    for (norm, bound), rows in threats.groupby(["norm", "epsilon"], sort=False):
        if rows["label"].nunique() > 1:
            best = rows.loc[rows.groupby("label", sort=False)["robust_accuracy"].idxmax()]
            best = best.sort_values("robust_accuracy", ascending=False, kind="stable")
            parts = [
                f"{row['label']} {accuracy(row['robust_accuracy'], row['num_examples'])} ({row['name']})"
                for row in best.to_dict("records")
            ]
            yield f"Highest robust accuracy at {threat(norm, bound)}: {listing(parts)}."
