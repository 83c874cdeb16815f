"""Published MLPNet, on which the literature compares second-order pruning."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import nn

from experiments.files import given_file
from experiments.networks import mlpnet


def published_mlpnet(root: str = "") -> nn.Module:
    """MLPNet trained on MNIST, in evaluation mode; it classifies 9,397 of the 10,000 test images correctly.

    The published tables of WoodFisher (Singh & Alistarh 2020), CBS (Yu et al. 2022) and CHITA (Benbaki et al. 2023)
    use these
    weights.

    Args:
        root: folder that holds its weights.

    Returns:
        The module.
    """
    module = mlpnet()
    module.load_state_dict(load_file(given_file("mlpnet_mnist.safetensors", root)))
    return module.eval()
