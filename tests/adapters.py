"""A language model with adapters, and a study of it, for the tests of all floors."""

from __future__ import annotations

import warnings

import numpy as np
import peft
import torch
import transformers
from torch import nn

import fipray as fip

VOCABULARY, LENGTH = 50, 6
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}
NUM_MOVING = 2 * 2 * 2 * 2 * 16 + 16 * 3 + 3  # layers, adapted matrices, factors of rank 2; and the head


def bert(seed: int = 0) -> nn.Module:
    """BERT with adapters of rank 2 on queries and values, and a head that moves, too."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a property that peft reads
        config = transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **SIZES)
        adapters = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
        module: nn.Module = peft.get_peft_model(transformers.BertForSequenceClassification(config), adapters)
        return module.eval()


def tokens(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (num, LENGTH))


def study(module: nn.Module | None = None, **given: object) -> fip.Study:
    """One path of the adapters, with points at its ends and in the middle."""
    path = fip.PathSpec(
        "adapted",
        fip.objectives.RandomWalk(),
        stepper=fip.steppers.FirstOrder(beta=0.1),
        num_steps=4,
        batch_size=8,
        save_at=fip.SaveAt(2),
    )
    data = fip.Data(tokens(24), tokens(8, 1))
    return fip.Study("adapters", bert() if module is None else module, data, (path,), **given)
