"""TensorBoard sink: measures of paths and networks as scalars. `tensorboard --logdir DIRECTORY` shows them."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fipray.errors import RecordsError, UsageError
from fipray.execution.jobs import Tables
from fipray.missing import require
from fipray.records.files import check_place
from fipray.records.layout import checked_name
from fipray.sinks.scalars import SUMMARY, networks_in, paths_in, scalars, summary_of, values_in, weights_address

if TYPE_CHECKING:
    import pandas as pd


class TensorBoardSink:
    """Sink that writes a directory STUDY/NAME-ID for each path, with a curve for each measure, and for each network.

    The address of a path's weights, the values of a trial and the summary of the study are texts. A directory appears
    under its name once it is complete; a path or network whose directory exists is skipped.

    Args:
        directory: log directory on a file system; made where there is none.
        results: results directory, for the addresses of weights and the summary; None leaves these out.

    Raises:
        UsageError: for the address of an object store, and where tensorboardX is not installed.
        RecordsError: for a directory that cannot be made.
    """

    name: Final = "TensorBoard"

    def __init__(self, directory: str | Path, results: str | None = None) -> None:
        check_place(directory)
        require("tensorboardX", "TensorBoard")
        self._results = results
        if "://" in str(directory):
            raise UsageError(f"TensorBoard needs a directory on a file system, and {directory} is an address")
        self._directory = Path(directory).expanduser().absolute()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordsError(f"cannot make the directory {directory} for TensorBoard: {error.strerror}") from error

    def write(self, tables: Tables) -> None:
        values = values_in(tables)
        for path, points in paths_in(tables):
            curves = {point["step"]: scalars(point) for point in points}
            texts = {"weights": weights_address(self._results, path)}
            if trial := values.get(path["path_id"]):
                texts["trial"] = json.dumps(trial)
            self._write(path["study"], f"{checked_name(path['name'])}-{checked_name(path['path_id'])}", curves, texts)
        for network in networks_in(tables):
            name = f"{checked_name(network.name)}-{checked_name(network.id)}"
            self._write(network.study, name, {0: network.figures}, {"evaluation": json.dumps(dict(network.facts))})

    def finish(self) -> None:
        """Write the summary of the study as a text, in place of an earlier one."""
        if self._results is None:
            return
        study, table = summary_of(self._results)
        shutil.rmtree(self._directory / checked_name(study) / SUMMARY, ignore_errors=True)
        self._write(study, SUMMARY, {}, {SUMMARY: _markdown(table)})

    def _write(
        self, study: str, name: str, curves: Mapping[int, Mapping[str, float]], texts: Mapping[str, str]
    ) -> None:
        from tensorboardX import SummaryWriter  # loads slowly

        folder = self._directory / checked_name(study) / name
        if folder.exists():
            return
        # Renamed when complete, so that a run that is killed leaves no directory that would be skipped later. The
        # random part keeps two runs apart that write the same path.
        unfinished = folder.parent / f".{name}-{secrets.token_hex(4)}"
        with SummaryWriter(str(unfinished)) as writer:
            for step, measures in curves.items():
                for measure, value in measures.items():
                    writer.add_scalar(measure, value, step)
            for title, text in texts.items():
                writer.add_text(title, text)
        unfinished.rename(folder)


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in table.values]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
