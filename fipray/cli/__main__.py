"""Command line as `python -m fipray.cli`."""

from fipray.cli.entry import main

if __name__ == "__main__":
    main()
