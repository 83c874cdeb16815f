"""Command line as `python -m fipray`."""

from fipray.cli.entry import main

if __name__ == "__main__":
    main()
