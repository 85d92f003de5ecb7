"""The door of Lightning: `Trainer(callbacks=[gradclip.lightning.Clip(rule)])`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from gradclip.errors import needing

with needing("gradclip.lightning", "lightning", "torch", "lightning"):
    import torch
    from torch.optim import Optimizer

    from gradclip.torch.late import LateClippers, numbered

    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        if importlib.util.find_spec("pytorch_lightning") is None:
            raise
        from pytorch_lightning import Callback  # type: ignore[assignment]  # another class with the same hooks

__all__ = ["Clip"]

SHOWN = ("grad_norm", "clip/rate")
"""What the progress bar shows."""


class Clip(LateClippers, Callback):
    """Clip the gradients of each optimizer by `rule` before it steps, in automatic and in manual optimization.

    Each optimizer has a norm and a memory of its own; `together=True` takes one norm over all of them. The memory is in
    the Trainer's checkpoints, also for a `fit` that resumes from one. `grad_norm` (before clipping) and `clip/rate` are
    logged at each step, for the bar and for callbacks; every `log_every_n_steps`, when Lightning writes, also
    `grad_norm_clipped`, `clip/threshold`, `clip/scale`, `clip/rate`, `clip/nonfinite` and `clip/skipped`, and with
    `layers=5` the five largest `grad_norm/NAME` (NaN for one that no longer is among them); of several optimizers with
    `0/`, `1/` and so on in front. On an accelerator they are read every `log_every_n_steps`. `telemetry` and the other
    options: `gradclip.attach`.

    Raises `ValueError` at the beginning of a fit beside the Trainer's own `gradient_clip_val`, which would clip first.

    >>> from lightning.pytorch import Trainer
    >>> trainer = Trainer(callbacks=[Clip(ClipGradByGlobalNorm(1.0))], logger=False, accelerator="cpu")
    """

    _loss: torch.Tensor | None = None
    _stage, _forgotten = "fit", False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Hear of what is done: a checkpoint that is read to validate has no memory for the next fit."""
        self._stage = stage

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave, now or when there are optimizers; all of it or, with an error, nothing."""
        if self._stage == "fit":
            super().load_state_dict(state)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Note whether the checkpoint that a fit resumes from has a memory."""
        self._forgotten = self._stage == "fit" and self.state_key not in checkpoint.get("callbacks", {})

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the optimizers, which exist now."""
        if trainer.gradient_clip_val:
            raise ValueError(
                f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) would clip first: leave it out, and "
                "gradclip.lightning.Clip alone clips"
            )
        self.begin_for(trainer)
        self._attach(trainer, pl_module)
        if self._forgotten:
            self.begins_anew()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        """Attach to other optimizers where somebody has changed them in the middle of the fit."""
        self.refuse_other(trainer)
        self._attach(trainer, pl_module)

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        self.attach_to(numbered(trainer.optimizers), pl_module, every=trainer.log_every_n_steps)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Add up the losses whose gradients one step takes: Lightning has divided each by their number."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Hand the loss over to the clipper of the optimizer that steps."""
        loss, self._loss = self._loss, None
        if loss is not None and loss.numel() == 1:
            self.give_to(optimizer, loss=loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        """Log what the step did, if the batch ended with one: what the bar shows, and all where Lightning logs."""
        numbers = self.numbers(wait=False)
        numbers |= dict.fromkeys(self.gone, math.nan)  # for Lightning shows what it was told last
        due = (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % trainer.log_every_n_steps == 0
        for shown in (True, False) if due else (True,):
            some = {name: number for name, number in numbers.items() if name.endswith(SHOWN) is shown}
            if some:
                pl_module.log_dict(some, on_step=True, on_epoch=False, prog_bar=shown)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks away: the next fit makes optimizers of its own."""
        self.detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the hooks away, with the memory kept for the next fit."""
        self.detach()
