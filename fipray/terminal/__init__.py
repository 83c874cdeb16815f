"""Terminal output: progress of a run, summaries of results, and findings of the doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fipray.terminal.printing import print_findings, print_rows, print_summary, say

if TYPE_CHECKING:
    from fipray.terminal.listener import TerminalListener

__all__ = ["TerminalListener", "print_findings", "print_rows", "print_summary", "say"]


def __getattr__(name: str) -> Any:
    if name == "TerminalListener":  # loaded on first use: it knows jobs, which need torch, and `fipray show` does not
        from fipray.terminal.listener import TerminalListener

        return TerminalListener
    raise AttributeError(f"module 'fipray.terminal' has no name {name!r}; it has: {', '.join(__all__)}")
