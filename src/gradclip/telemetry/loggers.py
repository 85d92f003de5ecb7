"""Sinks for what people look at: a list, TensorBoard, Weights & Biases. `Metrics` has the numbers for any other one."""

from __future__ import annotations

import importlib
import os
from collections import deque
from typing import Any

from gradclip.telemetry.event import Event

WINDOW = 100
"""Steps over which `clip/rate` is taken."""

STEP = "clip/step"


class memory(list[Event]):  # noqa: N801  # a sink reads as a function: Telemetry(memory())
    """A list that is a sink: it keeps the events."""

    def __call__(self, event: Event) -> None:
        self.append(event)


class Metrics:
    """The numbers of one event after another, by the names that are customary, each with `prefix` in front.

    `grad_norm` is the norm before clipping, `grad_norm_clipped` the one after; `clip/threshold`, `clip/scale` (the
    coefficient), `clip/rate` (the share of clipped steps of the last 100), `clip/nonfinite` (elements), `clip/skipped`
    (0 or 1); `grad_norm/NAME` for each tensor where the events have them.

    >>> Metrics(prefix="train/")(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))["train/grad_norm"]
    5.0
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._clipped: deque[bool] = deque(maxlen=WINDOW)

    def __call__(self, event: Event) -> dict[str, float]:
        self._clipped.append(event.clipped)
        numbers = {
            "grad_norm": event.norm_before,
            "grad_norm_clipped": event.norm_after,
            "clip/threshold": event.threshold,
            "clip/scale": event.coefficient,
            "clip/rate": sum(self._clipped) / len(self._clipped),
            "clip/nonfinite": float(event.nonfinite),
            "clip/skipped": float(event.skipped),
            **{f"grad_norm/{name}": norm for name, norm in (event.tensors or {}).items()},
        }
        return {self.prefix + name: number for name, number in numbers.items()}


class tensorboard:  # noqa: N801
    """Writes `Metrics` for TensorBoard to the folder `log_dir`, or to a SummaryWriter that you have; tensorboardX."""

    def __init__(self, log_dir: Any, prefix: str = "") -> None:
        self._where, self._own = log_dir, isinstance(log_dir, str | os.PathLike)
        package = needed("tensorboardX", "tensorboardX") if self._own else None
        self._writer = log_dir if package is None else package.SummaryWriter(str(log_dir))
        self._metrics = Metrics(prefix)

    def __call__(self, event: Event) -> None:
        for name, number in self._metrics(event).items():
            self._writer.add_scalar(name, number, event.step, event.time)

    def close(self) -> None:
        """Write what the writer holds back, and close it if it is ours."""
        self._writer.flush()
        if self._own:
            self._writer.close()

    def __repr__(self) -> str:
        return f"tensorboard({self._where!r})"


class wandb:  # noqa: N801
    """Logs `Metrics` to Weights & Biases: to the `run` that you have, or to one made by `wandb.init(**options)`.

    The step of the clipper is the metric `clip/step`, against which the others are drawn, so that a run with a step of
    its own is not disturbed.
    """

    def __init__(self, run: Any = None, prefix: str = "", **options: Any) -> None:
        self._own = run is None
        self._run = needed("wandb", "wandb").init(**options) if run is None else run
        self._metrics, self._step = Metrics(prefix), prefix + STEP
        self._run.define_metric(self._step, hidden=True)
        for name in ("grad_norm", "grad_norm_clipped", "clip/*", "grad_norm/*"):
            self._run.define_metric(prefix + name, step_metric=self._step)

    def __call__(self, event: Event) -> None:
        self._run.log({**self._metrics(event), self._step: event.step})

    def close(self) -> None:
        """Finish the run if it is ours."""
        if self._own:
            self._run.finish()

    def __repr__(self) -> str:
        return f"wandb({self._run!r})"


def needed(module: str, package: str) -> Any:
    """The module, or the error that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this sink needs {package}: pip install {package}") from error
