"""Networks of a results directory as modules, and as files and directories for other programs and people."""

from fipray.export.command import Options as Options, export as export
from fipray.export.loader import Ensemble as Ensemble, read_state as read_state
from fipray.export.onnx_file import to_onnx as to_onnx
