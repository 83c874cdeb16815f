"""Summary of networks for other programs: comma-separated values, and a table for LaTeX."""

from fipray.analysis.results import Results
from fipray.analysis.summary_table import Column
from fipray.analysis.table import render, sorted_by, summary
from fipray.border import checked
from fipray.printable import printable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would begin an optional argument
    "]": "{]}",
}


@checked
def as_csv(results: Results, *, sort: str = "") -> str:
    """Write the summary as comma-separated values.

    Args:
        results: results of a study.
        sort: column to sort by, see `render`.

    Returns:
        A line of names and one per network, with all columns of `summary` and all digits; control characters in texts
        are escaped.

    Raises:
        UsageError: for an unknown column.
    """
    frame = sorted_by(summary(results), sort)
    for column in ("name", "kind", "outcome", "warnings"):
        frame[column] = frame[column].map(printable, na_action="ignore")
    text: str = frame.rename(columns=printable).to_csv(index=False, lineterminator="\n")
    return text


@checked
def as_latex(results: Results, *, sort: str = "") -> str:
    """Write the summary as a table for LaTeX, with the lines of the package booktabs.

    Args:
        results: results of a study.
        sort: column to sort by, see `render`.

    Returns:
        A `tabular` with all columns of the printed table but the outcome, and Wilson's 95 % intervals of accuracies.

    Raises:
        UsageError: for an unknown column.
    """
    table = render(results, sort=sort)
    columns = [column for column in table.columns() if column.header[1] != "outcome"]
    kinds = list(table.frame["kind"])
    lines = [
        "% needs \\usepackage{booktabs}; accuracies in %, with 95 % intervals (Wilson)",
        rf"\begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in columns)}}}",
        r"\toprule",
        *(_line([column.header[number] for column in columns]) for number in range(2)),
        r"\midrule",
    ]
    for number, kind in enumerate(kinds):
        lines.append(_line(_row(columns, number)))
        if table.sectioned and number + 1 < len(kinds) and kinds[number + 1] != kind:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _row(columns: list[Column], number: int) -> list[str]:
    return [column.cells[number] for column in columns]


def _line(cells: list[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    # Letter by letter, as replacements hold letters that are replaced themselves.
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))
