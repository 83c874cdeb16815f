"""bfloat16 arrays in safetensors files."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16, raised, rounded
from fipray.records.encoding import read_safetensors, safetensors_bytes
from fipray.study.arrays import state_arrays, to_array, to_tensor

NUMBERS = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3e38, 3.4e38, 1e-40, float("inf"), -float("inf"), float("nan")]


def test_rounding_equals_that_of_torch():
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e3
    numbers = torch.cat([torch.tensor(NUMBERS), drawn])
    found, expected = rounded(numbers.numpy()), numbers.bfloat16()
    assert found.dtype == BFLOAT16
    torch.testing.assert_close(to_tensor(found), expected, rtol=0, atol=0, equal_nan=True)
    np.testing.assert_array_equal(raised(found), expected.float().numpy())


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_files_are_read_by_safetensors_and_its_files_are_read(shape):
    tensors = {
        "bfloat16": torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "float16": torch.ones(shape).half(),
        "float32": torch.ones(shape),
    }
    content = safetensors_bytes({name: to_array(tensor) for name, tensor in tensors.items()})
    for found in (safetensors.torch.load(content), {n: to_tensor(a) for n, a in read_safetensors(content).items()}):
        assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
            name: (t.dtype, t.shape) for name, t in tensors.items()
        }
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    theirs = read_safetensors(safetensors.torch.save(tensors))
    assert torch.equal(to_tensor(theirs["bfloat16"]), tensors["bfloat16"])


def test_files_without_bfloat16_equal_those_of_safetensors():
    arrays = {"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)}
    assert safetensors_bytes(arrays) == safetensors.numpy.save(arrays)


def test_tensor_that_is_not_contiguous_keeps_its_order():
    tensor = torch.arange(6.0).bfloat16().view(2, 3).T
    assert torch.equal(to_tensor(read_safetensors(safetensors_bytes({"a": to_array(tensor)}))["a"]), tensor)


def test_state_dict_entry_that_is_no_tensor_is_refused_by_name():
    with pytest.raises(UsageError, match="_extra_state in the module's state_dict is not a plain tensor"):
        state_arrays({"_extra_state": {"calls": 3}})


def test_file_with_metadata_is_read(tmp_path):
    tensor = torch.arange(4, dtype=torch.bfloat16)
    content = safetensors.torch.save({"a": tensor}, metadata={"format": "pt"})
    assert torch.equal(to_tensor(read_safetensors(content)["a"]), tensor)
