"""The page of a report in a browser: nothing is requested, and sorting, filters, downloads, themes and print work."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fipray import analysis
from tests.analysis.test_report import HOSTILE, write_hostile

pytestmark = [pytest.mark.slow, pytest.mark.browser]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(results, tmp_path_factory) -> Path:
    return analysis.report(results, tmp_path_factory.mktemp("report") / "report.html")


class Visit:
    """An open page, with everything it said and asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate("makeAll()")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def table(self, title: str) -> Any:
        heading = self.page.locator("h3", has_text=re.compile(f"^{title}$"))
        return self.page.locator(".table").filter(has=heading)

    def names(self, table: Any) -> list[str]:
        return table.locator("tbody tr td:first-child").all_inner_texts()


def test_page_opens_without_an_error_or_a_request(browser, file):
    with Visit(browser, file) as visit:
        drawn = visit.page.locator("figure .drawing svg[role=img]")
        assert drawn.count() >= visit.page.locator("figure").count() > 5
        assert visit.said == []
        assert visit.requests == [file.as_uri()]
        assert all(label for label in drawn.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))"))


def test_tables_sort_by_numbers_and_by_names_with_the_keyboard(browser, file, results):
    with Visit(browser, file) as visit:
        table = visit.table("Networks")
        header = table.locator("th", has_text="robust accuracy").locator("button")
        header.focus()
        visit.page.keyboard.press("Enter")
        summary = analysis.summary(results).sort_values("robust_accuracy worst linf 0.1", ascending=False)
        assert visit.names(table) == list(summary["name"])
        assert table.locator("th", has_text="robust accuracy").get_attribute("aria-sort") == "descending"
        visit.page.keyboard.press("Enter")
        assert visit.names(table) == list(summary["name"])[::-1]
        table.locator("th button").first.click()
        paths = [name for name in visit.names(table) if name.startswith("path-")]
        assert paths == [f"path-{number}" for number in range(10)]


def test_filter_takes_all_words_and_says_how_many_rows_are_left(browser, file):
    with Visit(browser, file) as visit:
        table = visit.table("Every attack")
        table.locator("input").fill("path-3 WORST")
        assert visit.names(table) == ["path-3"]
        assert table.locator(".rows").inner_text() == "1 of 36 rows"
        table.locator("input").fill("")
        assert len(visit.names(table)) == 15
        table.locator(".more").click()
        assert len(visit.names(table)) == 36


def test_downloads_hold_what_the_table_shows(browser, file, results):
    with Visit(browser, file, accept_downloads=True) as visit:
        table = visit.table("Networks")
        table.locator("input").fill("path-")
        with visit.page.expect_download() as csv_file:
            table.get_by_role("button", name="CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(csv_file.value.path()).read_text())))
        expected = analysis.summary(results).query("kind == 'path'")
        assert csv_file.value.suggested_filename == "networks.csv"
        assert [float(row["robust_accuracy linf 0.1"]) for row in rows] == list(
            expected["robust_accuracy worst linf 0.1"]
        )
        assert all(float(row["clean_accuracy_low"]) < float(row["clean_accuracy"]) for row in rows)
        with visit.page.expect_download() as tex_file:
            table.get_by_role("button", name="LaTeX").click()
        tex = Path(tex_file.value.path()).read_text()
        assert tex_file.value.suggested_filename == "networks.tex"
        assert tex.count("\\\\\n") == 11
        assert "\\toprule" in tex
        assert "accuracy, \\%" in tex
        assert visit.said == []


def test_hostile_names_are_shown_as_they_are_and_harm_no_download(browser, tmp_path):
    write_hostile(tmp_path / "results")
    file = analysis.report(analysis.load(tmp_path / "results"), tmp_path / "report.html")
    with Visit(browser, file, accept_downloads=True) as visit:
        table = visit.table("Ends of the paths")
        shown = {"a\\x1b[31m\\u202eb" if "\x1b" in name else name for name in HOSTILE}
        assert set(visit.names(table)) == shown
        assert visit.said == []
        assert visit.requests == [file.as_uri()]
        with visit.page.expect_download() as download:
            table.get_by_role("button", name="CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert {row["name"] for row in rows} == shown


@pytest.mark.parametrize("system", ["light", "dark"])
def test_theme_follows_the_system_until_the_switch_is_used(browser, file, system):
    other = {"light": "dark", "dark": "light"}[system]
    with Visit(browser, file, color_scheme=system) as visit:
        theme = "document.documentElement.dataset.theme"
        assert visit.page.evaluate(theme) == system
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.locator("#theme").click()
        assert visit.page.evaluate(theme) == other
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != paper


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(browser, file, theme):
    with Visit(browser, file, color_scheme=theme) as visit:
        ratio = """name => {
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
                const colour = d3.rgb(style.getPropertyValue(name).trim());
                const [r, g, b] = [colour.r, colour.g, colour.b].map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const [a, b] = [light(name), light("--paper")].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }"""
        assert all(visit.page.evaluate(ratio, name) >= 4.5 for name in ("--ink", "--soft", "--accent"))
        # 3 for graphics.
        assert all(visit.page.evaluate(ratio, f"--c{number}") >= 3 for number in range(7))


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_page_never_scrolls_sideways(browser, file, width):
    with Visit(browser, file, viewport={"width": width, "height": 800}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_legend_hides_a_series_and_highlight_draws_a_path(browser, file):
    with Visit(browser, file) as visit:
        figure = visit.page.locator("figure").first
        before = figure.locator(".drawing circle, .drawing [aria-label=dot] path").count()
        button = figure.locator(".legend").first
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert figure.locator(".drawing circle, .drawing [aria-label=dot] path").count() < before
        paths = visit.page.locator("#paths figure")
        lines = paths.locator(".drawing [aria-label=line] path").count()
        paths.get_by_role("searchbox").fill("path-3")
        assert paths.locator(".drawing [aria-label=line] path").count() > lines
        assert visit.said == []


def test_print_draws_every_figure(browser, file, tmp_path):
    with Visit(browser, file) as visit:
        visit.page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
