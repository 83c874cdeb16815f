"""Rendering of sections to one HTML file that needs no other file and no server."""

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, TypeAlias

from fipray.analysis.report import accuracies, calibration, cost, headline, maps, pruning, specs, trials, walks
from fipray.analysis.report.content import Limits, Section
from fipray.analysis.report.side import Side
from fipray.printable import printable

MOST_BYTES = 5_000_000
_SMALLEST = 50  # rows; below it another halving of the limits gains nothing
_SCRIPTS = ("d3.min.js", "plot.umd.min.js", "marks.js", "charts.js", "tables.js", "page.js")
Builder: TypeAlias = Callable[[Sequence[Side], Limits], Section | None]
# In the order of the page, each with what is missing if it is left out.
_BUILDERS: Sequence[tuple[Builder, str]] = (
    (accuracies.accuracies, "accuracies"),
    (accuracies.front, "robust accuracies of two networks or more"),
    (walks.walks, "paths"),
    (walks.measured, "measures of the study and kept quantities"),
    (pruning.sparsity, "sparse variants"),
    (maps.tasks, "accuracies on tasks"),
    (maps.transfer, "transfer accuracies"),
    (calibration.calibration, "calibration"),
    (trials.trials, "trials of a search"),
    (cost.cost, "cost"),
    (specs.specs, "specs"),
)


def page_of(sides: Sequence[Side], most_bytes: int = MOST_BYTES) -> bytes:
    """Render a report; one that would become too large shows fewer rows and points, and says so.

    Args:
        sides: results directories.
        most_bytes: largest size of the page.

    Returns:
        Content of the HTML file.
    """
    limits = Limits()
    while len(content := _render(sides, limits)) > most_bytes and limits.rows > _SMALLEST:
        limits = limits.halved()
    return content


def _render(sides: Sequence[Side], limits: Limits) -> bytes:
    # Imported here: `from fipray import analysis` should not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__ or "", "static"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Not sorted: columns of tables stand in their order.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    built = [(build(sides, limits), missing) for build, missing in _BUILDERS]
    sections = [headline.headline(sides), *(section for section, _ in built if section)]
    scripts = [(name, _static(name)) for name in _SCRIPTS]
    text = environment.get_template("report.html.jinja").render(
        title=printable(" · ".join(side.label for side in sides)),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[_plain(_of(section, limits)) for section in sections],
        left_out=[missing for section, missing in built if not section],
        styles=Markup(_static("report.css")),
        scripts=[(name, Markup(script)) for name, script in scripts],
        hashes=[_hash(script) for _, script in scripts],
    )
    return text.encode()


def _static(name: str) -> str:
    """File of the page that ships with the library."""
    return (files(__package__ or "") / "static" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Source expression of a script for the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _of(section: Section, limits: Limits) -> dict[str, Any]:
    return {
        "id": section.id,
        "title": section.title,
        "sentences": section.sentences,
        "groups": section.groups,
        "charts": [vars(chart) for chart in section.charts],
        "tables": [table.data(limits) for table in section.tables],
    }


def _plain(value: Any) -> Any:
    """Escape control characters in all texts, and write numbers that JSON lacks as None or the text Infinity."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value).replace("inf", "Infinity")
    return value
