"""Exported directories: weights, configuration, loader, tables and model card."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from fipray.analysis import Results, facts, summary
from fipray.export import loader
from fipray.export.card import Loading, card, versions
from fipray.export.loader import CONFIG, WEIGHTS, Ensemble
from fipray.export.places import new_directory
from fipray.export.states import Packed, content
from fipray.networks import MultiHead, copied
from fipray.study.hubs import HUBS

_logger = logging.getLogger(__name__)
TABLES, ADAPTERS = "tables", "adapters"
_MERGE = "merge_and_unload"  # method of peft's modules
_README, _LOADER = "README.md", "loader.py"
# Columns that say where and when something ran, or name files that are not there.
_PRIVATE = ["host", "node_id", "worker_id", "weights_file", "weights_sha256", "attempt", "schema_version"]
_NAMING = ("name", "network", "source", "target")
_ENSEMBLE = ("members", "average", "dim", "weights", "temperatures")  # the last two only where there are any
_IDENTITY = ("study", "study_id", "base_id", "data_id", "inputs", "form")


@dataclass(frozen=True, eq=False)
class Exporting:
    """Network to write as a directory.

    Args:
        results: results of the study.
        name: name of the network.
        module: its module.
        reference: `module:function` that makes the study's module; None if it is not known.
    """

    results: Results
    name: str
    module: nn.Module
    reference: str | None

    @property
    def single(self) -> nn.Module:
        """The module, or that of an ensemble's first member."""
        return self.module.members[0] if isinstance(self.module, Ensemble) else self.module

    @property
    def config(self) -> dict[str, Any]:
        """Description of the network, for `loader.load` and for readers."""
        manifest = self.results.manifest
        found = facts(self.results, self.name)
        ensemble = manifest.get("ensembles", {}).get(self.name, {})
        return {
            "name": self.name,
            "kind": found.kind,
            **{key: ensemble[key] for key in _ENSEMBLE if key in ensemble},
            "sparsity": found.sparsity,
            "module": self.reference or f"{type(self.single).__module__}:{type(self.single).__qualname__}",
            **{key: manifest[key] for key in _IDENTITY if key in manifest},
            "versions": versions(),
        }

    @property
    def making(self) -> str:
        """Lines of Python that make the study's module as `module`."""
        hub, _, rest = (self.reference or "").partition(":")
        # A file, or a directory that save_pretrained wrote, may lie anywhere, so its path says nothing to others.
        if self.reference and hub != "hf" and not hub.endswith(".py"):
            if hub in HUBS or "?" in rest:
                text = json.dumps(self.reference)
                return f"from fipray.study.reference import module_of\n\nmodule = module_of({text})"
            place, _, function = self.reference.rpartition(":")
            return f"from {place} import {function}\n\nmodule = {function}()"
        of = type(self.single)
        maker = self.reference or self.results.manifest.get("made_by", {}).get("function", "")
        shown = maker.replace("\\", "/").rpartition("/")[2]
        comment = f"as {shown} makes it" if shown else "with the arguments of the study's module"
        name = of.__qualname__
        return f"from {of.__module__} import {name.partition('.')[0]}\n\nmodule = {name}(...)  # {comment}"


def pretrained(module: Any) -> Any | None:
    """Find the part of a module that writes itself with `save_pretrained`.

    Args:
        module: the module.

    Returns:
        The module itself, or its only submodule if that holds all of its state; None if neither has the method. One
        with adapters (peft) counts if these can be merged into a module that has it.
    """
    children = list(module.children())
    if _has_adapters(module):
        inner = module.get_base_model()
        return module if callable(getattr(module, _MERGE, None)) and pretrained(inner) is inner else None
    if callable(getattr(module, "save_pretrained", None)):
        return module
    if isinstance(module, MultiHead):
        return None  # it selects among the outputs of the module that it holds
    if len(children) == 1 and len(children[0].state_dict()) == len(module.state_dict()):
        return pretrained(children[0])
    return None


def write_hub(exporting: Exporting, place: Path) -> str:
    """Write a directory as model hubs hold them.

    Args:
        exporting: the network.
        place: path of the directory, which must not exist.

    Returns:
        What was written.
    """
    itself = pretrained(exporting.module)
    with new_directory(place) as made:
        _logger.info("writing the weights")
        if itself is not None:
            if _has_adapters(itself):
                itself.save_pretrained(made / ADAPTERS)
                itself = getattr(copied(itself), _MERGE)()  # for readers without peft; in place, hence of a copy
            itself.save_pretrained(made)
            name = type(itself).__name__
            code = f'from {_public(itself)} import {name}\n\nnetwork = {name}.from_pretrained(".").eval()'
            library = "transformers" if type(itself).__module__.startswith("transformers.") else "pytorch"
            loading = Loading(library, code)
        else:
            loading = _write_plain(exporting, made)
        _logger.info("writing the model card")
        _write(made / _README, card(exporting.results, exporting.name, type(exporting.single).__name__, loading))
    return f"{type(itself or exporting.module).__name__} with {WEIGHTS} and {CONFIG}"


