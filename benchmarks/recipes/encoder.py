"""Encoder of Hugging Face that tells whose documentation a paragraph is, for the recipe `prune`.

    fipray run prune -p module=benchmarks.recipes.encoder:module -p data=benchmarks.recipes.encoder:data --into ...

The text is the docstrings of the packages that are installed, so figures differ a little between versions of these. The
network is trained from scratch on the anchors when it is first asked for, and kept in the cache of
`experiments.training`. `source` returns the examples as a dictionary of arrays, which a recipe takes as well
(`-p data=benchmarks.recipes.encoder:source`).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from experiments.training import Recipe, trained
from fipray import Data
from fipray.networks import Packed

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
NUM_TOKENS, NUM_WORDS = 64, 4000
PADDING, UNKNOWN, FIRST = 0, 1, 2  # token IDs
MOST_FILES, MOST = 200, 3500  # files and paragraphs of a package
_WORD = re.compile(r"[a-z]+|[^a-z\s]")


def source() -> dict[str, NDArray[np.int64]]:
    """Token IDs [N, 64], attention mask [N, 64] and labels [N], in a fixed random order."""
    tokens, labels = _tokens()
    return {"input_ids": tokens, "attention_mask": (tokens != PADDING).astype(np.int64), "labels": labels}


@cache
def data() -> Data:
    """Split the examples as `Data.of` does: anchors, 1,000 held-out and 1,000 test paragraphs."""
    return Data.of(source())


def module() -> nn.Module:
    """Two layers of width 64 with four heads, trained plainly for 3,000 steps."""
    given = data()
    assert given.anchor_labels is not None
    recipe = Recipe("bert-64-2", given.digest, 3000, 64, 1e-3)
    made = trained(lambda: given.packed(_untrained()), np.asarray(given.anchors), given.anchor_labels, recipe, _loss)
    assert isinstance(made, Packed)
    return made.module


def _loss(outputs: Any, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.logits, labels)


def _untrained() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=NUM_WORDS,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=NUM_TOKENS,
            id2label=dict(enumerate(PACKAGES)),
        )
    )


@cache
def _tokens() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found: list[tuple[list[str], int]] = []
    for label, package in enumerate(PACKAGES):
        paragraphs = sorted(set(_paragraphs(package)))
        chosen = np.random.default_rng(label).permutation(len(paragraphs))[:MOST]
        found += [(_WORD.findall(paragraphs[number].lower())[:NUM_TOKENS], label) for number in chosen]
    counts = Counter(word for words, _ in found for word in words if word not in PACKAGES)
    known = {word: number for number, (word, _) in enumerate(counts.most_common(NUM_WORDS - FIRST), FIRST)}
    tokens = np.full((len(found), NUM_TOKENS), PADDING, np.int64)
    for row, (words, _) in zip(tokens, found, strict=True):
        row[: len(words)] = [known.get(word, UNKNOWN) for word in words]
    order = np.random.default_rng(0).permutation(len(found))
    return tokens[order], np.array([label for _, label in found], np.int64)[order]


def _paragraphs(package: str) -> Iterator[str]:
    """Paragraphs of at least 60 characters in a package's docstrings, on one line each."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    files = [file for file in sorted(Path(spec.origin).parent.rglob("*.py")) if "tests" not in file.parts]
    for number in np.random.default_rng(0).permutation(len(files))[:MOST_FILES]:
        file = files[number]
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    line = " ".join(paragraph.split())
                    if len(line) >= 60:
                        yield line
