"""Results as pandas frames, figures and a table for the terminal. Loads neither torch nor Ray."""

from fipray.analysis.plots import plot_points, plot_robustness, plot_transfer
from fipray.analysis.results import Results, load
from fipray.analysis.table import print_summary, render, summary

__all__ = [
    "Results",
    "load",
    "plot_points",
    "plot_robustness",
    "plot_transfer",
    "print_summary",
    "render",
    "summary",
]
