"""Command line as `python -m fipray.cli`."""

from fipray.cli.entry import main

main()
