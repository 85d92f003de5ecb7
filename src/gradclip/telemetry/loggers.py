"""Sinks for what people look at: a list, TensorBoard, Weights & Biases, MLflow, Lightning; `Metrics` for any other."""

from __future__ import annotations

import importlib
import math
import os
import re
import time
from collections import deque
from collections.abc import Collection, Mapping
from heapq import nlargest
from typing import Any

from gradclip.errors import shown
from gradclip.rules.arguments import is_whole, items_of
from gradclip.telemetry.event import Event

WINDOW = 100
"""Steps over which `clip/rate` is taken."""

STEP = "clip/step"

EACH = "grad_norm/"
"""In front of the name of a tensor."""

MOST_METRICS, MOST_SECONDS = 1000, 10.0
"""What one call of MLflow takes, and how long a number waits for it at most while events come."""


class memory(list[Event]):  # noqa: N801  # a sink reads as a function: Telemetry(memory())
    """A list that is a sink: it keeps the events.

    >>> kept = memory()
    >>> kept(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))
    >>> kept[0].norm_before
    5.0
    """

    def __call__(self, event: Event) -> None:
        self.append(event)


class Metrics:
    """The numbers of one event after another, by the names that are customary, each with `prefix` in front.

    Those `without` are left out, which is for names that something else logs: the Trainer of Hugging Face writes
    `grad_norm` itself, so there it is `without=["grad_norm"]`.

    `grad_norm` is the norm before clipping, `grad_norm_clipped` the one after; `clip/threshold`, `clip/scale` (the
    coefficient), `clip/rate` (the share of clipped steps of the last 100), `clip/nonfinite` (elements), `clip/skipped`
    (0 or 1); `grad_norm/NAME` for each tensor where the events have them, or for the `layers` largest of them alone.

    >>> Metrics(prefix="train/")(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))["train/grad_norm"]
    5.0
    """

    def __init__(
        self, prefix: str = "", without: Collection[str] = (), each: str = EACH, layers: int | None = None
    ) -> None:
        for name, text in (("prefix", prefix), ("each", each)):
            if not isinstance(text, str):
                raise TypeError(f"{name} is the beginning of names, got {shown(text)}: write 'train/'")
        names = items_of(without) if isinstance(without, Collection) and not isinstance(without, str | bytes) else None
        if names is None or not all(isinstance(name, str) for name in names):
            raise TypeError(f"without is a list of names, got {shown(without)}: write ['grad_norm']")
        self.prefix: str = prefix
        self.without: Collection[str] = without
        self.layers = None if layers is None else checked_layers(layers)
        self._each = each
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
            **{self._each + name: norm for name, norm in self._tensors(event).items()},
        }
        return {self.prefix + name: number for name, number in numbers.items() if name not in self.without}

    def _tensors(self, event: Event) -> Mapping[str, float]:
        each = event.tensors or {}
        return each if self.layers is None else dict(nlargest(self.layers, each.items(), key=size_of))


def size_of(pair: tuple[str, float]) -> float:
    """By what tensors are ordered, each a name and its norm: one that is no number comes first."""
    return math.inf if math.isnan(pair[1]) else pair[1]


def checked_layers(layers: int) -> int:
    """`layers` if it is a number of tensors."""
    if not is_whole(layers, 0):
        raise ValueError(f"layers is how many tensors' norms are told, a whole number from 0, got {shown(layers)}")
    return layers


class tensorboard:  # noqa: N801
    """Writes `Metrics` for TensorBoard to the folder `log_dir`, or to a SummaryWriter that you have; tensorboardX.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> sink = tensorboard(folder.name, prefix="train/")
    >>> sink(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))
    >>> sink.close()
    >>> folder.cleanup()
    """

    def __init__(self, log_dir: Any, prefix: str = "", without: Collection[str] = ()) -> None:
        self._where, self._opened_here = log_dir, isinstance(log_dir, str | os.PathLike)
        package = needed("tensorboardX", "tensorboardX") if self._opened_here else None
        self._writer = log_dir if package is None else package.SummaryWriter(str(log_dir))
        self._metrics = Metrics(prefix, without)

    def __call__(self, event: Event) -> None:
        for name, number in self._metrics(event).items():
            self._writer.add_scalar(name, number, event.step, event.time)

    def close(self) -> None:
        """Write what the writer holds back, and close it if it is ours."""
        self._writer.flush()
        if self._opened_here:
            self._writer.close()

    def __repr__(self) -> str:
        return f"tensorboard({self._where!r})"


