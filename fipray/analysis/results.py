"""A results directory as pandas frames. Loads neither torch nor Ray."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fipray.analysis.named import BASE as BASE, named_networks
from fipray.analysis.trial_frames import front_of, with_config, with_ends
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import printable
from fipray.records import TABLES, Store, table_named
from fipray.records.tables import INT64

if TYPE_CHECKING:
    from torch import nn

_NUMBER = re.compile(r"\d+(\.\d+)?")
_SORTED_BY = {
    "paths": ["name", "path_id"],
    "points": ["name", "path_id", "step"],
    "robustness": ["name", "attack", "norm", "epsilon", "robustness_id"],
    "per_example": ["name", "attack", "first_example", "norm", "epsilon", "per_example_id"],
    "transfer": ["source", "target", "attack", "norm", "epsilon", "transfer_id"],
    "measures": ["name", "measures_id"],
    "rounds": ["name", "round", "round_id"],
    "trials": ["name", "path_id"],
    "variants": ["name", "path_id", "target_sparsity"],
    "tasks": ["name", "path_id", "task_number"],
    "point_measures": ["name", "path_id", "step", "measure"],
    "point_distances": ["name", "path_id", "step", "kept"],
}


@final
@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """Committed results of a study or search, as one pandas frame per table.

    `load` makes them. `fipray.records.TABLES` describes every column, for example
    `TABLES["points"].columns`. Frames have all columns even when they are empty: texts are `str`, integers `int64`,
    numbers that may be missing `float64` with NaN, lists numpy arrays. Rows are sorted by name, then by step, with
    numbers in names compared as numbers (path-2 comes before path-10).

        results = fipray.analysis.load("results/prune")
        results.paths[["name", "outcome_kind", "sparsity"]]
        results.points.query("name == 'sparse'").plot("step", "functional_distance_held_out")
        weights = results.weights("sparse")

    Args:
        paths: one row per path: its spec, how it ended, and the state of its last point.
        points: one row per saved point of a path; step 0 is its start.
        robustness: one row per network, attack and threat model.
        per_example: one row per network, attack and range of examples, with a list of booleans each.
        transfer: one row per pair of networks and attack.
        measures: one row per network: accuracy, calibration and diversity.
        rounds: one row per round of a cooperating path, except the last.
        trials: one row per finished trial of a search, with a column such as `config.radius.tolerance` for each
            searched field.
        variants: one row per requested sparsity that a path reached.
        tasks: one row per path and task.
        point_measures: one row per point and user-defined measure.
        point_distances: one row per point and kept quantity.
        manifest: name, ID and parameters of the study, as `study.json` holds them.
        address: the directory or the address in an object store, without credentials.
        location: address for opening the directory again; it may contain credentials and is never shown.
        like: module of the study's architecture, where whoever made the results had it at hand; see `module`.
    """

    paths: pd.DataFrame
    points: pd.DataFrame
    robustness: pd.DataFrame
    per_example: pd.DataFrame
    transfer: pd.DataFrame
    measures: pd.DataFrame
    rounds: pd.DataFrame
    trials: pd.DataFrame
    variants: pd.DataFrame
    tasks: pd.DataFrame
    point_measures: pd.DataFrame
    point_distances: pd.DataFrame
    manifest: Mapping[str, Any]
    address: str
    location: str
    like: "nn.Module | None" = None

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """All frames, by the name of their table."""
        return {name: getattr(self, name) for name in TABLES}

    @property
    def directory(self) -> Path:
        """Directory on a file system; UsageError if the results are in an object store."""
        return Store.open(self.location).directory

    @property
    def objectives(self) -> Mapping[str, str]:
        """Objectives of a search, each with "min" or "max"; UsageError for results of a study."""
        if "objectives" not in self.manifest:
            raise UsageError(f"{self.address} holds study {self.manifest['study']!r}, which is not a search")
        objectives: Mapping[str, str] = self.manifest["objectives"]
        return objectives

    @property
    def named(self) -> Mapping[str, str]:
        """Networks that are the results of a recipe, by name, such as "pruned": "pruning@0.8"; empty for a study."""
        return named_networks(self.manifest, self.frames)

    @checked
    def weights(self, name: str) -> NDArray[np.floating]:
        """Read the weights of a network.

        Args:
            name: "base", the name or path_id of a path (weights at its end), the name of a variant such as
                "sparse@0.9", or that of a recipe's result such as "pruned".

        Returns:
            Flat weights [P].

        Raises:
            UsageError: for an unknown or ambiguous name, and for weights that were not saved.
            CorruptFileError: if the file is missing or does not match its SHA-256.
        """
        name = self.named.get(name, name)
        # The base in flat form is the start of any path from it; base.safetensors holds its whole state_dict.
        if name == BASE:
            from_base = self.paths[self.paths["start"] == BASE]
            rows = self.points[(self.points["step"] == 0) & self.points["path_id"].isin(from_base["path_id"])]
            rows = rows[rows["weights_file"].notna()].head(1)
        elif "@" in name:
            rows = self.variants[self.variants["network"] == name].head(1)
            if rows.empty:
                known = ", ".join(self.variants["network"]) or "none"
                raise UsageError(f"there is no variant named {name!r}; there are: {known}")
        else:
            rows = self.paths[(self.paths["name"] == name) | (self.paths["path_id"] == name)]
            if len(rows) > 1:
                raise UsageError(f"{len(rows)} paths are named {name!r}; use a path_id: {', '.join(rows['path_id'])}")
            if rows.empty:
                names = ", ".join([BASE, *self.paths["name"]])
                raise UsageError(f"there are no weights named {name!r}; there are those of {names}")
        if rows["weights_file"].isna().all():
            raise UsageError(f"the weights of {name!r} were not saved in {self.address}")
        arrays = Store.open(self.location).read_weights(*rows[["weights_file", "weights_sha256"]].iloc[0])
        return arrays["weights"]

    @property
    def networks(self) -> list[str]:
        """Names of all networks: "base", paths, sparse variants on their way, ensembles, and a recipe's results."""
        names = [*self.named, BASE, *self.paths["name"], *self.variants["network"], *self.manifest.get("ensembles", {})]
        return list(dict.fromkeys(names))

    @checked
    def members(self, name: str) -> tuple[str, ...]:
        """Networks that a network consists of: the members of an ensemble, or the network itself.

        Args:
            name: name of a network, or path_id of a path.

        Returns:
            Names of networks whose weights can be read.

        Raises:
            UsageError: for an unknown name, and for an ensemble of which some members are not complete yet.
        """
        name = self.named.get(name, name)
        single = {BASE, *self.paths["name"], *self.paths["path_id"], *self.variants["network"]}
        if name in single:
            return (name,)
        ensembles = self.manifest.get("ensembles", {})
        if name not in ensembles:
            raise UsageError(f"there is no network {name!r} in {self.address}; there are: {', '.join(self.networks)}")
        members = tuple(ensembles[name]["members"])
        if missing := [member for member in members if member not in single]:
            raise UsageError(f"ensemble {name!r} lacks its members {', '.join(missing)}, which are not complete yet")
        return members

    def module(self, name: str, like: Any = None) -> "nn.Module":
        """Build a network as a module, with its weights. Loads torch.

        A results directory holds weights and no code, so the architecture comes from `like` or, without it, from the
        function that made the study: its module is imported and called. Give `like` for a directory of others. Results
        that `Recipe.run` returns have the recipe's module.

        Args:
            name: "base", the name or path_id of a path, or the name of a variant, an ensemble or
                a recipe's result such as "pruned".
            like: module of the study's architecture, which is copied, or a function that returns one or the study, as
                `module:function` or `file.py:function`; None for that of these results, or what the manifest names.

        Returns:
            New module in evaluation mode. That of an ensemble returns the logarithm of its members' mean class
            probabilities (`fipray.export.loader.Ensemble`), all others what the study's module returns.

        Raises:
            UsageError: for an unknown name, without an architecture, and for one that the weights do not fit.
            CorruptFileError: if a file is missing or does not match its SHA-256.
        """
        # The one step from records to torch, taken when it is asked for: reading results loads no torch.
        from fipray.export.modules import built
        from fipray.records.states import state_of

        store, name = Store.open(self.location), self.named.get(name, name)
        members = self.members(name)
        states = [store.read_base() if one == BASE else state_of(store, self.weights(one)) for one in members]
        return built(self.manifest, name, states, self.like if like is None else like)

    @checked
    def pareto(self, objectives: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Pareto front of a search: the trials that came to their end and that no other trial dominates.

        Args:
            objectives: columns such as "functional_distance_held_out" or "robust_accuracy", each with "min" or "max";
                by default the objectives of the search.

        Returns:
            Rows as of `fipray.analysis.judged_trials`, sorted by the first objective, best first.

        Raises:
            UsageError: for objectives that are no columns, and for results of a study without `objectives`.
        """
        objectives = objectives or self.objectives
        return front_of(with_ends(self.frames), objectives)

    def __repr__(self) -> str:
        kinds = self.paths["outcome_kind"].value_counts(sort=False)
        outcomes = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        counts = {name: f"{len(frame)} {name}" for name, frame in self.frames.items() if len(frame)}
        if "paths" in counts:
            counts["paths"] += f" ({outcomes})"
        rows = ", ".join(counts.values()) or "no rows"
        return printable(f"Results of study {self.manifest['study']!r} in {self.address}: {rows}")

    def _repr_html_(self) -> str:
        """Table of all tables and their numbers of rows, for notebooks."""
        # Names come from anywhere: printable first, as escape leaves control characters alone.
        study, address = (escape(printable(text)) for text in (self.manifest["study"], self.address))
        rows = "".join(
            f"<tr><td><code>{name}</code></td><td style='text-align: right'>{len(frame)}</td>"
            f"<td style='text-align: left'>{escape(TABLES[name].description)}</td></tr>"
            for name, frame in self.frames.items()
        )
        return (
            f"<table><caption>Results of study <b>{study}</b> in <code>{address}</code></caption>"
            f"<thead><tr><th>table</th><th>rows</th><th>content</th></tr></thead><tbody>{rows}</tbody></table>"
        )


@checked
def load(directory: str | Path) -> Results:
    """Load everything that is committed in a results directory, also while a study is running.

    Args:
        directory: results directory, or its address in an object store such as s3://bucket/results.

    Returns:
        One frame per table.

    Raises:
        RecordsError: if it is not a results directory.
        CorruptFileError: if a committed file is missing or was altered.
    """
    store = Store.open(directory)
    frames = {name: _frame(name, rows) for name, rows in store.read_tables(_SORTED_BY).items()}
    frames["trials"] = with_config(frames["trials"])
    return Results(**frames, manifest=store.manifest, address=store.address, location=store.location)


def in_order(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Sort key of a column, for `DataFrame.sort_values`: path-2 comes before path-10.

    Args:
        column: column to sort by.

    Returns:
        Ranks of texts, in which numbers compare as numbers and missing texts come last; other columns unchanged.
    """
    # The dtype of texts since pandas 3, also where some are missing; earlier versions have `object`.
    if column.dtype != "str":
        return column
    # Missing texts get the code -1.
    codes, texts = pd.factorize(column)
    if str(column.name).endswith("_id"):
        keys = texts.tolist()  # hashes: any fixed order will do, and they are many
    else:
        # Numbers padded to one width, so that their texts sort as they do.
        keys = [_NUMBER.sub(lambda number: f"{float(number[0]):030.9f}", text) for text in texts]
    # Ranks of the different texts, as each occurs in many rows.
    ranks = np.empty(len(keys), np.int64)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return pd.Series(np.where(codes < 0, len(keys), ranks[codes]) if len(keys) else codes, column.index)


def _frame(table: str, rows: pa.Table) -> pd.DataFrame:
    # pandas makes an integer column with nulls float64, and one without int64: which one must not depend on the rows.
    missing = [column.name for column in table_named(table).columns if column.optional and column.type == INT64]
    frame = rows.to_pandas().astype({"schema_version": "int64", **dict.fromkeys(missing, "float64")})
    return frame.sort_values(_SORTED_BY[table], key=in_order, ignore_index=True)
