"""A fit of Lightning in a process of its own: `lightning_fit.py FOLDER begin|resume|through MODE`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import gradclip.lightning
from trainers import small

EPOCHS, KILLED_AFTER = 4, 10
"""Of eight batches each; the process dies in the second epoch, whose checkpoint is that of step 8."""


class Regression(LightningModule):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.net, self.mode = small.model(), mode
        self.automatic_optimization = not mode.startswith("manual")

    def training_step(self, batch, number):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        if self.automatic_optimization:
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss

    def configure_optimizers(self):
        if self.mode.startswith("manual"):
            first, _, last = self.net
            return torch.optim.Adam(first.parameters(), 0.01), torch.optim.SGD(last.parameters(), 0.01)
        if self.mode == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=3)
        return torch.optim.Adam(self.parameters(), 0.01)


class Ends(Callback):
    """Calls a function in the middle of the second epoch."""

    def __init__(self, end) -> None:
        self.end = end

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == KILLED_AFTER:
            self.end()


def fit(folder: Path, what: str, mode: str, end=small.die) -> None:
    seed_everything(0, verbose=False)
    clip = gradclip.lightning.Clip(small.LEARNT, together=mode == "manual-together")
    saving = ModelCheckpoint(folder / "saved", filename="{step}", every_n_epochs=1, save_top_k=-1)
    trainer = Trainer(
        max_epochs=EPOCHS,
        callbacks=[clip, saving, *([Ends(end)] if what == "begin" else [])],
        logger=CSVLogger(folder / what),
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2 if mode == "accumulated" else 1,
        precision="bf16-mixed" if mode == "bf16" else "32-true",
    )
    data = torch.utils.data.DataLoader(small.batches(), batch_size=4)
    saved = sorted((folder / "saved").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    trainer.fit(Regression(mode), data, ckpt_path=saved[-1] if what == "resume" else None)
    torch.save({"weights": trainer.model.state_dict(), "memory": clip.state_dict()}, folder / f"{what}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*num_workers|.*is deprecated|.*Checkpoint directory")
    fit(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
