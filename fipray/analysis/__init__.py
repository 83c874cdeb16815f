"""Results as pandas frames, figures and a table for the terminal. Loads neither torch nor Ray."""

from fipray.analysis.plots import plot_points, plot_robustness, plot_transfer
from fipray.analysis.results import Results, load
from fipray.analysis.table import SummaryTable, print_summary, summary

__all__ = [
    "Results",
    "SummaryTable",
    "load",
    "plot_points",
    "plot_robustness",
    "plot_transfer",
    "print_summary",
    "summary",
]
