"""Pages of the documentation as the test suite sees them: their fenced blocks, in order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block. title: of a file that the reader is to make, or empty."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Command lines of `fipray` in it, as lists of arguments without the program."""
        if self.language:
            return []
        joined = self.text.replace("\\\n", " ")
        found = [line for line in joined.splitlines() if line.startswith("fipray ")]
        return [shlex.split(line, comments=True)[1:] for line in found]


def blocks_of(page: str) -> list[Block]:
    """Blocks of a page, a path below the root of the checkout."""
    found = FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(head.partition(" ")[0], title[1] if (title := TITLE.search(head)) else "", text) for head, text in found
    ]


def module_of_the_pages() -> str:
    """Source of `mymodule.py`, which all pages import; Getting started shows it."""
    (text,) = [one.text for one in blocks_of("docs/getting-started.md") if one.title == "mymodule.py"]
    return text


PAGES = sorted(str(page.relative_to(ROOT).as_posix()) for page in (ROOT / "docs").rglob("*.md"))
