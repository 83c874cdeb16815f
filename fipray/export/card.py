"""Model card of an exported directory: README.md in the form that model hubs read."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

import fipray
from fipray.analysis import Facts, Results, facts
from fipray.printable import printable, printable_lines, without_credentials

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "safetensors")
_PAPER = "[functionally invariant paths](https://arxiv.org/abs/2205.00334)"


@dataclass(frozen=True)
class Loading:
    """How an exported directory is loaded.

    Args:
        library: name for model hubs, such as "transformers" or "pytorch".
        code: lines of Python, run in the directory.
        notes: further sentences.
    """

    library: str
    code: str
    notes: Sequence[str] = ()


def versions() -> dict[str, str]:
    """Versions of fipray, Python and the libraries that networks are made with, by name; those installed alone."""
    found = {"fipray": fipray.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def card(results: Results, name: str, module_name: str, loading: Loading) -> str:
    """Write the model card of a network.

    Args:
        results: results of the study.
        name: name of the network.
        module_name: class of its module.
        loading: how it is loaded.

    Returns:
        Markdown.
    """
    members = results.members(name)
    of = [facts(results, each) for each in dict.fromkeys(("base", name, *members))]
    kind = next(each.kind for each in of if each.name == name)
    manifest = results.manifest
    parts = [
        f"---\nlibrary_name: {loading.library}\ntags:\n- fipray\n- functionally-invariant-paths\n---",
        f"# {_text(name)}",
        _sentence(manifest, name, kind, members, module_name),
        "## Measured",
        _table(of),
        "Accuracies in %, robust ones under the attack and threat model (norm, epsilon) named; `worst` is the worst "
        "attack of each example. The functional distance is to the base network on held-out inputs, in units of its "
        "output geometry; sparsity is the fraction of weights that are zero.",
        "## Load",
        f"Run in this directory:\n\n{_fenced('python', loading.code)}",
        *loading.notes,
        "## Settings",
        f"Study `{_text(manifest['study'])}` ({manifest['study_id']}), base network `{manifest.get('base_id', '')}`, "
        f"data `{manifest.get('data_id', '')}`.",
        _settings(results, members),
        "## Versions",
        ", ".join(f"{library} {number}" for library, number in versions().items()),
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(manifest: Mapping[str, Any], name: str, kind: str, members: Sequence[str], module_name: str) -> str:
    what = {
        "base": "The base network of a study",
        "path": f"The network at the end of path `{_text(name)}`",
        "variant": f"The sparse network that path `{_text(name.partition('@')[0])}` passed through",
        "ensemble": f"An ensemble of {len(members)} networks ({', '.join(f'`{_text(one)}`' for one in members)})",
    }[kind]
    ensemble = manifest.get("ensembles", {}).get(name, {})
    mean = "weighted mean" if "weights" in ensemble else "mean"
    outputs = {
        "probabilities": f" Its outputs are the logarithms of the members' {mean} class probabilities.",
        "outputs": f" Its outputs are the {mean} of the members' outputs.",
    }.get(ensemble.get("average", ""), "")
    return f"{what}, a {_text(module_name)}, made by tracing {_PAPER} with fipray.{outputs}{_mixing(ensemble)}"


def _mixing(ensemble: Mapping[str, Any]) -> str:
    """Sentence for each of weights and temperatures, in the order of the members."""
    sentences = {
        "weights": " Weights of the members, in this order: {}.",
        "temperatures": " Their logits are divided by temperatures first, in this order: {}.",
    }
    return "".join(
        sentence.format(", ".join(f"{each:.6g}" for each in ensemble[key]))
        for key, sentence in sentences.items()
        if key in ensemble
    )


def _table(of: Sequence[Facts]) -> str:
    attacks = pd.concat([each.attacks for each in of])
    columns = list(attacks[["attack", "threat"]].drop_duplicates().itertuples(index=False, name=None))
    head = ["network", "sparsity", "distance", "clean accuracy", *(f"{a} {t} (examples)" for a, t in columns)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for each in of:
        cells = {
            (row.attack, row.threat): f"{100 * row.robust_accuracy:.1f} ({row.num_examples})"
            for row in each.attacks.itertuples()
        }
        distance, clean = each.functional_distance_held_out, each.clean_accuracy
        lines.append(
            [
                each.name,
                each.sparsity_text,
                "" if distance is None else f"{distance:.4f}",
                "" if clean is None else f"{100 * clean:.1f}",
                *(cells.get(column, "") for column in columns),
            ]
        )
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _settings(results: Results, members: Sequence[str]) -> str:
    paths = results.paths
    names = {member.partition("@")[0] for member in members}
    # The paths that these began from, too, back to the base.
    while True:
        own = paths[paths["name"].isin(names) | paths["path_id"].isin(names)]
        starts = {start.partition("@")[0] for start in own["start"]} - {"base"} - names
        if not starts:
            break
        names |= starts
    specs = {row.name if own["name"].is_unique else row.path_id: json.loads(row.spec_json) for row in own.itertuples()}
    return _fenced("json", json.dumps({"parameters": results.manifest["parameters"], "paths": specs}, indent=1))


def _fenced(language: str, text: str) -> str:
    """Code block, with a fence longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{printable_lines(without_credentials(text)).rstrip()}\n{fence}"


def _text(text: object) -> str:
    """Text within a line or a cell of Markdown."""
    return printable(text).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
