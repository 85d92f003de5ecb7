"""A training by Hugging Face's Trainer in a process of its own: `transformers_train.py FOLDER begin|resume|through`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import gradclip.transformers
from trainers import small

STEPS, SAVED_EVERY, KILLED_AFTER = 16, 5, 12


class Regression(torch.nn.Module):
    """A model as the Trainer wants one: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small.model()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.net(x) - y).square().mean()}


class Ends(TrainerCallback):
    """Calls a function in the middle of the training."""

    def __init__(self, end: Any) -> None:
        self.end = end

    def on_step_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        if state.global_step == KILLED_AFTER:
            self.end()


def data() -> list[dict[str, torch.Tensor]]:
    return [{"x": x, "y": y} for x, y in small.batches()]


def trainer(folder: Path, *callbacks: Any, model: Any = None, **options: Any) -> Trainer:
    given = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 0.01,
        "max_grad_norm": 0.0, "logging_steps": 1, "save_steps": SAVED_EVERY, "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "dataloader_pin_memory": False, "save_only_model": False,
    }  # fmt: skip
    args = TrainingArguments(**given | options)
    return Trainer(model or Regression(), args, train_dataset=data(), callbacks=list(callbacks))


def train(folder: Path, what: str, end: Any = small.die, **options: Any) -> Any:
    """Train from the start, to be ended in the middle or not, or from the last checkpoint there is."""
    clip = gradclip.transformers.Clip(small.LEARNT)
    made = trainer(folder / "saved", clip, *([Ends(end)] if what == "begin" else []), **options)
    made.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "saved")) if what == "resume" else None)
    torch.save({"weights": made.model.state_dict(), "memory": clip.state_dict()}, folder / f"{what}.pt")
    return made


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2])
