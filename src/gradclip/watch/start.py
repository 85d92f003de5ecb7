"""The beginning of a watched process: a recorder is set up as soon as the script imports PyTorch, and not before."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

from gradclip.watch.environment import FOLDER, RULE, STEPS
from gradclip.watch.import_hook import ImportHook


def wait_for_torch() -> None:
    """Watch what this process does with PyTorch, which something at the start of Python may have imported already."""
    wait_for_loggers()
    if "torch" in sys.modules:
        import torch.nn.utils

        wrap_clipping(torch.nn.utils.clip_grad)
        wrap_clipping(torch.nn.utils)
        watch(torch)
        return
    sys.meta_path.insert(0, ImportHook({"torch.nn.utils.clip_grad": wrap_clipping, "torch": watch}))


LOGGERS = {
    "torch.utils.tensorboard.writer": "listen_to_tensorboard",
    "tensorboardX.writer": "listen_to_tensorboard",
    "wandb.sdk.wandb_run": "listen_to_wandb",
}
"""The modules in which loggers are, and what in `gradclip.watch.told` listens to them."""


def wait_for_loggers() -> None:
    """Hear what the script tells loggers of its metrics."""
    for name in LOGGERS.keys() & sys.modules.keys():
        listen(name, sys.modules[name])
    sys.meta_path.insert(0, ImportHook({name: partial(listen, name) for name in LOGGERS}))


def listen(name: str, module: ModuleType) -> None:
    """Listen to the logger in the module of this name, which was just imported."""
    from gradclip.watch import told

    getattr(told, LOGGERS[name])(module)


def wrap_clipping(module: ModuleType) -> None:
    """Record the calls of PyTorch's clipping functions; here, because modules of PyTorch itself take them by name."""
    from gradclip.watch.patches import wrap_clipping

    wrap_clipping(module)


def watch(module: ModuleType) -> None:
    """Record the steps of all optimizers."""
    try:
        from gradclip.rules.text import rule_from_text
        from gradclip.watch.patches import watch_torch
        from gradclip.watch.recorder import Recorder

        text = os.environ.get(RULE)
        recorder = Recorder(Path(os.environ[FOLDER]), int(os.environ.get(STEPS, 0)))
        watch_torch(recorder, rule_from_text(text) if text else None)
    except Exception as error:  # noqa: BLE001  # whatever goes wrong here, the script must be able to import PyTorch
        print(f"gradclip watch: nothing is recorded, {type(error).__name__}: {error}", file=sys.stderr)
