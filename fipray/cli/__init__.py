"""Command line. Every command is a few lines over the library."""

from fipray.cli.entry import main

__all__ = ["main"]
