"""Data by reference: a function that opens it, in place of its values."""

from fipray.study.referenced.array import Array, ReferencedArray, extremes, few, selected
from fipray.study.referenced.dividing import referenced, referenced_task
from fipray.study.referenced.reference import DataRef
from fipray.study.referenced.tar import TarImages

__all__ = [
    "Array",
    "DataRef",
    "ReferencedArray",
    "TarImages",
    "extremes",
    "few",
    "referenced",
    "referenced_task",
    "selected",
]
