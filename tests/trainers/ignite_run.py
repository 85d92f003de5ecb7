"""A training of Ignite in a process of its own: `ignite_run.py FOLDER begin|resume|through|forgetful`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver

import gradclip.ignite
from trainers import small

EPOCHS, KILLED_AT = 4, 20
"""Of eight batches each; the process dies in the third epoch."""


def run(folder: Path, what: str) -> None:
    model = small.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer = create_supervised_trainer(model, optimizer, torch.nn.functional.mse_loss)
    clip = gradclip.ignite.Clip(small.LEARNT).attach(trainer, optimizer, model=model)
    state = {"model": model, "optimizer": optimizer, "trainer": trainer, "clip": clip}
    if what == "begin":
        saving = Checkpoint(state, DiskSaver(str(folder / "saved"), require_empty=False), n_saved=1)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, saving)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=KILLED_AT), die)
    elif what != "through":
        (saved,) = (folder / "saved").glob("*.pt")
        taken_up = {name: one for name, one in state.items() if what == "resume" or name != "clip"}
        Checkpoint.load_objects(taken_up, torch.load(saved))
    trainer.run(torch.utils.data.DataLoader(small.batches(), batch_size=4), max_epochs=EPOCHS)
    torch.save({"weights": model.state_dict(), "memory": clip.state_dict()}, folder / f"{what}.pt")


def die(engine: Engine) -> None:
    small.die()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
