"""Data of a study from arrays, data sets and loaders of torch, folders of images, Hugging Face, and files."""

from fipray.study.sources.columns import Columns
from fipray.study.sources.preparing import Normalisation, resized
from fipray.study.sources.taking import Plan, packed_examples, packed_inputs, taken, taken_task

__all__ = ["Columns", "Normalisation", "Plan", "packed_examples", "packed_inputs", "resized", "taken", "taken_task"]
