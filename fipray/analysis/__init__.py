"""Results as pandas frames, figures, and a table for the terminal. Loads neither torch nor Ray."""

from fipray.analysis.pareto import pareto
from fipray.analysis.plots import (
    front,
    plot_points,
    plot_robustness,
    plot_sparsity,
)
from fipray.analysis.report import report
from fipray.analysis.results import Results, load
from fipray.analysis.series import TaskSeries, lineage, task_series
from fipray.analysis.series_plots import plot_learning, plot_lineage, plot_tasks
from fipray.analysis.table import print_summary, render, summary
from fipray.analysis.transfer_plots import plot_transfer, transfer_heat_maps
from fipray.analysis.trials import judged_trials
from fipray.analysis.variants import find_variant, judged_variants, state_dict

__all__ = [
    "Results",
    "TaskSeries",
    "find_variant",
    "front",
    "judged_trials",
    "judged_variants",
    "lineage",
    "load",
    "pareto",
    "plot_learning",
    "plot_lineage",
    "plot_points",
    "plot_robustness",
    "plot_sparsity",
    "plot_tasks",
    "plot_transfer",
    "print_summary",
    "render",
    "report",
    "state_dict",
    "summary",
    "task_series",
    "transfer_heat_maps",
]
