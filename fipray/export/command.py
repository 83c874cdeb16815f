"""Export of networks from a results directory, as files or directories for other programs and people."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fipray import analysis
from fipray.analysis import Results
from fipray.border import checked
from fipray.errors import UsageError
from fipray.export.directories import Exporting, packing_note, pretrained, write_bundle, write_hub
from fipray.export.like import reference_of
from fipray.export.onnx_file import check_installed, onnx_of
from fipray.export.places import new_place
from fipray.export.states import Packed, content, packed, slim_module, state_dict_of
from fipray.records.files import write_whole

_logger = logging.getLogger(__name__)
FILES = (".safetensors", ".pt", ".pth")
ONNX = ".onnx"
LAYOUTS = ("hf", "bundle")
_REMOVING = "removing channels that are zero"
_NUM_EXAMPLES = 5  # inputs on which an ONNX model is compared with torch


@checked
@dataclass(frozen=True)
class Options:
    """How a network is exported.

    Args:
        like: module of the study's architecture, or `module:function`; see `Results.module`.
        slim: remove channels that are zero, which leaves a smaller dense module. Files only.
        packed: write matrices in 2:4 format as values and 2-bit positions. State files and bundles only.
        layout: "hf" or "bundle" for a directory; None for "hf" where the module can write itself with
            `save_pretrained`, and "bundle" otherwise.
    """

    like: nn.Module | str | None = None
    slim: bool = False
    packed: bool = False
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in (None, *LAYOUTS):
            raise UsageError(f"there is no layout {self.layout!r}; valid ones are: {', '.join(LAYOUTS)}")
        if self.slim and self.packed:
            raise UsageError("a network is either slim or packed: channels are removed, or 2:4 groups are; give one")


@checked
def export(
    directory: str | Path,
    name: str,
    sparsity: float | None,
    to: str | Path,
    slim: str | None = None,
    options: Options | None = None,
) -> str:
    """Write a network of a results directory.

    The form follows the name: `.safetensors`, `.pt` and `.pth` are a `state_dict` of the study's module; `.onnx` is a
    model that onnxruntime has been compared with torch on; any other name without suffix, or with a slash at its end,
    is a directory with a model card, which other programs load.

    Args:
        directory: results directory, or its address in an object store.
        name: "base", the name or path_id of a path, or the name of a variant, an ensemble or a recipe's result.
        sparsity: sparsity, 0..1, of a pruned network on the way of path `name`; None for the network itself.
        to: file or directory to write, which must not exist.
        slim: `module:function` that makes the study's module; the same as `Options(like=slim, slim=True)`.
        options: further options; None for the defaults.

    Returns:
        Sentence with what was written, its sparsity as in the tables, and its size.

    Raises:
        UsageError: for an unknown name or sparsity, a place where there is something already, an unknown suffix, a
            module that is not the study's, and options that have no effect on this form.
        NetworkError: with `slim`, for a network without a removable channel that is zero.
        RunError: for an ONNX model that computes something else.
        RecordsError: for a place that cannot be written. Nothing is left half written.
    """
    options = options or Options()
    if slim is not None:
        options = Options(slim, True, options.packed, options.layout)
    place, form = new_place(to), _form(to, options)
    if form == ONNX:
        check_installed()
    _logger.info("reading the results")
    results = analysis.load(directory)
    name = name if sparsity is None else str(analysis.find_variant(results, name, sparsity)["network"])
    asked, name = name, results.named.get(name, name)  # a recipe's result, such as "pruned", is one of the networks
    what = _described(results, name) if asked == name else f"{asked}, {_described(results, name)}"
    _logger.info("making %s", asked)
    if form in FILES:
        done = _write_state(results, name, place, form, options)
    elif form == ONNX:
        done = _write_onnx(results, name, place, options)
    else:
        done = _write_directory(results, name, place, form, options)
    size = sum(file.stat().st_size for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file())
    return f"{place}: {what}; {done}; {size:,} bytes"


def _form(to: str | Path, options: Options) -> str:
    """Suffix of a file, or layout of a directory ("" to choose one)."""
    suffix = Path(to).suffix
    is_directory = options.layout is not None or not suffix or str(to).endswith(("/", "\\"))
    if is_directory and suffix in (*FILES, ONNX):
        raise UsageError(f"{to} is the name of a file, and a directory was asked for: give a name without suffix")
    if not is_directory and suffix not in (*FILES, ONNX):
        raise UsageError(
            f"{to} has the suffix {suffix}: use one of {', '.join((*FILES, ONNX))} for a file, or a name with a slash "
            "at its end for a directory"
        )
    form = (options.layout or "") if is_directory else suffix
    if options.packed and form in (ONNX, "hf"):
        raise UsageError(
            f"--packed is for .safetensors, .pt and bundles (--layout bundle): {to} would not load with it"
        )
    if options.slim and is_directory:
        raise UsageError("--slim is for files: export .safetensors, .pt or .onnx")
    return form


def _described(results: Results, name: str) -> str:
    found = analysis.facts(results, name)
    sparsity = f", sparsity {found.sparsity_text}" if found.sparsity is not None else ""
    members = f" of {', '.join(results.members(name))}" if found.kind == "ensemble" else ""
    return f"{found.kind} {name}{members}{sparsity}"


def _write_state(results: Results, name: str, place: Path, form: str, options: Options) -> str:
    metadata = {"fipray_network": name, "fipray_study": results.manifest["study"]}
    if options.slim:
        module = results.module(name, options.like)
        _logger.info(_REMOVING)
        smaller = slim_module(module)
        write_whole(place, content(smaller.state_dict(), form, metadata))
        return f"state of a smaller module, {_num_weights(smaller):,} weights"
    state = state_dict_of(results, name)
    if options.packed:
        found = packed(results.manifest, state)
        write_whole(place, content(found.state, form, metadata))
        return packing_note(found).rstrip(".")
    write_whole(place, content(state, form, metadata))
    is_single = results.members(name) == (name,)
    return "state of the study's module" if is_single else "state of a fipray.export.Ensemble of the study's modules"


def _write_onnx(results: Results, name: str, place: Path, options: Options) -> str:
    inputs = _examples(results)
    module = results.module(name, options.like)
    if options.slim:
        _logger.info(_REMOVING)
        module = slim_module(module)
    manifest = results.manifest
    metadata = {"network": name, "study": manifest["study"], "study_id": manifest["study_id"]}
    exported = onnx_of(module, inputs, metadata)
    write_whole(place, exported.content)
    low = {value.dtype for value in module.parameters()} - {torch.float32}
    note = f" (weights in {', '.join(map(str, low))} became float32)" if low else ""
    return f"outputs of onnxruntime differ from torch by at most {exported.difference:.1e}{note}"


def _write_directory(results: Results, name: str, place: Path, layout: str, options: Options) -> str:
    module = results.module(name, options.like)
    exporting = Exporting(results, name, module, reference_of(results.manifest, options.like))
    layout = layout or ("hf" if pretrained(module) is not None and not options.packed else "bundle")
    if layout == "hf":
        return f"layout hf: {write_hub(exporting, place)}"
    if options.packed:
        _logger.info("packing matrices in 2:4 format")
    found: Packed | None = packed(results.manifest, module.state_dict()) if options.packed else None
    done = write_bundle(exporting, place, found)
    return f"layout bundle: {done}" + (f"; {packing_note(found).rstrip('.')}" if found else "")


def _examples(results: Results) -> Tensor:
    """Random inputs like the held-out ones of the study, within their range."""
    described: dict[str, Any] | None = results.manifest.get("inputs")
    if described is None:
        raise UsageError(
            f"{results.address} does not say what inputs look like, as an earlier version of fipray wrote it: use "
            "fip.export.to_onnx(results.module(name, like=...), inputs, file)"
        )
    dtype: torch.dtype = getattr(torch, described["dtype"])
    shape, low, high = (_NUM_EXAMPLES, *described["shape"]), described["low"], described["high"]
    draws = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return (low + (high - low) * torch.rand(shape, generator=draws, dtype=torch.float64)).to(dtype)
    return torch.randint(int(low), int(high) + 1, shape, generator=draws).to(dtype)


def _num_weights(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())
