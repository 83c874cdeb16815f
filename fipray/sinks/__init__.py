"""Where rows are shown besides the results directory: TensorBoard and MLflow.

W&B needs no sink of its own: it reads what the TensorBoard sink writes, and searches have Tune's callback for it.
"""

from fipray.sinks.mlflow import MLflowSink
from fipray.sinks.tensorboard import TensorBoardSink

__all__ = ["MLflowSink", "TensorBoardSink"]
