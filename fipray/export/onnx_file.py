"""Modules as ONNX models, checked against torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import RunError, UsageError
from fipray.export.loader import outputs_of
from fipray.export.places import new_place
from fipray.networks import copied
from fipray.records.files import write_whole

_logger = logging.getLogger(__name__)
Inputs = Tensor | Mapping[str, Tensor]
TOLERANCE = 1e-5
"""Largest difference of outputs that is accepted, in units of the largest output where that is above 1."""
_LARGEST = 2_000_000_000  # bytes; protobuf messages end at 2 GiB
_LOGGERS = ("onnxscript", "onnx_ir", "torch.onnx")


@dataclass(frozen=True)
class Exported:
    """ONNX model, and how far it is from torch.

    Args:
        content: content of the file.
        difference: largest difference of an output between onnxruntime and torch on the inputs.
        largest: largest absolute output of torch.
    """

    content: bytes
    difference: float
    largest: float


@checked
def to_onnx(module: nn.Module, inputs: Inputs, to: str | Path) -> float:
    """Write a module as an ONNX file with a dynamic batch size, in float32.

    Its input is named "inputs", or as the keywords; its output is named "outputs": the tensor that the module returns,
    or that under `logits`.

    Args:
        module: the module.
        inputs: example inputs [N, ...], N at least 2, or several of them by keyword of the module's forward.
        to: file to write, which must not exist.

    Returns:
        Largest difference of an output between onnxruntime and torch on these inputs, with batches of another size than
        the one that the module was traced with.

    Raises:
        UsageError: without the packages of the extra `fipray[onnx]`, for a module that cannot be exported, and for a
            file that exists.
        RunError: if the outputs of onnxruntime differ by more than 1e-5 of the largest output (of 1, if that is less).
        RecordsError: for a file that cannot be written.
    """
    place = new_place(to)
    exported = onnx_of(module, inputs, {})
    write_whole(place, exported.content)
    return exported.difference


def check_installed() -> None:
    """Check that ONNX models can be made and run.

    Raises:
        UsageError: naming the missing package and the extra that installs it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ONNX files need the package {error.name}, which is not installed: pip install 'fipray[onnx]'"
        ) from error


def onnx_of(module: nn.Module, inputs: Inputs, metadata: Mapping[str, str]) -> Exported:
    """Make the ONNX model of a module, and compare it with torch.

    Args:
        module: the module; it is not changed.
        inputs: example inputs, see `to_onnx`.
        metadata: texts to keep in the model.

    Returns:
        The model.

    Raises:
        UsageError: see `to_onnx`.
        RunError: see `to_onnx`.
    """
    check_installed()
    # onnxruntime has no kernels of most operations in bfloat16, and of many in float16 and float64.
    keywords = tuple(inputs) if isinstance(inputs, Mapping) else ()
    traced = _Traced(copied(module).float(), keywords).eval()
    named = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    named = {name: value.float() if value.is_floating_point() else value for name, value in named.items()}
    if num_bytes(traced) > _LARGEST:
        raise UsageError(
            f"the weights have {num_bytes(traced):,} bytes, and an ONNX file holds at most {_LARGEST:,}: export a "
            "bundle or .safetensors"
        )
    _logger.info("tracing the network as an ONNX model")
    program = _program(traced, named)
    program.model.metadata_props.update(metadata)
    for value in program.model.graph.outputs:
        value.name = "outputs"
    _logger.info("writing the ONNX model")
    content = program.model_proto.SerializeToString()
    return Exported(content, *_compared(content, traced, named))


def num_bytes(module: nn.Module) -> int:
    """Count the bytes of a module's state.

    Args:
        module: the module.

    Returns:
        Bytes of parameters and buffers.
    """
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


class _Traced(nn.Module):
    """Module that returns one tensor, and takes by position what the module within takes by keyword."""

    # By position, as torch.export cannot express its guards on variable keywords.
    def __init__(self, module: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.keywords = keywords

    def forward(self, *args: Tensor) -> Tensor:
        named = dict(zip(self.keywords, args, strict=True)) if self.keywords else {}
        return outputs_of(self.module(**named) if named else self.module(*args))


def _program(traced: _Traced, named: Mapping[str, Tensor]) -> Any:
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            return torch.onnx.export(
                traced,
                tuple(named.values()),
                dynamic_shapes={"args": tuple({0: batch} for _ in named)},
                input_names=list(named),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the module's code, and has many errors of its own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # its own message is a page about itself
        reason = str(cause).strip().partition("\n")[0]
        raise UsageError(
            f"{type(traced.module).__name__} cannot be exported to ONNX ({type(cause).__name__}: {reason[:300]}). Its "
            "forward must be one that torch.export can trace with a batch of any size; export .safetensors instead"
        ) from error


def _compared(content: bytes, traced: _Traced, named: Mapping[str, Tensor]) -> tuple[float, float]:
    """Largest difference, and largest output, over batches of all inputs and of one less."""
    import onnxruntime

    _logger.info("comparing the outputs of onnxruntime with those of torch")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}
    difference = largest = 0.0
    num = len(next(iter(named.values())))
    for size in {num, max(num - 1, 1)}:
        batch = {name: value[:size] for name, value in named.items()}
        with torch.no_grad():
            wanted = traced(*batch.values()).cpu().numpy()
        # An input that the module ignores is no input of the graph.
        (found,) = session.run(None, {name: value.cpu().numpy() for name, value in batch.items() if name in taken})
        if found.shape != wanted.shape or not np.array_equal(np.isfinite(found), np.isfinite(wanted)):
            raise RunError(
                f"onnxruntime computes outputs {found.shape} where torch computes {wanted.shape}, or others of them "
                "are not finite; nothing was written. Export .safetensors instead"
            )
        finite = np.isfinite(wanted)
        difference = max(difference, float(np.abs(found[finite] - wanted[finite]).max(initial=0)))
        largest = max(largest, float(np.abs(wanted[finite]).max(initial=0)))
    if not difference <= TOLERANCE * max(1.0, largest):
        raise RunError(
            f"outputs of onnxruntime differ from those of torch by {difference:.2g}, with outputs up to {largest:.2g}; "
            "nothing was written. Export .safetensors instead"
        )
    return difference, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose warnings and messages are about itself."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
