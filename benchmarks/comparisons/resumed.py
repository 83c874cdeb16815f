"""Records of a benchmark that takes hours, in a file from which it goes on after a kill."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(file: Path | None, parser: ArgumentParser) -> list[Record]:
    """Read the records of a file, none if there is no file. A damaged file ends the program with status 2."""
    if file is None or not file.exists():
        return []
    try:
        records = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{file} holds no records, {error}: name another file, or repair or remove this one")
    if not (isinstance(records, list) and all(isinstance(record, dict) for record in records)):
        parser.error(f"{file} holds no list of records: name another file, or remove this one")
    return records


def write(records: list[Record], file: Path | None) -> None:
    """All of them, in place of what the file held; a kill leaves the old file or the new one. Nowhere without one."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_text(json.dumps(records, indent=1))
    new.replace(file)
