"""Report of results directories: one HTML file that works offline. Needs neither torch nor Ray."""

from collections.abc import Sequence
from pathlib import Path

from fipray.analysis.report.page import page_of
from fipray.analysis.report.side import sides_of
from fipray.analysis.results import Results
from fipray.border import checked
from fipray.errors import UsageError
from fipray.records.files import check_place, write_whole

_SUFFIXES = (".html", ".htm")


@checked
def report(results: Results | Sequence[Results], to: str | Path) -> Path:
    """Write a report on results directories: a self-contained HTML file of at most 5 MB that works offline.

    It shows accuracies with 95 % Wilson intervals, paths, sparse networks, transfer, tasks, calibration, cost and
    specs, with interactive figures and tables. Sections without data are left out, and named.

    Args:
        results: results of one directory, or of several to be shown side by side.
        to: file to write, with the suffix .html or .htm. A report that exists is replaced.

    Returns:
        The file.

    Raises:
        UsageError: for no results, the same directory twice, and a file with another suffix.
        RecordsError: for a file that cannot be written.
    """
    check_place(to)
    file = Path(to).expanduser()
    if file.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"{file} has {f'the suffix {file.suffix}' if file.suffix else 'no suffix'}: a report ends in .html"
        )
    if file.is_dir():
        raise UsageError(f"{file} is a directory: name a file for the report")
    sides = sides_of([results] if isinstance(results, Results) else list(results))
    write_whole(file, page_of(sides))
    return file
