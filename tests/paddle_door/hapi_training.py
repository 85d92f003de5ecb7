"""Trainings of `paddle.Model`, and by hand, that `test_model_callback.py` interrupts: called with a part and a folder.

`begin` trains each to the end, and once more to the half; `resume` goes on from there, in a new process.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle.static import InputSpec

from gradclip import AutoClip, ClipGradByGlobalNorm, UClip, ZClip
from gradclip.paddle import Clip, ModelCallback

EPOCHS, STEPS = 4, 3
HALF = EPOCHS // 2
CASES = {
    "fit, Adam": (AutoClip(50), "Adam"),
    "fit, SGD": (ZClip(warmup=3), "SGD"),
    "fit, UClip": (UClip(ClipGradByGlobalNorm(0.5)), "Adam"),
    "by hand, Adam": (AutoClip(50), "Adam"),
    "by hand, UClip": (UClip(ClipGradByGlobalNorm(0.5)), "SGD"),
    "static, Adam": (AutoClip(50), "Adam"),
}
"""The static one is the last: it changes the mode of the process."""


class Batches(paddle.io.IterableDataset):
    """Of each epoch the last batch is so large that the rule acts."""

    def __iter__(self):
        draw = np.random.default_rng(0).standard_normal
        for step in range(STEPS):
            x = draw((4, 3)).astype(np.float32) * np.float32(20.0 if step == STEPS - 1 else 1.0)
            yield x, np.sin(x).sum(axis=1, keepdims=True)


def made(case):
    rule, kind = CASES[case]
    paddle.seed(0)
    specs = InputSpec([None, 3], "float32", "x"), InputSpec([None, 1], "float32", "y")
    model = paddle.Model(paddle.nn.Linear(3, 1), *specs)
    clip = Clip(rule)
    scheduled = kind == "Adam" and paddle.in_dynamic_mode()  # in static mode `Model.save` forgets a schedule
    rate = paddle.optimizer.lr.StepDecay(0.05, step_size=4) if scheduled else 0.05
    optimizer = getattr(paddle.optimizer, kind)(rate, parameters=model.parameters(), grad_clip=clip)
    model.prepare(optimizer, paddle.nn.MSELoss())
    return model, clip


def fit(case, epochs, folder, load):
    model, clip = made(case)
    if load:
        model.load(str(folder / load))
    loader = paddle.io.DataLoader(Batches(), batch_size=None)
    model.fit(loader, epochs=epochs, verbose=0, save_dir=str(folder), callbacks=[ModelCallback()])
    return model, clip


def by_hand(case, epochs, folder, load):
    model, clip = made(case)
    network, optimizer = model.network, model._optimizer
    if load:
        network.set_state_dict(paddle.load(str(folder / "final.pdparams")))
        optimizer.set_state_dict(paddle.load(str(folder / "final.pdopt")))
        clip.load_state_dict(paddle.load(str(folder / "final.pdclip")))
    for _ in range(epochs):
        for x, y in Batches():
            paddle.nn.functional.mse_loss(network(paddle.to_tensor(x)), paddle.to_tensor(y)).backward()
            optimizer.step()
            optimizer.clear_grad()
            if isinstance(optimizer._learning_rate, paddle.optimizer.lr.LRScheduler):
                optimizer._learning_rate.step()
    paddle.save(network.state_dict(), str(folder / "final.pdparams"))
    paddle.save(optimizer.state_dict(), str(folder / "final.pdopt"))
    paddle.save(clip.state_dict(), str(folder / "final.pdclip"))
    return model, clip


def train(case, epochs, folder, load=None):
    """Train with names, a program and a scope of its own; write down weights, memory, and the last step."""
    with (
        paddle.utils.unique_name.guard(),
        paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()),
        paddle.static.scope_guard(paddle.static.Scope()),
    ):
        _, clip = (by_hand if case.startswith("by hand") else fit)(case, epochs, folder, load)
        memory = saved(folder / "final.pdopt", "gradclip_memory") if case.startswith("static") else of_clip(clip)
        last = clip.last.step, clip.last.norm_before
    (folder / "end.pickle").write_bytes(pickle.dumps((saved(folder / "final.pdparams"), memory, last)))


def of_clip(clip):
    state = clip.state_dict()
    return {**state, "carried": {name: np.asarray(tensor) for name, tensor in state.get("carried", {}).items()}}


def saved(file, prefix=""):
    """The arrays in a file whose names begin so, behind which Paddle has one table of names."""
    found = pickle.loads(file.read_bytes())
    return {name: np.asarray(found[name]) for name in found if name.startswith(prefix) and "@@" not in name}


if __name__ == "__main__":
    part, root = sys.argv[1], Path(sys.argv[2])
    for case in CASES:
        if case.startswith("static"):
            paddle.enable_static()
        whole, halves = root / case / "whole", root / case / "halves"
        if part == "begin":
            whole.mkdir(parents=True)
            halves.mkdir()
            train(case, EPOCHS, whole)
            train(case, HALF, halves)
        else:
            train(case, EPOCHS - HALF, halves, load="final")
