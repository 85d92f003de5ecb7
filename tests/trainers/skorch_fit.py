"""A fit of skorch in a process of its own: `skorch_fit.py FOLDER begin|resume|through|forgetful`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, LoadInitState

import gradclip.skorch
from trainers import small

EPOCHS, KILLED_IN = 4, 3
"""Of eight batches each; the process dies in the third epoch, before its checkpoint."""


class Dies(Callback):
    def on_batch_end(self, net, batch=None, training=None, **of_fit):
        if training and len(net.history) == KILLED_IN:
            small.die()


def data():
    x, y = small.batches().tensors
    return x, y


def made(*callbacks, rule=small.LEARNT, **options):
    torch.manual_seed(0)
    options = {"optimizer": torch.optim.Adam, "lr": 0.01, "batch_size": 4, "verbose": 0, **options}
    clip = gradclip.skorch.Clip(rule)
    return NeuralNetRegressor(small.model(), train_split=None, callbacks=[clip, *callbacks], **options)


def weights(net):
    return net.module_.state_dict()


def fit(folder: Path, what: str) -> None:
    saved = Checkpoint(monitor=None, dirname=str(folder / "saved"), f_clip="clip.pt")
    if what == "forgetful":
        (folder / "saved" / "clip.pt").unlink()
        saved = Checkpoint(monitor=None, dirname=str(folder / "saved"))
    callbacks = {"begin": [saved, Dies()], "through": []}.get(what, [LoadInitState(saved)])
    net = made(*callbacks, max_epochs=EPOCHS if what in ("begin", "through") else EPOCHS - KILLED_IN + 1)
    net.fit(*data())
    torch.save({"weights": weights(net), "memory": net.clip_.state_dict()}, folder / f"{what}.pt")


if __name__ == "__main__":
    fit(Path(sys.argv[1]), sys.argv[2])
