"""Precision, memory format and size of the passes through a network, and what to do when memory runs out."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec

T = TypeVar("T")

_logger = logging.getLogger(__name__)
Context = Callable[[], AbstractContextManager[None]]
_undivided = ContextVar("undivided", default=False)
_repeated_in: ContextVar[Context] = ContextVar("repeated_in", default=nullcontext)


@spec("compute")
@checked
@dataclass(frozen=True)
class Compute:
    """How passes through a network are computed, in steps, attacks and evaluations alike.

    Args:
        precision: "fp32"; "tf32", which lets an NVIDIA GPU round factors of matrix products and convolutions to 10 bits
            of mantissa; or "bf16", bfloat16 by autocast with float32 accumulation. Weights, outputs, geometry and steps
            stay in float32 in any case.
        channels_last: whether images [N, C, H, W] are given to the network in the memory format `channels_last`, which
            suits the matrix units of a GPU.
        deterministic: whether operations of a GPU that do not always give the same bits are replaced or refused. With
            it, a path can be resumed bit for bit on a GPU.
        micro_batch: largest number of inputs in one pass, at least 1. Larger batches are computed in several passes
            with the same outputs and gradients, to rounding; a differentiated pass is computed twice, once for its
            outputs and once for its gradient. None takes a batch in one pass, and halves it when memory runs out.

    Raises:
        UsageError: for a micro-batch below 1.
    """

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    deterministic: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is not None and not self.micro_batch >= 1:
            raise UsageError(f"micro_batch must be None or at least 1; {self.micro_batch} was given")

    def prepare_process(self) -> None:
        """Switch on what torch sets for a whole process: TF32, and deterministic algorithms."""
        if self.precision == "tf32":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False

    @contextmanager
    def passing(self, device: str) -> Iterator[None]:
        """Context of a forward pass.

        Args:
            device: type of the device, such as "cuda".

        Yields:
            Nothing.
        """
        if self.precision != "bf16":
            yield
            return
        with torch.autocast(device, torch.bfloat16):
            yield

    def arranged(self, inputs: Tensor) -> Tensor:
        """Arrange inputs in memory.

        Args:
            inputs: [N, ...].

        Returns:
            The same inputs.
        """
        is_images = self.channels_last and inputs.ndim == 4
        return inputs.contiguous(memory_format=torch.channels_last) if is_images else inputs


class Room:
    """Number of inputs of one pass for which there was room in memory.

    Attributes:
        largest: largest number of inputs of a pass; None while memory has not run out.
    """

    def __init__(self) -> None:
        self.largest: int | None = None

    def fitting(self, act: Callable[[], T], num_inputs: int) -> T:
        """Call a function that passes inputs through the network; when memory runs out, call it again with less.

        Args:
            act: function without side effects.
            num_inputs: number of inputs that it passes through the network, at most.

        Returns:
            What the function returns.

        Raises:
            Exception: that of the function, when memory runs out even for one input at a time.
        """
        while True:
            try:
                return act()
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                size = min(self.largest or num_inputs, num_inputs)
                if not is_out_of_memory(error) or size <= 1:
                    raise
                self.largest = size // 2
                _logger.warning("memory ran out with passes of %d inputs; now %d at a time", size, self.largest)
            # After the handler: the exception holds the frames of the pass, and these hold its tensors.
            gc.collect(1)  # what the pass left in cycles is young; a whole collection may take seconds
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch says that memory ran out.

    Args:
        error: the error.

    Returns:
        True for that of a GPU and that of the CPU.
    """
    # Neither the allocator of the CPU nor oneDNN, which computes its convolutions, has an exception of its own. That of
    # oneDNN may also mean an operation that it does not have; it is then raised by a pass of one input, too.
    said = ("can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in said)


@contextmanager
def undivided() -> Iterator[None]:
    """Pass inputs through a network all at once in this context, whatever the micro-batch.

    For passes that normalise by the batch, and for those whose graph is differentiated several times.

    Yields:
        Nothing.
    """
    token = _undivided.set(True)
    try:
        yield
    finally:
        _undivided.reset(token)


class _Anew(AbstractContextManager[None]):
    """Context that can be entered several times: a second derivative computes a pass a third time."""

    def __init__(self, make: Context) -> None:
        self._make, self._open = make, ExitStack()

    def __enter__(self) -> None:
        self._open.enter_context(self._make())

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


@contextmanager
def repeated_in(context: Context) -> Iterator[None]:
    """Repeat passes that are computed again for their gradients in a context.

    Args:
        context: makes the context; that in which the passes of this context are computed at first.

    Yields:
        Nothing.
    """
    token = _repeated_in.set(context)
    try:
        yield
    finally:
        _repeated_in.reset(token)


def in_passes(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int | None, *, dim: int = 0) -> Tensor:
    """Evaluate a function of inputs in passes of a bounded size, with the gradients of one pass.

    Where gradients are asked for, each pass keeps its inputs alone, and is computed again when its gradient is
    (Chen et al. 2016, arXiv 1604.06174). Memory is then that of one pass.

    Args:
        function: function of inputs [N, ...], of each input alone.
        inputs: [N, ...].
        size: largest number of inputs in a pass; None for no limit.
        dim: dimension of the outputs along which the inputs lie.

    Returns:
        The outputs.
    """
    if size is None or len(inputs) <= size or _undivided.get():
        return function(inputs)
    parts = inputs.split(size)
    if not torch.is_grad_enabled():
        return torch.cat([function(part) for part in parts], dim)
    again = _repeated_in.get()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Anew(again)

    found = [
        checkpoint(function, part, use_reentrant=False, preserve_rng_state=False, context_fn=contexts) for part in parts
    ]
    return torch.cat(found, dim)
