"""Sinks, which show rows of committed paths outside of the results directory: TensorBoard and MLflow.

W&B needs no sink of its own: it reads what the TensorBoard sink writes, and Tune has a W&B callback for searches.
"""

from fipray.sinks.mlflow import MLflowSink
from fipray.sinks.tensorboard import TensorBoardSink

__all__ = ["MLflowSink", "TensorBoardSink"]