class wandb:  # noqa: N801
    """Logs `Metrics` to Weights & Biases: to the `run` that you have, or to one made by `wandb.init(**options)`.

    The step of the clipper is the metric `clip/step`, against which the others are drawn, so that a run with a step of
    its own is not disturbed.

    >>> class Run:  # stands for what wandb.init returns
    ...     def define_metric(self, name, **options): ...
    ...     def log(self, numbers):
    ...         print(numbers["grad_norm"], numbers["clip/step"])
    >>> wandb(Run())(Event(7, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))
    5.0 7
    """

    def __init__(self, run: Any = None, prefix: str = "", without: Collection[str] = (), **options: Any) -> None:
        self._metrics, self._step = Metrics(prefix, without), prefix + STEP
        self._opened_here = run is None
        self._run = needed("wandb", "wandb").init(**options) if run is None else run
        self._run.define_metric(self._step, hidden=True)
        for name in ("grad_norm", "grad_norm_clipped", "clip/*", f"{EACH}*"):
            self._run.define_metric(prefix + name, step_metric=self._step)

    def __call__(self, event: Event) -> None:
        self._run.log({**self._metrics(event), self._step: event.step})

    def close(self) -> None:
        """Finish the run if it is ours."""
        if self._opened_here:
            self._run.finish()

    def __repr__(self) -> str:
        return f"wandb({self._run!r})"


class mlflow:  # noqa: N801
    """Logs `Metrics` to MLflow: to the `run` that you have (or its id), to the active one, or to one that is started.

    `options` are those of `mlflow.start_run`. A call of MLflow takes tens of milliseconds, so the numbers of many
    events go in one: when there are 1000 of them, ten seconds after the first, and at the close. The norms of tensors
    are `grad_norms/NAME` there, because a store of files has a file `grad_norm`; in names what MLflow refuses is `_`.

    >>> telemetry = gradclip.telemetry.Telemetry(mlflow(run_name="first"))  # doctest: +SKIP
    """

    def __init__(self, run: Any = None, prefix: str = "", without: Collection[str] = (), **options: Any) -> None:
        self._metrics = Metrics(prefix, without, each="grad_norms/")
        self._mlflow = needed("mlflow", "mlflow-skinny")
        found = run or self._mlflow.active_run()
        self._opened_here = found is None
        found = found or self._mlflow.start_run(**options)
        self._run = found if isinstance(found, str) else found.info.run_id
        self._client = self._mlflow.MlflowClient()
        self._waiting: list[Any] = []
        self._since = 0.0

    def __call__(self, event: Event) -> None:
        self._since = self._since if self._waiting else time.monotonic()
        metric, when = self._mlflow.entities.Metric, int(1000 * event.time)
        self._waiting += [
            metric(re.sub(r"[^\w\-. :/]", "_", name)[:250], number, when, event.step)
            for name, number in self._metrics(event).items()
        ]
        if len(self._waiting) >= MOST_METRICS or time.monotonic() - self._since >= MOST_SECONDS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST_METRICS):
            self._client.log_batch(self._run, metrics=waiting[start : start + MOST_METRICS])

    def close(self) -> None:
        """Send what is left, and end the run if it is ours."""
        self._flush()
        active = self._mlflow.active_run()
        if self._opened_here and active is not None and active.info.run_id == self._run:
            self._mlflow.end_run()

    def __repr__(self) -> str:
        return f"mlflow({self._run!r})"


class lightning:  # noqa: N801
    """Logs `Metrics` by `module.log_dict(..., on_step=True, **options)`: to the loggers of its Trainer, to callbacks.

    Lightning takes numbers for the present step of a fit alone: where `Telemetry` reads `every` k steps, the last of
    them is logged and stays until the next, so there the Trainer's `log_every_n_steps` is best k too; what is read
    after the fit is left out. A sink such as `jsonl` beside this one has each step.

    >>> class Module:  # stands for a LightningModule in a fit
    ...     class trainer:
    ...         training = True
    ...     def log_dict(self, numbers, **options):
    ...         print(numbers["grad_norm"], options["on_step"])
    >>> lightning(Module())(Event(7, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))
    5.0 True
    """

    def __init__(self, module: Any, prefix: str = "", without: Collection[str] = (), **options: Any) -> None:
        self._module, self._options = module, {"on_step": True, "on_epoch": False, **options}
        self._metrics = Metrics(prefix, without)

    def __call__(self, event: Event) -> None:
        numbers = self._metrics(event)
        if self._module.trainer.training:
            self._module.log_dict(numbers, **self._options)

    def __repr__(self) -> str:
        return f"lightning({type(self._module).__name__})"


def needed(module: str, package: str) -> Any:
    """The module, or the error that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this sink needs {package}: pip install {package}") from error
