"""The door of PyTorch-Ignite: `gradclip.ignite.Clip(rule).attach(trainer, optimizer, model=model)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from gradclip.errors import needing, shown

with needing("gradclip.ignite", "ignite", "torch", "ignite"):
    import torch
    from ignite.engine import Engine, Events

    from gradclip.torch.late import LateClippers, numbered

__all__ = ["Clip"]


class Clip(LateClippers):
    """Clip the gradients of each optimizer of a trainer by `rule` before it steps.

    Each optimizer has a norm and a memory of its own; `together=True` takes one norm over all of them. Ignite's
    `Checkpoint({"clip": clip, ...}, ...)` saves the memory and `Checkpoint.load_objects` takes it up, before `attach`
    or after it. After each iteration `trainer.state.metrics`, which progress bars and loggers show, has `grad_norm`
    (before clipping), `grad_norm_clipped`, `clip/threshold`, `clip/scale`, `clip/rate`, `clip/nonfinite` and
    `clip/skipped`, and with `layers=5` the five largest `grad_norm/NAME`; of several optimizers with `0/`, `1/` and so
    on in front, or their names. A rule that reads the loss is told it in the update function, `clip.give(loss=loss)`.
    `telemetry` and the other options: `gradclip.attach`.

    >>> from ignite.engine import Engine
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer, trainer = torch.optim.SGD(model.parameters(), lr=0.1), Engine(lambda engine, batch: None)
    >>> clip = Clip(ClipGradByGlobalNorm(1.0)).attach(trainer, optimizer, model=model)
    """

    def attach(self, engine: Engine, *optimizers: Any, model: torch.nn.Module | None = None, every: int = 1) -> Self:
        """Clip in the steps of `optimizers`, or of a dict of them by name, which `engine` makes; return this.

        `model` gives the parameters their names; on an accelerator `every` steps are read at once. Raises `TypeError`
        for an engine or an optimizer that is none.
        """
        if not isinstance(engine, Engine):
            raise TypeError(
                f"attach takes the trainer and its optimizer, attach(trainer, optimizer), got {shown(engine)}"
            )
        if not optimizers:
            raise TypeError("attach needs the optimizer that the trainer steps: attach(trainer, optimizer)")
        given = optimizers[0] if len(optimizers) == 1 and isinstance(optimizers[0], Mapping) else numbered(optimizers)
        self.attach_to(given, model, every=every)
        if not engine.has_event_handler(self.tell, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.tell)
        return self

    def tell(self, engine: Engine) -> None:
        """Put what the last step did into the metrics of the engine."""
        numbers, metrics = self.numbers(wait=False), engine.state.metrics
        for name in self.gone:
            metrics.pop(name, None)
        metrics.update(numbers)
