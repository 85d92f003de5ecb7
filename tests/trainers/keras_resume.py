"""A training that may be interrupted: `python keras_resume.py HOW FOLDER` writes its last state to FOLDER/HOW.npz.

HOW is "whole" (nothing interrupts it), "killed" (which kills itself in the fourth epoch, with backups), "resumed" (goes
on from the backup), or "loaded" (loads the file that `ModelCheckpoint` left and goes on from there).
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import gradclip.keras

EPOCHS = 6
RULE = gradclip.Rules({"*/bias": gradclip.ClipGradByNorm(0.5), "*": gradclip.AdaGC(1.05, 0.9, warmup=3)})


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(40, 5)).astype("float32"), 5 * rng.normal(size=(40, 1)).astype("float32")


def network():
    keras.utils.set_random_seed(11)
    layers = [keras.layers.Input((5,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 60)
    model.compile(gradclip.keras.clip(keras.optimizers.Adam(schedule), RULE, on_nonfinite="skip"), loss="mse")
    return model


class Killed(keras.callbacks.Callback):
    """The machine goes away in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.history.epoch[-1] if self.model.history.epoch else -1) == 2 and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def main(how, folder):
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    saved = keras.callbacks.ModelCheckpoint(folder / f"{how}.keras")
    begin, callbacks = 0, {"killed": [backup, saved, Killed()], "resumed": [backup]}.get(how, [])
    if how == "loaded":
        model, begin = keras.models.load_model(folder / "killed.keras"), 3
    else:
        model = network()
    x, y = data()
    model.fit(
        x, y, batch_size=8, epochs=EPOCHS, initial_epoch=begin, shuffle=False, verbose=0,
        callbacks=[*callbacks, gradclip.keras.Log()],
    )  # fmt: skip
    state = [*model.weights, *model.optimizer.variables]
    np.savez(folder / f"{how}.npz", *[variable.numpy() for variable in state])
    clipped = {v.path.split("/")[-1] for v in model.optimizer.variables if "clip_memory" in v.path}
    print(
        json.dumps({"memory": len(clipped), "epochs": model.history.epoch, "rate": model.history.history["clip/rate"]})
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
