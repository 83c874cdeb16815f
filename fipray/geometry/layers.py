"""What layers do in a forward pass: convolutions and linear maps recorded, with products that cost what they must.

PyTorch's second derivative of a convolution computes two convolutions that `J v` does not need, and that of a frozen
normalisation goes through its statistics; on a ResNet the two make `J v` three times as dear. In a pass under
`Recording` a convolution has a derivative that computes only what is asked for, and a normalisation with frozen
statistics is the affine map that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


@dataclass(frozen=True)
class Place:
    """Where one linear map lies in the flat vector: `weight` and `bias` are its beginnings (bias None where there is
    none), `shape` that of its weights, [out, in] or [out, in, H, W].
    """

    weight: int
    shape: tuple[int, ...]
    bias: int | None

    @property
    def num_outputs(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """The number of weights of W, which lie row by row from `weight` on."""
        return int(torch.Size(self.shape).numel())

    def matrix(self, vector: Tensor) -> Tensor:
        """The layer's part of `vector` [P] as a matrix [out, in], the bias as its last column."""
        matrix = vector[self.weight : self.weight + self.size].view(self.num_outputs, -1)
        if self.bias is None:
            return matrix
        return torch.cat([matrix, vector[self.bias : self.bias + self.num_outputs, None]], 1)

    def put(self, vectors: Tensor, matrices: Tensor) -> None:
        """Write matrices [..., out, in] into their place in `vectors` [..., P]: the inverse of `matrix`."""
        if self.bias is not None:
            vectors[..., self.bias : self.bias + self.num_outputs] = matrices[..., -1]
            matrices = matrices[..., :-1]
        vectors[..., self.weight : self.weight + self.size] = matrices.flatten(-2)


@dataclass(frozen=True)
class Layer(Place):
    """One linear map of a forward pass: `output = W input + b`, a convolution being one over its patches.

    inputs: [N, ..., in] or, for a convolution, [N, in, H, W]; output: [N, ..., out] or [N, out, H', W']; settings:
    stride, padding and dilation of a convolution; dtype: that of the weights, in which products are taken, whatever
    autocast made of the inputs and outputs.
    """

    inputs: Tensor
    output: Tensor
    dtype: torch.dtype
    settings: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None

    def patches(self) -> Tensor:
        """What each position sees: [N, T, in], with a 1 appended where there is a bias; T positions, one for a plain
        linear layer.
        """
        if self.settings is None:
            seen = self.inputs.detach().reshape(len(self.inputs), -1, self.inputs.shape[-1])
        else:
            stride, padding, dilation = self.settings
            seen = functional.unfold(
                self.inputs.detach(), self.shape[2:], dilation=dilation, padding=padding, stride=stride
            ).transpose(1, 2)
        seen = seen.to(self.dtype)
        return functional.pad(seen, (0, 1), value=1.0) if self.bias is not None else seen

    def by_position(self, sensitivities: Tensor) -> Tensor:
        """Sensitivities to `output`, in its shape, as [N, T, out]."""
        if self.settings is None:
            return sensitivities.to(self.dtype).reshape(len(sensitivities), -1, self.num_outputs)
        return sensitivities.to(self.dtype).flatten(2).transpose(1, 2)


class Recording(TorchFunctionMode):
    """Records the layers of a forward pass whose weights lie in the flat vector `weights` [P].

    complete: whether every weight is recorded in exactly one of `layers`. (A weight may still act elsewhere, unseen.)
    flops: floating-point operations of one pass through the layers, for the whole batch.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self._weights = weights
        self.layers: list[Layer] = []

    @property
    def complete(self) -> bool:
        covered = sum(layer.size + (layer.num_outputs if layer.bias is not None else 0) for layer in self.layers)
        return covered == len(self._weights) and len({layer.weight for layer in self.layers}) == len(self.layers)

    @property
    def flops(self) -> float:
        return sum(2.0 * layer.size * (layer.output.numel() / layer.num_outputs) for layer in self.layers)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _CONVOLUTIONS:
            return self._convolution(_CONVOLUTIONS[function], function, *args, **kwargs)
        if function is functional.linear:
            return self._linear(*args, **kwargs)
        if function is functional.batch_norm:
            return _normalisation(function, *args, **kwargs)
        return function(*args, **kwargs)

    def _place(self, tensor: Tensor) -> int | None:
        """Where `tensor` begins in the flat vector, or None where it is no plain view of it."""
        whole = tensor.untyped_storage().data_ptr() == self._weights.untyped_storage().data_ptr()
        return (
            int(tensor.storage_offset() - self._weights.storage_offset()) if whole and tensor.is_contiguous() else None
        )

    def _keep(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, settings: Any = None) -> None:
        place = self._place(weight)
        bias_place = None if bias is None else self._place(bias)
        if place is not None and (bias is None or bias_place is not None):
            self.layers.append(Layer(place, tuple(weight.shape), bias_place, inputs, output, weight.dtype, settings))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = functional.linear(input, weight, bias)
        self._keep(input, weight, bias, output)
        return output

    def _convolution(
        self,
        dimensions: int,
        function: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.ndim != dimensions + 2:
            return function(input, weight, bias, stride, padding, dilation, groups)
        used = (input, weight, bias)
        if torch.is_autocast_enabled(input.device.type):
            low = torch.get_autocast_dtype(input.device.type)
            used = (input.to(low), weight.to(low), None if bias is None else bias.to(low))
        settings = tuple(_of_each(dimensions, value) for value in (stride, padding, dilation))
        output: Tensor = _Convolution.apply(*used, *settings, groups)
        if groups == 1 and dimensions == 2:
            self._keep(input, weight, bias, output, settings)
        return output


def _of_each(dimensions: int, value: Any) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(int(one) for one in value)
    return given * (dimensions // len(given))


def _normalisation(
    function: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return function(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (-1, *[1] * (input.ndim - 2))
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


class _Convolution(Function):
    """A convolution whose backward pass is a linear function of the sensitivities, and of nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.settings = (stride, padding, dilation, False, [0] * len(stride), groups)
        return torch.ops.aten.convolution(inputs, weight, bias, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, sensitivities: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        asked = list(ctx.needs_input_grad[:3])
        found = _Transposed.apply(sensitivities, inputs.detach(), weight.detach(), ctx.settings, asked)
        return *found, None, None, None, None


class _Transposed(Function):
    """The backward pass of a convolution, whose own derivative by the sensitivities is the convolution of tangents."""

    @staticmethod
    def forward(
        ctx: Any, sensitivities: Tensor, inputs: Tensor, weight: Tensor, settings: Any, asked: list[bool]
    ) -> Any:
        ctx.save_for_backward(inputs, weight)
        ctx.settings = settings
        return torch.ops.aten.convolution_backward(sensitivities, inputs, weight, [len(weight)], *settings, asked)

    @staticmethod
    def backward(ctx: Any, to_inputs: Tensor | None, to_weight: Tensor | None, to_bias: Tensor | None) -> Any:
        inputs, weight = ctx.saved_tensors
        convolution, result = torch.ops.aten.convolution, None
        if to_weight is not None:
            result = convolution(inputs, to_weight, to_bias, *ctx.settings)
        elif to_bias is not None:
            result = to_bias.view(-1, *[1] * len(ctx.settings[0]))
        if to_inputs is not None:
            along = convolution(to_inputs, weight, None, *ctx.settings)
            result = along if result is None else along.add_(result)
        return result, None, None, None, None
