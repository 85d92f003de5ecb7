"""A loop of accelerate in a process of its own: `accelerate_train.py FOLDER begin|resume|through|forgetful MODE`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import gradclip
from trainers import small

EPOCHS, DONE, KILLED_AT = 4, 2, 19
"""Of eight batches each; the state is saved after two epochs, and the process dies in the third."""


def train(folder: Path, what: str, mode: str) -> None:
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2 if mode == "accumulated" else 1,
        mixed_precision="bf16" if mode == "bf16" else "no",
    )
    model = small.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    data = torch.utils.data.DataLoader(small.batches(), batch_size=4, shuffle=True)
    torch.manual_seed(1)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    clipper = gradclip.attach(optimizer, small.LEARNT, model=model)
    accelerator.register_for_checkpointing(clipper)
    saved = folder / "saved"
    if what in ("resume", "forgetful"):
        accelerator.load_state(saved)
        if what == "forgetful":
            clipper.detach()
            clipper = gradclip.attach(optimizer, small.LEARNT, model=model)
    batches = 0
    for epoch in range(DONE if what in ("resume", "forgetful") else 0, EPOCHS):
        for x, y in data:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.mse_loss(model(x).float(), y))
                optimizer.step()
                optimizer.zero_grad()
            batches += 1
            if what == "begin" and batches == KILLED_AT:
                small.die()
        if what == "begin" and epoch + 1 == DONE:
            accelerator.save_state(saved)
    found = {"weights": accelerator.unwrap_model(model).state_dict(), "memory": clipper.state_dict()}
    torch.save(found, folder / f"{what}.pt")


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
