"""`Log`: what clipping did, in the logs of Keras: its progress bar, History, CSVLogger, TensorBoard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any

import keras

from gradclip.errors import NothingClipped, shown
from gradclip.keras.clipped import ClippedOptimizer
from gradclip.keras.last_step import LastStep
from gradclip.rules.rule import AnyRule
from gradclip.telemetry import Event
from gradclip.telemetry.collector import described
from gradclip.telemetry.loggers import Metrics
from gradclip.telemetry.observed import norm_of

SUMMED = ("clip/nonfinite", "clip/skipped")
"""The numbers of which an epoch has a sum; of the others it has the mean."""

NO_TENSORS = (
    "layers are told from the norms of tensors: gradclip.keras.clip(optimizer, rule, tensors=True), or leave it out"
)


class Log(keras.callbacks.Callback):
    """Puts what clipping did into the logs of Keras, by the names of `gradclip.telemetry.Metrics`.

    In each batch they are `grad_norm` (before clipping), `grad_norm_clipped`, `clip/threshold`, `clip/scale`,
    `clip/rate` (the share of the last 100 steps that were clipped), `clip/nonfinite` and `clip/skipped`. At the end of
    an epoch `clip/rate` is the share of its steps that were clipped, `clip/nonfinite` and `clip/skipped` are sums, and
    the others are means over its steps, of those that are finite. Put it before callbacks that read the logs, as
    CSVLogger does. With `gradient_accumulation_steps=` a step is one that updates the weights. `layers=5` adds the five
    largest `grad_norm/PATH`, of an optimizer that was clipped with `tensors=True`; the mean of one is over the steps in
    which it was among them.

    Each of `sinks`, functions of an `Event` as `gradclip.telemetry.jsonl("runs/first")`, is given every step that is
    read. Reading waits for the device: `every=10` reads each tenth batch. `prefix` and `without` are those of
    `Metrics`. Raises `ValueError` at the start of `fit` where the optimizer of the model was not clipped, or not with
    the `tensors=True` that `layers` need.

    >>> model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> optimizer = gradclip.keras.clip(keras.optimizers.SGD(0.1), gradclip.ClipGradByGlobalNorm(1.0))
    >>> model.compile(optimizer, loss="mse")
    >>> x, y = keras.ops.ones((8, 2)), keras.ops.zeros((8, 1))
    >>> history = model.fit(x, y, verbose=0, callbacks=[gradclip.keras.Log()])
    >>> round(history.history["grad_norm"][0], 3), history.history["clip/rate"]
    (6.928, [1.0])
    """

    def __init__(
        self,
        *sinks: Callable[[Event], object],
        every: int = 1,
        prefix: str = "",
        without: Collection[str] = (),
        layers: int = 0,
    ) -> None:
        super().__init__()
        if not all(map(callable, sinks)):
            raise TypeError(f"Log takes sinks, functions of an event such as print, got {shown(sinks)}")
        if type(every) is not int or every < 1:
            raise ValueError(f"every is a whole number of batches from 1, got {shown(every)}")
        self._sinks, self._every, self._prefix = sinks, every, prefix
        self._metrics = Metrics(prefix, without, layers=layers)
        self._seen = -1
        self._shown: dict[str, float] = {}
        self._epoch: list[tuple[dict[str, float], bool]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = clipped_in(self.model.optimizer)
        if self._metrics.layers and not optimizer._clipping.tensors:
            raise ValueError(NO_TENSORS)
        last = last_of(optimizer)
        self._seen = -1 if last is None else last.step
        about = described(optimizer._clipping.rule, "keras", [optimizer.name])
        for sink in self._sinks:
            if hasattr(sink, "begin"):
                sink.begin(about)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._shown = [], {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self._every == 0:
            self._read()
        if logs is not None:
            logs.update(self._shown)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None and self._epoch:
            logs.update(of_epoch([numbers for numbers, _ in self._epoch], self._prefix))
            if self._prefix + "clip/rate" in self._shown:
                logs[self._prefix + "clip/rate"] = mean([float(clipped) for _, clipped in self._epoch])

    def on_train_end(self, logs: Any = None) -> None:
        for sink in self._sinks:
            if hasattr(sink, "close"):
                sink.close()

    def _read(self) -> None:
        """Read the last step, unless it was read before."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        optimizer = clipped_in(self.model.optimizer)
        last = last_of(optimizer)
        if last is None or last.step == self._seen:
            return
        self._seen = last.step
        event = event_of(last, optimizer._clipping.rule)
        self._shown = self._metrics(event)
        self._epoch.append((self._shown, last.clipped))
        for sink in self._sinks:
            sink(event)


def clipped_in(optimizer: Any) -> Any:
    """The clipped optimizer, which a LossScaleOptimizer may wrap; `ValueError` where there is none."""
    found = optimizer
    while not isinstance(found, ClippedOptimizer):
        if (found := getattr(found, "inner_optimizer", None)) is None:
            raise ValueError(
                f"Log tells what gradclip.keras.clip did, and the optimizer of this model ({shown(optimizer)}) is not "
                "clipped by it: write model.compile(gradclip.keras.clip(optimizer, rule), ...)"
            )
    return found


def last_of(optimizer: ClippedOptimizer) -> LastStep | None:
    """What the last step did; None before the first."""
    try:
        return optimizer.last
    except NothingClipped:
        return None


def event_of(last: LastStep, rule: AnyRule) -> Event:
    """The event of a step."""
    engine, norm = keras.config.backend(), norm_of(rule)
    when, tensors = time.time(), last.tensors
    return Event.of(last, step=last.step, rule=repr(rule), engine=engine, norm=norm, time=when, tensors=tensors)


def of_epoch(rows: Sequence[dict[str, float]], prefix: str) -> dict[str, float]:
    """The numbers of an epoch from those of its steps."""
    columns = {name: [row[name] for row in rows if name in row] for name in dict.fromkeys(chain.from_iterable(rows))}
    return {
        name: sum(numbers) if name.removeprefix(prefix) in SUMMED else mean(numbers)
        for name, numbers in columns.items()
    }


def mean(numbers: Sequence[float]) -> float:
    """The mean of those that are finite; where none is, the last one."""
    finite = [number for number in numbers if math.isfinite(number)]
    return math.fsum(finite) / len(finite) if finite else numbers[-1]
