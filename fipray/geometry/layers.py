"""Recording of linear maps and convolutions in a forward pass, with cheaper second derivatives.

PyTorch's second derivative of a convolution computes two convolutions that `J v` does not need, and that of a frozen
normalisation passes through its statistics; on a ResNet the two make `J v` three times as expensive. In a pass under
`Recording` a convolution's derivative computes only the gradients asked for, and a normalisation with frozen statistics
is computed as the affine map that it is.
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
    """Place of one linear map or convolution in the flat weights [P].

    Args:
        weight: index at which its weight W begins; W lies row by row from there on.
        shape: shape of W, [out, in] or [out, in, H, W].
        bias: index at which its bias begins; None without a bias.
    """

    weight: int
    shape: tuple[int, ...]
    bias: int | None

    @property
    def num_outputs(self) -> int:
        """Number of outputs or output channels."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of entries of W."""
        return int(torch.Size(self.shape).numel())

    def matrix(self, vector: Tensor) -> Tensor:
        """Extract the layer's part of a flat vector.

        Args:
            vector: flat vector [P].

        Returns:
            A matrix [out, in], with the bias as one more column where there is one.
        """
        matrix = vector[self.weight : self.weight + self.size].view(self.num_outputs, -1)
        if self.bias is None:
            return matrix
        return torch.cat([matrix, vector[self.bias : self.bias + self.num_outputs, None]], 1)

    def put(self, vectors: Tensor, matrices: Tensor) -> None:
        """Write matrices into their place in flat vectors: the inverse of `matrix`.

        Args:
            vectors: flat vectors [..., P], changed in place.
            matrices: matrices [..., out, in], with the bias as last column where there is one.
        """
        if self.bias is not None:
            vectors[..., self.bias : self.bias + self.num_outputs] = matrices[..., -1]
            matrices = matrices[..., :-1]
        vectors[..., self.weight : self.weight + self.size] = matrices.flatten(-2)


@dataclass(frozen=True)
class Layer(Place):
    """One linear map `output = W input + b` of a forward pass; a convolution is a linear map of its patches.

    Args:
        weight: see `Place`.
        shape: see `Place`.
        bias: see `Place`.
        inputs: inputs [N, ..., in], or [N, in, H, W] of a convolution.
        output: outputs [N, ..., out], or [N, out, H', W'] of a convolution.
        dtype: dtype of the weights, in which products are taken, whatever autocast made of the inputs and outputs.
        settings: stride, padding and dilation of a convolution; None for a linear map.
    """

    inputs: Tensor
    output: Tensor
    dtype: torch.dtype
    settings: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None

    def patches(self) -> Tensor:
        """Return the inputs of each position [N, T, in], with a 1 appended where there is a bias.

        T is the number of positions, 1 for a linear map of inputs [N, in].
        """
        if self.settings is None:
            patches = self.inputs.detach().reshape(len(self.inputs), -1, self.inputs.shape[-1])
        else:
            stride, padding, dilation = self.settings
            patches = functional.unfold(
                self.inputs.detach(), self.shape[2:], dilation=dilation, padding=padding, stride=stride
            ).transpose(1, 2)
        patches = patches.to(self.dtype)
        return functional.pad(patches, (0, 1), value=1.0) if self.bias is not None else patches

    def by_position(self, sensitivities: Tensor) -> Tensor:
        """Reshape sensitivities to the layer's output by position.

        Args:
            sensitivities: sensitivities in the shape of `output`.

        Returns:
            Sensitivities [N, T, out] in the dtype of the weights.
        """
        if self.settings is None:
            return sensitivities.to(self.dtype).reshape(len(sensitivities), -1, self.num_outputs)
        return sensitivities.to(self.dtype).flatten(2).transpose(1, 2)


