"""Sinks, which show committed results outside of the results directory: TensorBoard, MLflow and Weights & Biases."""

from fipray.sinks.mlflow import MLflowSink
from fipray.sinks.tensorboard import TensorBoardSink
from fipray.sinks.wandb import WandbSink

__all__ = ["MLflowSink", "TensorBoardSink", "WandbSink"]
