"""A fit of fastai in a process of its own: `fastai_fit.py FOLDER begin|resume|through|forgetful OPTIMIZER`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper

import gradclip.fastai
from trainers import small

EPOCHS, DONE, KILLED_AT = 4, 2, 20
"""Of eight batches each; the process dies in the third epoch, after the files of two."""

OPTIMIZERS = {"fastai": Adam, "torch": partial(OptimWrapper, opt=torch.optim.Adam)}


class Batches(torch.utils.data.TensorDataset):
    """What an exported learner keeps of its data is what this gives."""

    def new_empty(self):
        return self


class Dies(Callback):
    def after_step(self):
        if self.learn.train_iter + 1 == KILLED_AT:
            small.die()


def made(folder: Path, *callbacks, optimizer: str = "fastai", rule=small.LEARNT, **options) -> Learner:
    batches = Batches(*small.batches().tensors)
    loaders = DataLoaders(DataLoader(batches, bs=4), DataLoader(batches, bs=4))
    clip = gradclip.fastai.Clip(rule, **options)
    learn = Learner(
        loaders,
        small.model(),
        loss_func=torch.nn.functional.mse_loss,
        opt_func=OPTIMIZERS[optimizer],
        lr=0.01,
        cbs=[clip, *callbacks],
        path=folder,
        model_dir="saved",
    )
    return learn


def fit(folder: Path, what: str, optimizer: str) -> None:
    saving = SaveModelCallback(every_epoch=True, with_opt=True)
    learn = made(folder, *([saving, Dies()] if what == "begin" else []), optimizer=optimizer)
    if what in ("begin", "through"):
        learn.fit(EPOCHS)
    else:
        learn.load(f"model_{DONE - 1}", with_opt=True)
        if what == "forgetful":
            del gradclip.fastai.place_in(learn.opt)[gradclip.fastai.KEY]
        learn.fit(EPOCHS, start_epoch=DONE)
    torch.save({"weights": learn.model.state_dict(), "memory": learn.clip.state_dict()}, folder / f"{what}.pt")


if __name__ == "__main__":
    fit(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
