"""Tasks with a published claim about clipping, to compare rules on: offline, seeded, minutes on two cores, in PyTorch.

Read `task` (what a task is), `descent` (the loop and what it writes down), then any of the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gradclip.experiments.tasks.task import Task


NEEDS = ("torch", "numpy", "matplotlib", "rich")


class Listed(NamedTuple):
    """What is known of a task before anything heavy is imported: its title, and the modules that it needs."""

    title: str
    needs: tuple[str, ...] = NEEDS


TASKS = {
    "temporal-order": Listed("the order of two symbols in a long sequence (RNN)"),
    "char-lm": Listed("characters of English text at a high learning rate (RNN)"),
    "bad-batches": Listed("characters of English text, with bad batches in between (RNN)"),
    "digits": Listed("handwritten digits without normalisation layers, over learning rates", (*NEEDS, "sklearn")),
    "heavy-tails": Listed("a quadratic under noise of infinite variance"),
    "l0l1": Listed("two functions that grow steeper the further out, over step sizes"),
    "bias": Listed("a mean under skewed noise, where clipping moves the optimum"),
}


def task_called(name: str) -> Task:
    """The task with this name, imported now; `KeyError` if there is none."""
    if name not in TASKS:
        raise KeyError(f"no task {name!r}: there are {', '.join(TASKS)}")
    task: Task = importlib.import_module(f"gradclip.experiments.tasks.{name.replace('-', '_')}").TASK
    return task
