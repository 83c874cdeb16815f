"""Results that one figure shows, the names under which it shows them, and which of them are runs of the same thing."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Final, Literal, Self, TypeAlias, final

import pandas as pd

from fipray.analysis.results import Results
from fipray.errors import UsageError

SomeResults: TypeAlias = Results | Sequence[Results] | Mapping[str, Results]
Names: TypeAlias = Sequence[str] | Mapping[str, str] | None
Seeds: TypeAlias = Literal["interval", "range", "each"]
EACH: Final = "each"


@final
@dataclass(frozen=True)
class Shown:
    """One or several results, with labels for their networks.

    Networks with one label are runs of the same thing: paths of a study that differ in nothing but their seed and
    name, and networks of one name in studies that differ in nothing but their parameter `seed`.

    Args:
        results: the results.
        prefixes: label of each results; equal ones are runs of one study. Empty where there is one label only.
        names: labels by name, in order; None for all names as they are.
        pooled: whether runs share a label.
    """

    results: tuple[Results, ...]
    prefixes: tuple[str, ...]
    names: Mapping[str, str] | None
    pooled: bool

    @classmethod
    def of(cls, given: SomeResults, names: Names, seeds: Seeds = EACH) -> Self:
        """Sort out what a figure was asked to show.

        Args:
            given: results of one study, several of them, or several by label.
            names: networks to show, in order, or new names by old ones. For a sequence of several results, a sequence
                of names labels these results.
            seeds: "each" to give every network a label of its own.

        Returns:
            The results and labels.

        Raises:
            UsageError: without results, for the same results twice, and for another number of names than of results.
        """
        pooled = seeds != EACH
        names = (names,) if isinstance(names, str) else names
        if isinstance(given, Results):
            return cls((given,), ("",), _mapping(names), pooled)
        several = tuple(given.values()) if isinstance(given, Mapping) else tuple(given)
        if not several:
            raise UsageError("no results were given: load some with fipray.analysis.load")
        if isinstance(given, Mapping):
            prefixes, wanted = tuple(given), _mapping(names)
        elif names is None or isinstance(names, Mapping) or len(several) == 1:
            prefixes, wanted = _prefixes(several, pooled), _mapping(names)
        elif len(names) == len(several):
            prefixes, wanted = tuple(names), None
        else:
            raise UsageError(
                f"{len(several)} results and {len(names)} names were given: give a name for each, or results by label, "
                '{"ours": results, ...}, and then names of networks'
            )
        ids = [(prefix, each.manifest["study_id"]) for prefix, each in zip(prefixes, several, strict=True)]
        if len(set(ids)) < len(ids):
            raise UsageError("the same results were given twice under one name: give each once")
        return cls(several, prefixes if len(set(prefixes)) > 1 else ("",) * len(several), wanted, pooled)

    def __iter__(self) -> Iterator[tuple[int, str, Results]]:
        """Yield number, prefix and results of each."""
        for number, results in enumerate(self.results):
            yield number, self.prefixes[number], results

    def rows(self, frame_of: Callable[[Results], pd.DataFrame], what: str, column: str = "name") -> pd.DataFrame:
        """Rows of all results that are to be shown.

        Args:
            frame_of: makes the rows of one results.
            what: what they are, for messages.
            column: column with the names of networks or paths.

        Returns:
            The rows with the columns `result` (its number) and `label`, in the order of the labels.

        Raises:
            UsageError: if there are none, and for names that none of them has.
        """
        frames = [(number, frame_of(results)) for number, _, results in self]
        parts = [frame.assign(result=number) for number, frame in frames if len(frame)]
        if not parts:
            where = " and ".join(dict.fromkeys(results.address for results in self.results))
            raise UsageError(f"{where} holds no {what} yet: continue the study, then draw")
        rows = pd.concat(parts, ignore_index=True)
        keys = list(zip(rows["result"], rows[column], strict=True))
        if self.names is None:
            labels = {key: self._label(*key) for key in dict.fromkeys(keys)}
            order = list(dict.fromkeys(labels.values()))
        else:
            labels, order = self._chosen(list(dict.fromkeys(keys)), what)
        rows = rows.assign(label=[labels.get(key) for key in keys])
        place = {label: number for number, label in enumerate(order)}
        return rows[rows["label"].notna()].sort_values("label", key=lambda found: found.map(place), kind="stable")

    def _label(self, number: int, name: str) -> str:
        return self._prefixed(number, self._stem(number, name))

    def _prefixed(self, number: int, name: str) -> str:
        return f"{self.prefixes[number]}: {name}" if self.prefixes[number] else name

    def _stem(self, number: int, name: str) -> str:
        """Name of the runs that a network belongs to; variants follow their path."""
        path, at, sparsity = name.partition("@")
        return self._stems.get((number, path), path) + at + sparsity

    def _chosen(self, keys: Sequence[tuple[int, str]], what: str) -> tuple[dict[tuple[int, str], str], list[str]]:
        assert self.names is not None
        labels: dict[tuple[int, str], str] = {}
        found: dict[str, dict[str, None]] = {name: {} for name in self.names}
        for number, name in keys:
            stem = self._stem(number, name)
            # The exact name first: who names a single run wants it alone.
            for asked, is_full in (
                (self._prefixed(number, name), True),
                (name, False),
                (self._prefixed(number, stem), True),
                (stem, False),
            ):
                if asked in self.names:
                    new = self.names[asked]
                    labels[number, name] = new if is_full else self._prefixed(number, new)
                    found[asked][labels[number, name]] = None
                    break
        if unknown := [name for name, own in found.items() if not own]:
            known = ", ".join(dict.fromkeys(self._prefixed(number, name) for number, name in keys))
            raise UsageError(f"there are no {what} of {', '.join(map(repr, unknown))}; there are those of: {known}")
        return labels, list(dict.fromkeys(label for own in found.values() for label in own))

    @cached_property
    def _stems(self) -> dict[tuple[int, str], str]:
        """Common names of paths that differ in nothing but their seed."""
        if not self.pooled:
            return {}
        alike: dict[Any, list[tuple[int, str, int]]] = {}
        for number, prefix, results in self:
            for row in results.paths.drop_duplicates("name", keep=False).itertuples():
                key = (prefix, _without_seed(row.spec_json))
                alike.setdefault(key, []).append((number, row.name, row.seed))
        frames = [(prefix, each) for _, prefix, results in self for each in (results.paths, results.robustness)]
        taken = {(prefix, name) for prefix, frame in frames for name in frame["name"]}
        stems: dict[tuple[int, str], str] = {}
        for (prefix, _), runs in alike.items():
            own = list(dict.fromkeys(name for _, name, _ in runs))
            # Runs of one seed in one study are the same run, and their spec lies where it says that they differ.
            if len(own) > 1 and len({(number, seed) for number, _, seed in runs}) == len(runs):
                stem = _common(own)
                if not stem or (prefix, stem) in taken:
                    stem = f"{own[0]} to {own[-1]}"
                taken.add((prefix, stem))
                stems |= {(number, name): stem for number, name, _ in runs}
        return stems


def told_apart(rows: pd.DataFrame) -> list[str]:
    """Names of paths, with the beginning of the path_id for those that share a name, which are no runs of one path.

    Args:
        rows: rows of one results with the columns name and path_id.

    Returns:
        A name for each row.
    """
    shared = rows.groupby("name")["path_id"].transform("nunique") > 1
    return [
        f"{name} ({id[:8]})" if is_shared else name
        for name, id, is_shared in zip(rows["name"], rows["path_id"], shared, strict=True)
    ]


def counted(label: str, num_runs: int) -> str:
    """Add the number of runs to a label.

    Args:
        label: the label, escaped and shortened.
        num_runs: number of runs.

    Returns:
        The label, with "(n = 3)" for several runs.
    """
    return f"{label} (n = {num_runs})" if num_runs > 1 else label


def band_note(seeds: str) -> str:
    """Say what a band over runs is.

    Args:
        seeds: "interval" or "range".

    Returns:
        A text for a title or an axis.
    """
    return f"n runs: mean, {'95 % interval of the mean' if seeds == 'interval' else 'least to greatest'}"


def chosen(names: Names, known: Sequence[str], what: str) -> dict[str, str]:
    """Labels of what is to be shown of a single frame.

    Args:
        names: names to show, in order, or labels by name; None for all.
        known: the names that there are.
        what: what they are names of, for the message.

    Returns:
        Labels by name, in order.

    Raises:
        UsageError: for unknown names; the message lists the known ones.
    """
    wanted = _mapping((names,) if isinstance(names, str) else names)
    if wanted is None:
        return dict(zip(known, known, strict=True))
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"there are no {what} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")
    return dict(wanted)


def _common(names: Sequence[str]) -> str:
    """Find what names begin with, up to their numbers: "sparse" of "sparse-10" and "sparse-12"."""
    common = "".join(letters[0] for letters in takewhile(lambda some: len(set(some)) == 1, zip(*names, strict=False)))
    # A number that begins alike is not common, and one before a separator is: "sparse-0.9" of "sparse-0.9-1".
    return common.rstrip("0123456789").rstrip("-_. @/:")


def _mapping(names: Names) -> Mapping[str, str] | None:
    if names is None or isinstance(names, Mapping):
        return names
    return dict(zip(names, names, strict=True))


def _prefixes(several: Sequence[Results], pooled: bool) -> tuple[str, ...]:
    """Labels of results without any; equal ones for studies that differ in their seed alone, where runs are pooled."""
    keys = [_study_without_seed(results) if pooled else number for number, results in enumerate(several)]
    firsts = [several[keys.index(key)] for key in dict.fromkeys(keys)]
    studies = [str(results.manifest["study"]) for results in firsts]
    folders = [results.address.rstrip("/").rpartition("/")[2] for results in firsts]
    numbered = [f"{study} {number}" for number, study in enumerate(studies, 1)]
    labels = next(own for own in (studies, folders, numbered) if len(set(own)) == len(firsts))
    return tuple(dict(zip(dict.fromkeys(keys), labels, strict=True))[key] for key in keys)


def _study_without_seed(results: Results) -> str:
    """Text that is equal for studies that differ in their parameter `seed` alone; another one without such a seed."""
    parameters = dict(results.manifest["parameters"])
    if "seed" not in parameters:
        return str(results.manifest["study_id"])
    parameters.pop("seed")
    return json.dumps([results.manifest["study"], parameters], sort_keys=True, default=str)


def _without_seed(spec_json: str) -> str:
    spec = json.loads(spec_json)
    return json.dumps({key: value for key, value in spec.items() if key not in ("name", "seed")}, sort_keys=True)
