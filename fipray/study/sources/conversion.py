"""Values of examples as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.border import described
from fipray.errors import DataError

Parts = dict[str, NDArray[Any]]
"""Inputs by keyword, or by place ("0", "1", ...); a single input has the name ""."""


def to_array(what: str, value: Any) -> NDArray[Any]:
    """Convert a value to a numpy array.

    Args:
        what: description of the value, for messages.
        value: tensor, array, image of Pillow, data frame, number, or nested lists of numbers.

    Returns:
        Array; images are [H, W] if they are grey and [H, W, 3] otherwise, uint8.

    Raises:
        DataError: for text and other values that are no numbers, and for lists of different lengths.
    """
    if isinstance(value, Tensor):
        return _of_tensor(what, value)
    if hasattr(value, "getbands"):  # an image of Pillow, which is not a dependency
        return _of_image(what, value)
    if hasattr(value, "to_numpy"):  # a data frame or a series
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(_uneven(what)) from error
    if array.dtype.kind in "OUS":
        if array.dtype.kind == "O" and array.ndim and any(isinstance(one, (list, tuple)) for one in array.flat):
            raise DataError(_uneven(what))
        text = array.dtype.kind != "O" or any(isinstance(one, str) for one in array.flat)
        kind = "text" if text else described(value)
        raise DataError(f"{what} is {kind}, and networks take numbers: convert it first, text by a tokenizer")
    return array


def _of_tensor(what: str, tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16 or tensor.layout != torch.strided:
        raise DataError(f"{what} is {tensor.dtype} ({tensor.layout}), which numpy does not have: give .float(), dense")
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def _of_image(what: str, image: Any) -> NDArray[Any]:
    bands = "".join(image.getbands())
    if bands in ("1", "L", "I", "F", "I;16"):
        return np.asarray(image.convert("L") if bands == "1" else image)
    if "A" in bands and image.mode != "P":
        raise DataError(f"{what} is an image with transparency ({image.mode}): give image.convert('RGB')")
    return np.asarray(image.convert("RGB"))


def _uneven(what: str) -> str:
    return f"{what} has rows of different lengths: pad or crop them, as tokenizers do by padding='max_length'"


def parts_of(what: str, value: Any) -> tuple[Parts, bool]:
    """Convert one input, or several by keyword or place, to arrays.

    Args:
        what: description of the value, for messages.
        value: one value, a mapping of them, or a tuple of them.

    Returns:
        Arrays by name, and whether the names are places.

    Raises:
        DataError: see `to_array`.
    """
    if isinstance(value, Mapping):
        return {str(name): to_array(f"{name!r} of {what}", one) for name, one in value.items()}, False
    if isinstance(value, tuple):
        return {str(place): to_array(f"input {place} of {what}", one) for place, one in enumerate(value)}, True
    return {"": to_array(what, value)}, False


def stacked(what: str, arrays: Sequence[NDArray[Any]], indices: Sequence[int], *, batches: bool) -> NDArray[Any]:
    """Stack arrays of examples, or concatenate batches of them.

    Args:
        what: description of the values, for messages.
        arrays: one array for each example or batch.
        indices: indices of the examples (or of the first of each batch) in the source, for messages.
        batches: whether the arrays are batches.

    Returns:
        Array [N, ...].

    Raises:
        DataError: for arrays of different shapes or dtypes.
    """
    first = arrays[0]
    for index, array in zip(indices, arrays, strict=True):
        shapes = (array.shape[1:], first.shape[1:]) if batches else (array.shape, first.shape)
        if shapes[0] != shapes[1]:
            raise DataError(
                f"examples differ in shape: {what} of example {indices[0]} has {shapes[1]}, and of example {index} "
                f"{shapes[0]}: resize or pad them to one shape, images for example by "
                "transform=torchvision.transforms.v2.Compose([Resize(64), CenterCrop(64)])"
            )
        if array.dtype != first.dtype:
            raise DataError(
                f"examples differ in dtype: {what} of example {indices[0]} has {first.dtype}, and of example {index} "
                f"{array.dtype}: convert them to one dtype"
            )
    return np.concatenate(arrays) if batches else np.stack(arrays)
