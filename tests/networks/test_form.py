"""Forms of modules: packed inputs, outputs that were added, and heads."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.networks import Layout, MultiHead, Packed, form_of, formed, grown


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.last(one + other)


LAYOUT = Layout.of({"one": torch.zeros(1, 3), "other": torch.zeros(1, 3)})


@pytest.mark.parametrize(
    ("plain", "made"),
    [
        (nn.Linear(3, 2), lambda module: module),
        (nn.Linear(3, 2), lambda module: grown(module, 5)),
        (nn.Linear(3, 2), lambda module: MultiHead(grown(module, 6), 3, (3,))),
        (Sum(), lambda module: Packed(module, LAYOUT)),
        (Sum(), lambda module: MultiHead(grown(Packed(module, LAYOUT), 4), 2, (6,))),
        (nn.ReLU(), lambda module: module),
    ],
)
def test_module_of_a_form_has_the_parts_and_shapes_of_the_one_described(plain, made):
    whole = made(plain)
    form = json.loads(json.dumps(form_of(whole)))
    again = formed(plain, form)
    assert form_of(again) == form
    assert [type(part) for part in again.modules()] == [type(part) for part in whole.modules()]
    again.load_state_dict(whole.state_dict())
    assert formed(again, form) is again  # which has the form already


def test_form_that_is_none_is_refused():
    with pytest.raises(UsageError, match="the form of the module in the manifest cannot be read"):
        formed(nn.Linear(3, 2), {"heads": {}})
    with pytest.raises(UsageError, match="cannot be read"):
        formed(nn.Linear(3, 2), {"layout": {"parts": [3], "by_keyword": True}})
