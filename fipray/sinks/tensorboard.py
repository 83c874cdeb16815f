"""TensorBoard sink: measures at the points of paths as scalars. `tensorboard --logdir DIRECTORY` shows them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from fipray.errors import RecordsError, UsageError
from fipray.execution.jobs import Tables
from fipray.records.files import check_place
from fipray.records.layout import checked_name
from fipray.sinks.scalars import paths_in, scalars


class TensorBoardSink:
    """Sink that writes a directory STUDY/NAME-ID for each path, with a curve for each measure.

    A directory appears under its name once it is complete; a path whose directory exists is skipped.

    Args:
        directory: log directory on a file system; made where there is none.

    Raises:
        UsageError: for the address of an object store.
        RecordsError: for a directory that cannot be made.
    """

    name: Final = "TensorBoard"

    def __init__(self, directory: str | Path) -> None:
        check_place(directory)
        if "://" in str(directory):
            raise UsageError(f"TensorBoard needs a directory on a file system, and {directory} is an address")
        self._directory = Path(directory).expanduser().absolute()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordsError(f"cannot make the directory {directory} for TensorBoard: {error.strerror}") from error

    def write(self, tables: Tables) -> None:
        from tensorboardX import SummaryWriter  # a dependency of Tune, imported here because it loads slowly

        for path, points in paths_in(tables):
            study = self._directory / checked_name(path["study"])
            curves = study / f"{checked_name(path['name'])}-{checked_name(path['path_id'])}"
            if curves.exists():
                continue
            # Renamed when complete, so that a run that is killed leaves no directory that would be skipped later. The
            # random part keeps two runs apart that write the same path.
            unfinished = study / f".{curves.name}-{secrets.token_hex(4)}"
            with SummaryWriter(str(unfinished)) as writer:
                for point in points:
                    for name, value in scalars(point).items():
                        writer.add_scalar(name, value, point["step"])
            unfinished.rename(curves)
