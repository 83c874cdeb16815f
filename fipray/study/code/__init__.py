"""Digests of the user's own code, which are part of the IDs of the work that depends on it."""

from fipray.study.code.digests import architecture_of, code_of, texts_of
from fipray.study.code.walk import Code

__all__ = ["Code", "architecture_of", "code_of", "texts_of"]
