"""Footprint of a sparse network: bytes in several formats, and multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fipray.border import checked
from fipray.networks.effective import effective
from fipray.networks.network import Network
from fipray.registry import spec

_MULTIPLYING = (functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)


@spec("sizes")
@dataclass(frozen=True)
class Footprint:
    """Sizes of a network at some weights.

    Effective weights are counted (`fipray.networks.effective`), and except for multiply-adds only those in the weight
    vector. Matrices are weights of two or more dimensions.

    Args:
        sparsity: fraction of zeros in each matrix, 0..1, by name.
        num_weights: number of weights.
        non_zeros: number of weights that are not zero.
        bytes_dense: size with 4 bytes for each weight, as float32.
        bytes_csr: size with matrices as compressed sparse rows [out, rest]: for each non-zero 4 bytes for its value and
            2 for its column (4 where there are more than 65,536 columns), and for each row, and for the end, 4 bytes.
            The rest is dense.
        bytes_2_4: size with matrices in the semi-structured 2:4 format, in which at most 2 of each 4 weights along
            dimension 1 are not zero: half of their values, and 2 bits for the position of each. The rest, and matrices
            whose dimension 1 is not a multiple of 4, are dense. None where the weights do not have this pattern.
        multiply_adds: multiply-adds of linear layers and convolutions for one input (positions times weights), without
            biases.
        multiply_adds_non_zero: those whose weight is not zero.
    """

    sparsity: Mapping[str, float]
    num_weights: int
    non_zeros: int
    bytes_dense: int
    bytes_csr: int
    bytes_2_4: int | None
    multiply_adds: int
    multiply_adds_non_zero: int


@checked
@torch.no_grad()
def footprint_of(network: Network, weights: Tensor, inputs: Tensor) -> Footprint:
    """Measure the footprint of a network.

    Args:
        network: the network.
        weights: [P].
        inputs: [N, ...], the first of which is passed through the network to count multiply-adds.

    Returns:
        The sizes.

    Raises:
        DataError: for inputs that the network does not accept.
        NetworkError: for weights of another shape.
    """
    network.check(inputs[:1] if inputs.ndim else inputs)
    named = effective(network, weights)
    matrices = {name: value for name, value in named.items() if value.ndim >= 2}
    rest = 4 * sum(value.numel() for value in named.values() if value.ndim < 2)
    halves = [_bytes_2_4(value) for value in matrices.values()]
    with _Counting() as counting:
        network(weights, inputs[:1])
    return Footprint(
        sparsity={name: int((value == 0).sum()) / value.numel() for name, value in matrices.items()},
        num_weights=sum(value.numel() for value in named.values()),
        non_zeros=sum(int(value.count_nonzero()) for value in named.values()),
        bytes_dense=4 * sum(value.numel() for value in named.values()),
        bytes_csr=rest + sum(map(_bytes_csr, matrices.values())),
        bytes_2_4=None if None in halves else rest + sum(half for half in halves if half is not None),
        multiply_adds=counting.total,
        multiply_adds_non_zero=counting.non_zero,
    )


def _bytes_csr(value: Tensor) -> int:
    rows, columns = value.flatten(1).shape
    return int(value.count_nonzero()) * (4 + (2 if columns <= 2**16 else 4)) + 4 * (rows + 1)


def _bytes_2_4(value: Tensor) -> int | None:
    if value.shape[1] % 4:
        return 4 * value.numel()
    if bool((value.unflatten(1, (-1, 4)).count_nonzero(2) > 2).any()):
        return None
    return 2 * value.numel() + -(-value.numel() // 8)  # half of the values with 4 bytes and 2 bits each, rounded up


class _Counting(TorchFunctionMode):
    """Context that counts multiply-adds of linear layers and convolutions of any groups, frozen ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.non_zero = 0, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in _MULTIPLYING:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            positions = output.numel() // len(weight)  # each weight is used once per position of its output channel
            self.total += positions * weight.numel()
            self.non_zero += positions * int(weight.count_nonzero())
        return output
