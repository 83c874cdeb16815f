"""Where a worker is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a worker is: its node, its host, its process, and the file of what it prints as errors."""

    node_id: str
    host: str
    process: int
    log_file: str

    def __str__(self) -> str:
        log = f", log file {self.log_file}" if self.log_file else ""
        return f"process {self.process} on {self.host}, node {self.node_id}{log}"