def write_bundle(exporting: Exporting, place: Path, packed: Packed | None) -> str:
    """Write a directory with weights, a loader that needs torch alone, tables as CSV, and a model card.

    Args:
        exporting: the network.
        place: path of the directory, which must not exist.
        packed: its state with matrices in 2:4 format; None to write it dense.

    Returns:
        What was written.
    """
    config = exporting.config
    notes = ["`loader.py` needs torch alone. `tables/` holds what was measured of this network and its base."]
    if packed:
        config |= {"packed_2_4": list(packed.names), "not_packed": dict(packed.skipped)}
        notes += [packing_note(packed)]
    code = f"from loader import load\n{exporting.making}\nnetwork = load(module)"
    with new_directory(place) as made:
        _logger.info("writing the weights")
        (made / WEIGHTS).write_bytes(content(packed.state if packed else exporting.module.state_dict(), ".safetensors"))
        _write(made / CONFIG, json.dumps({"fipray": config}, indent=1))
        shutil.copyfile(str(loader.__file__), made / _LOADER)
        _logger.info("writing the tables")
        (made / TABLES).mkdir()
        for table, frame in tables_of(exporting.results, exporting.name).items():
            frame.to_csv(made / TABLES / f"{table}.csv", index=False)
        loading = Loading("pytorch", code, notes)
        _logger.info("writing the model card")
        _write(made / _README, card(exporting.results, exporting.name, type(exporting.single).__name__, loading))
    return f"{WEIGHTS}, {_LOADER}, {TABLES}, {_README}"


def packing_note(packed: Packed) -> str:
    """Sentence on the matrices in 2:4 format, with the names of those that are not.

    Args:
        packed: the packed state.

    Returns:
        One sentence.
    """
    skipped = "; ".join(f"{name} ({why})" for name, why in packed.skipped.items())
    rest = f"; not in this format, and stored dense: {skipped}" if skipped else ""
    return f"{len(packed.names)} matrices are packed in 2:4 format{rest}."


def tables_of(results: Results, name: str) -> Mapping[str, pd.DataFrame]:
    """Rows of all tables about a network, its members and the base.

    Args:
        results: results of the study.
        name: name of the network.

    Returns:
        Frames by name, without columns about machines and files; "summary" has all networks.
    """
    members = [name, *results.members(name)]
    of_ids = results.paths.loc[results.paths["path_id"].isin(members), "name"]
    names = {"base", *members, *(each.partition("@")[0] for each in members), *of_ids}
    found = {"summary": summary(results)}
    for table, frame in results.frames.items():
        keys = [key for key in _NAMING if key in frame.columns and not (key == "name" and "network" in frame.columns)]
        rows = frame[frame[keys].isin(names).all(axis=1)]
        if "path_id" in rows and not results.paths["name"].is_unique:
            rows = rows[rows["path_id"].isin(members)]
        if len(rows):
            kept = rows.drop(columns=[column for column in _PRIVATE if column in rows])
            found[table] = kept.map(_cell)
    return found


def _cell(value: Any) -> Any:
    # pandas writes arrays with an ellipsis; per-example results are booleans.
    return (
        "".join("01"[bool(each)] for each in value)
        if hasattr(value, "__len__") and not isinstance(value, str)
        else value
    )


def _write_plain(exporting: Exporting, made: Path) -> Loading:
    (made / WEIGHTS).write_bytes(content(exporting.module.state_dict(), ".safetensors"))
    own: dict[str, Any] = {"fipray": exporting.config}
    config: Any = getattr(pretrained(exporting.single), "config", None)
    if callable(getattr(config, "to_dict", None)):
        own |= config.to_dict()  # members of an ensemble are made from it
    _write(made / CONFIG, json.dumps(own, indent=1, default=str))
    if isinstance(exporting.module, Ensemble):
        shutil.copyfile(str(loader.__file__), made / _LOADER)
        return Loading("pytorch", f"from loader import load\n{exporting.making}\nnetwork = load(module)")
    lines = (
        f'from safetensors.torch import load_file\n{exporting.making}\nmodule.load_state_dict(load_file("{WEIGHTS}"))'
    )
    note = "A class that also inherits `huggingface_hub.PyTorchModelHubMixin` loads it with `from_pretrained`, too."
    return Loading("pytorch", f"{lines}\nnetwork = module.eval()", (note,))


def _has_adapters(module: Any) -> bool:
    """Whether a module is one of peft's, whose `save_pretrained` leaves out what the adapters are around."""
    return hasattr(module, "peft_config") and callable(getattr(module, "get_base_model", None))


def _public(module: Any) -> str:
    """Package from which the class of a module can be imported."""
    of = type(module)
    return "transformers" if of.__module__.startswith("transformers.") else str(of.__module__)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