class Recording(TorchFunctionMode):
    """A context in which the linear maps and convolutions of a forward pass are recorded.

    Recorded are those whose weights are views of one flat vector; two-dimensional convolutions alone, without groups.

    Args:
        weights: the flat weights [P].

    Attributes:
        layers: recorded layers, in the order of the pass.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self._weights = weights
        self.layers: list[Layer] = []

    @property
    def complete(self) -> bool:
        """True if every weight is recorded in exactly one of `layers`.

        A weight may still act elsewhere, in an operation that is not recorded.
        """
        # Counted and compared by place: a weight recorded twice must not make up for one that is not recorded.
        covered = sum(layer.size + (layer.num_outputs if layer.bias is not None else 0) for layer in self.layers)
        return covered == len(self._weights) and len({layer.weight for layer in self.layers}) == len(self.layers)

    @property
    def flops(self) -> float:
        """Floating-point operations of one pass through the layers, for the whole batch."""
        return sum(2.0 * layer.size * (layer.output.numel() / layer.num_outputs) for layer in self.layers)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # torch disables the mode while this method runs, so calls made from here do not come back to it.
        if function in _CONVOLUTIONS:
            return self._convolution(function, *args, **kwargs)
        if function is functional.linear:
            return self._linear(*args, **kwargs)
        if function is functional.batch_norm:
            return _normalisation(*args, **kwargs)
        return function(*args, **kwargs)

    def _place(self, tensor: Tensor) -> int | None:
        """Index in the flat weights at which `tensor` begins; None if it is not a contiguous view of them."""
        # Views share the storage of their base: the offset tells where they lie, without any bookkeeping by name.
        is_view = tensor.untyped_storage().data_ptr() == self._weights.untyped_storage().data_ptr()
        if not is_view or not tensor.is_contiguous():
            return None
        return int(tensor.storage_offset() - self._weights.storage_offset())

    def _keep(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, settings: Any = None) -> None:
        place = self._place(weight)
        bias_place = None if bias is None else self._place(bias)
        # Weights that are cast or computed first are no views: they are left out, and `complete` is false.
        if place is not None and (bias is None or bias_place is not None):
            self.layers.append(Layer(place, tuple(weight.shape), bias_place, inputs, output, weight.dtype, settings))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = functional.linear(input, weight, bias)
        self._keep(input, weight, bias, output)
        return output

    def _convolution(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        dimensions = _CONVOLUTIONS[function]
        # Padding by name ("same") and inputs without a batch dimension are rare: they take PyTorch's own derivative.
        if isinstance(padding, str) or input.ndim != dimensions + 2:
            return function(input, weight, bias, stride, padding, dilation, groups)
        used = (input, weight, bias)
        if torch.is_autocast_enabled(input.device.type):
            # Cast before the call, so that the tensors saved for the backward pass have the dtype of the products.
            low = torch.get_autocast_dtype(input.device.type)
            used = (input.to(low), weight.to(low), None if bias is None else bias.to(low))
        settings = tuple(_of_each(dimensions, value) for value in (stride, padding, dilation))
        output: Tensor = _Convolution.apply(*used, *settings, groups)
        if groups == 1 and dimensions == 2:
            self._keep(input, weight, bias, output, settings)
        return output


def _of_each(dimensions: int, value: Any) -> tuple[int, ...]:
    """Expand a setting of a convolution to one integer a dimension."""
    given = (value,) if isinstance(value, int) else tuple(int(one) for one in value)
    return given * (dimensions // len(given))


def _normalisation(
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
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    # Frozen statistics are constants, and the map is affine: two elementwise operations with short derivatives.
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (-1, *[1] * (input.ndim - 2))
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


class _Convolution(Function):
    """A convolution whose backward pass is differentiable in the sensitivities alone, in which it is linear."""

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
        # PyTorch's own backward node, but with a derivative that is written out in `_Transposed`.
        ctx.save_for_backward(inputs, weight)
        ctx.settings = (stride, padding, dilation, False, [0] * len(stride), groups)
        return torch.ops.aten.convolution(inputs, weight, bias, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, sensitivities: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        asked = list(ctx.needs_input_grad[:3])
        # Detached: the derivative in inputs and weight is never asked for, and autograd would record it.
        found = _Transposed.apply(sensitivities, inputs.detach(), weight.detach(), ctx.settings, asked)
        return *found, None, None, None, None


class _Transposed(Function):
    """Backward pass of a convolution; its own derivative in the sensitivities is the convolution of tangents."""

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
        # Each output of the backward pass that was not asked for has the derivative None.
        if to_weight is not None:
            result = convolution(inputs, to_weight, to_bias, *ctx.settings)
        elif to_bias is not None:
            result = to_bias.view(-1, *[1] * len(ctx.settings[0]))
        if to_inputs is not None:
            along = convolution(to_inputs, weight, None, *ctx.settings)
            result = along if result is None else along.add_(result)
        return result, None, None, None, None
