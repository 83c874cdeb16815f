"""Results as pandas frames, figures, and a table for the terminal. Loads neither torch nor Ray."""

from fipray.analysis.calibration_plots import plot_calibration, reliability_diagram
from fipray.analysis.facts import Facts, facts
from fipray.analysis.formats import as_csv, as_latex
from fipray.analysis.lineage_plots import plot_lineage
from fipray.analysis.pareto import pareto
from fipray.analysis.plots import plot_points, plot_sparsity
from fipray.analysis.report import report
from fipray.analysis.results import Results, load
from fipray.analysis.robustness_plots import front, plot_robustness
from fipray.analysis.series import TaskSeries, lineage, task_series
from fipray.analysis.series_plots import plot_learning, plot_tasks
from fipray.analysis.table import how_to_load, print_summary, render, summary
from fipray.analysis.transfer_plots import plot_transfer, transfer_heat_maps
from fipray.analysis.trial_plots import plot_trials
from fipray.analysis.trials import judged_trials
from fipray.analysis.variants import find_variant, judged_variants, state_dict

__all__ = [
    "Facts",
    "Results",
    "TaskSeries",
    "as_csv",
    "as_latex",
    "facts",
    "find_variant",
    "front",
    "how_to_load",
    "judged_trials",
    "judged_variants",
    "lineage",
    "load",
    "pareto",
    "plot_calibration",
    "plot_learning",
    "plot_lineage",
    "plot_points",
    "plot_robustness",
    "plot_sparsity",
    "plot_tasks",
    "plot_transfer",
    "plot_trials",
    "print_summary",
    "reliability_diagram",
    "render",
    "report",
    "state_dict",
    "summary",
    "task_series",
    "transfer_heat_maps",
]
