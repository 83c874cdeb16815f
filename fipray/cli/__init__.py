"""Command line."""

from fipray.cli.entry import main

__all__ = ["main"]
