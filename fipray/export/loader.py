"""Loading of an exported network with torch alone. Bundles contain a copy of this file.

from loader import load
network = load(make_module())  # the module that the network was made from, see README.md
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
VALUES_2_4, INDICES_2_4 = ".values_2_4", ".indices_2_4"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LOW_PRECISION = (torch.float16, torch.bfloat16)


class Ensemble(nn.Module):
    """Ensemble that averages its members, which all get the same inputs.

    Its outputs [N, C] are `log sum_m w_m softmax(z_m / T_m)`, in float32 or higher precision. A member with a single
    output z is a two-class classifier with the logits (0, z).

    Args:
        members: modules that return a tensor, or an object with one as `logits`.
        average: "probabilities", or "outputs" for the mean of the outputs as they are.
        dim: dimension of the classes.
        weights: weight w_m of each member, above 0; divided by their sum. Empty for equal weights.
        temperatures: temperature T_m of each member, above 0; empty for 1. With "probabilities" only.

    Raises:
        ValueError: for another number of weights or temperatures than of members.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        average: str = "probabilities",
        dim: int = 1,
        weights: Sequence[float] = (),
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__()
        for name, numbers in (("weights", weights), ("temperatures", temperatures)):
            if numbers and len(numbers) != len(members):
                raise ValueError(f"{len(numbers)} {name} for {len(members)} members: {list(numbers)}")
        self.members = nn.ModuleList(members)
        self.average = average
        self.dim = dim
        self.weights = [each / math.fsum(weights) for each in weights]
        self.temperatures = list(temperatures)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the averaged outputs.

        Args:
            args: inputs of each member by position.
            kwargs: inputs of each member by name.

        Returns:
            Logarithms of the mean probabilities, or the mean outputs.
        """
        outputs = [_precise(outputs_of(member(*args, **kwargs))) for member in self.members]
        if self.average == "outputs":
            if not self.weights:
                return torch.stack(outputs).mean(0)
            return torch.stack([one * each for each, one in zip(outputs, self.weights, strict=True)]).sum(0)
        # In logarithms throughout, so that a probability too small for its dtype still has a gradient.
        outputs = [self._of_all_classes(each) for each in outputs]
        if self.temperatures:
            outputs = [each / one for each, one in zip(outputs, self.temperatures, strict=True)]
        logs = [torch.log_softmax(each, self.dim) for each in outputs]
        if not self.weights:
            return torch.stack(logs).logsumexp(0) - math.log(len(logs))
        return torch.stack([each + math.log(one) for each, one in zip(logs, self.weights, strict=True)]).logsumexp(0)

    def _of_all_classes(self, outputs: Tensor) -> Tensor:
        if outputs.shape[self.dim] > 1:
            return outputs
        return torch.cat([torch.zeros_like(outputs), outputs], self.dim)


def outputs_of(returned: Any) -> Tensor:
    """Extract the tensor from what a module returned.

    Args:
        returned: a tensor, or an object or mapping with one as `logits`.

    Returns:
        The tensor.

    Raises:
        TypeError: for anything else.
    """
    found = returned
    if not isinstance(returned, Tensor):
        found = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"a module must return a tensor, or have one as logits; it returned a {type(returned).__name__}"
        )
    return found


def load(module: nn.Module, directory: str | Path | None = None) -> nn.Module:
    """Load the network of an exported directory.

    Args:
        module: module that the network was made from, with any weights. It is copied.
        directory: the directory; None for that of this file.

    Returns:
        New module in evaluation mode.

    Raises:
        RuntimeError: if the weights do not fit the module.
        ValueError: for a damaged file.
    """
    place = Path(__file__).parent if directory is None else Path(directory)
    config = json.loads((place / CONFIG).read_text(encoding="utf-8"))["fipray"]
    network = copy.deepcopy(module)
    if config["kind"] == "ensemble":
        members = [copy.deepcopy(module) for _ in config["members"]]
        mixing = {key: config[key] for key in ("weights", "temperatures") if key in config}
        network = Ensemble(members, config["average"], config["dim"], **mixing)
    network.load_state_dict(read_state(place / WEIGHTS))
    return network.eval()


def read_state(file: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, and unpack weights in 2:4 format.

    Args:
        file: the file.

    Returns:
        The `state_dict`.

    Raises:
        ValueError: if it is not a safetensors file, or has another length than its header says.
    """
    content = bytearray(Path(file).read_bytes())
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        state = {name: _tensor(content, 8 + size, **entry) for name, entry in entries.items()}
        end = 8 + size + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} is not a whole safetensors file ({type(error).__name__}: {error})") from error
    if end != len(content):
        raise ValueError(f"{file} has {len(content)} bytes, and its header says {end}: it is not whole")
    return unpacked(state)


def packed_2_4(weight: Tensor) -> dict[str, Tensor] | None:
    """Pack a weight in which at most 2 of each 4 consecutive numbers along dimension 1 are not zero.

    Args:
        weight: [out, in, ...], `in` a multiple of 4.

    Returns:
        By suffix: the values [out, in / 2, ...], and their 2-bit positions in the groups, those of two groups in one
        byte, lower bits first, uint8 [out, in / 8 rounded up, ...]; None where the weight does not have this pattern.
    """
    if weight.ndim < 2 or weight.shape[1] % 4 or not weight.numel():
        return None
    groups = weight.movedim(1, -1).unflatten(-1, (-1, 4))
    present = groups != 0
    if bool((present.sum(-1) > 2).any()):
        return None
    # Non-zeros come first, then zeros, which fill up groups with fewer than two non-zeros; then positions ascend.
    chosen = present.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :2].sort(-1).values
    bits = (chosen[..., 0] + 4 * chosen[..., 1]).to(torch.uint8)
    if bits.shape[-1] % 2:
        bits = torch.cat([bits, torch.zeros_like(bits[..., :1])], -1)
    positions = bits[..., 0::2] + 16 * bits[..., 1::2]
    values = groups.gather(-1, chosen).flatten(-2)
    return {VALUES_2_4: values.movedim(-1, 1).contiguous(), INDICES_2_4: positions.movedim(-1, 1).contiguous()}


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unpack weights in 2:4 format, the inverse of `packed_2_4`.

    Args:
        state: tensors by name, in pairs of values and positions where they are packed.

    Returns:
        The `state_dict` that was packed; zeros are exact, and all other numbers are bit for bit the same.
    """
    found = {}
    for name, value in state.items():
        if name.endswith(VALUES_2_4):
            own = name.removesuffix(VALUES_2_4)
            found[own] = _spread(value.movedim(1, -1), state[own + INDICES_2_4].movedim(1, -1)).movedim(-1, 1)
        elif not name.endswith(INDICES_2_4):
            found[name] = value
    return found


def _spread(values: Tensor, positions: Tensor) -> Tensor:
    pairs = values.unflatten(-1, (-1, 2))
    bits = torch.stack([positions % 16, positions // 16], -1).flatten(-2)[..., : pairs.shape[-2]].long()
    groups = values.new_zeros(*pairs.shape[:-1], 4)
    return groups.scatter(-1, torch.stack([bits % 4, bits // 4], -1), pairs).flatten(-2)


def _precise(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in _LOW_PRECISION else outputs


def _tensor(content: bytearray, begin: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    kind, (first, last) = _DTYPES[dtype], data_offsets
    if last - first != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{last - first} bytes for shape {shape}")
    if not first < last:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(content, dtype=kind, count=math.prod(shape), offset=begin + first).reshape(shape)
