"""Telemetry: an event of every step, given to sinks; a run of them in a folder, and back."""

from gradclip.telemetry.collector import Sink, Telemetry
from gradclip.telemetry.event import Event
from gradclip.telemetry.folder import jsonl
from gradclip.telemetry.loggers import Metrics, lightning, memory, mlflow, tensorboard, wandb
from gradclip.telemetry.runs import Run, read_run
from gradclip.telemetry.spikes import spikes

__all__ = [
    "Event",
    "Metrics",
    "Run",
    "Sink",
    "Telemetry",
    "jsonl",
    "lightning",
    "memory",
    "mlflow",
    "read_run",
    "spikes",
    "tensorboard",
    "wandb",
]
