"""Studies whose networks are exported, by functions that a manifest can name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

import fipray as fip


def lenet() -> nn.Module:
    """LeNet with batch normalisation, whose statistics are not those that it was made with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 12),
            nn.ReLU(),
            nn.Linear(12, 3),
        )
        module(3 * torch.rand(50, 1, 8, 8))
        return module.eval()


def images(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((num, 1, 8, 8), dtype=np.float32)


def study_of(module: nn.Module, data: fip.Data, *, num_steps: int = 4, **changes) -> fip.Study:
    """Paths to a 2:4 network, with batch statistics where there are any, and to a diverse one; and an ensemble."""
    has_norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    settings = {"radius": fip.radii.Scheduled(0.05), "num_steps": num_steps, "batch_size": 16}
    semi = fip.sparsity.SemiStructured()
    sparse = fip.PathSpec(
        "sparse",
        fip.objectives.Sparsify(0.5, through=(0.25,), pattern=semi),
        stepper=fip.steppers.FirstOrder(batch_statistics=has_norms),
        **settings,
    )
    diverse = fip.PathSpec(
        "diverse", fip.objectives.RandomWalk(), stepper=fip.steppers.FirstOrder(0.1), seed=1, **settings
    )
    ensemble = fip.EnsembleSpec("both", ("base", "sparse", "diverse"))
    return fip.Study("exported", module, data, (sparse, diverse), (ensemble,), **changes)


def study(*, num_steps: int = 4) -> fip.Study:
    data = fip.Data(images(60, 1), images(20, 2), images(20, 3), np.arange(20) % 3)
    evaluation = fip.Evaluation(fip.ThreatModel("linf", 0.1), (fip.attacks.FGSM(),), num_examples=20)
    parameters = {"num_steps": num_steps, "note": "a | b ``` c"}
    return study_of(lenet(), data, num_steps=num_steps, evaluation=evaluation, parameters=parameters)


def mixed() -> fip.Study:
    """The same study with members that have weights and temperatures."""
    ensemble = fip.EnsembleSpec("both", ("base", "sparse", "diverse"), weights=(1, 2, 5), temperatures=(1, 0.1, 2))
    return replace(study(), ensembles=(ensemble,))


def unannotated(*, num_steps=4):
    return study(num_steps=num_steps)


def half() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(torch.bfloat16).eval()


def broken() -> nn.Module:
    raise KeyError("no weights today")


def counted() -> nn.Module:
    """Network whose outputs depend on the size of the batch, which no ONNX model of dynamic size can follow."""
    return Counted(nn.Flatten(), nn.Linear(64, 3)).eval()


class Counted(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs) if int(inputs.sum()) > len(inputs) else super().forward(inputs) + 1
