"""What a script tells of how good its model is: by `gradclip.metric`, or to the loggers that it has."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gradclip.errors import shown
from gradclip.rules.arguments import real_number
from gradclip.watch.environment import FOLDER

METRICS = "metrics.jsonl"
"""The file beside the events, a line for each number that was told."""
MOST = 10_000
_waiting: deque[dict[str, Any]] = deque(maxlen=MOST)
"""What was told before there is a folder for it; of several processes only the first ever has one."""
_failed: list[OSError] = []
_folder: list[Path] = []
"""Where the run of this process is, once there is one."""


def metric(value: float, name: str = "metric") -> None:
    """Tell the run how good the model is now, such as its loss on held-out data; without a run nothing happens.

    `value` is a number, or an array or tensor of one, which is read here. `gradclip suggest --metric NAME train.py`
    judges thresholds by it: by the mean of the last tenth of what it was told, or by the last of fewer than ten.
    Raises `TypeError` for what is no number and for a name that is no text.

    >>> metric(0.93, "accuracy")
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a metric is a text, got {shown(name)}: write metric(0.93, 'accuracy')")
    number = real_number(value)
    if number is None:
        raise TypeError(f"a metric is a number, got {shown(value)}: write metric(0.93, {name!r})")
    tell(name, number)


def tell(name: str, number: float) -> None:
    """Keep a number for the run of this process."""
    told = {"name": name, "value": number if math.isfinite(number) else str(number), "time": time.time()}
    if _folder:
        write([told])
    elif FOLDER in os.environ:
        _waiting.append(told)


def begin(folder: Path) -> None:
    """The run has a folder now; what was told before goes there, too."""
    if not _folder:
        _folder.append(folder)
        write(_waiting)
        _waiting.clear()


def write(told: Iterable[dict[str, Any]]) -> None:
    """Append lines; a disk that takes none ends no training, and nothing more is tried there."""
    lines = [json.dumps(one) + "\n" for one in told]
    if not lines or _failed:
        return
    try:
        with open(_folder[0] / METRICS, "a", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        _failed.append(error)
        print(f"gradclip watch: what the script tells of its metrics is not kept: {error}", file=sys.stderr)


def listen_to_tensorboard(module: Any) -> None:
    """Hear what is logged by `SummaryWriter.add_scalar`, of PyTorch or of tensorboardX."""
    wrap(module, "SummaryWriter", "add_scalar", lambda tag, scalar_value, *_, **__: tell_all({tag: scalar_value}))


def listen_to_wandb(module: Any) -> None:
    """Hear what is logged by `wandb.log`."""
    wrap(module, "Run", "log", lambda data, *_, **__: tell_all(data))


def wrap(module: Any, kind: str, name: str, hear: Callable[..., None]) -> None:
    """Let `hear` be called with the arguments of a method of a class of the module, before it."""
    logger = getattr(module, kind, None)
    method = getattr(logger, name, None)
    if method is None:  # another version of the logger
        return

    @functools.wraps(method)
    def hear_and_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        hear(*args, **kwargs)
        return method(self, *args, **kwargs)

    setattr(logger, name, hear_and_call)


def tell_all(data: Any) -> None:
    """Tell what is a number among what a logger was given."""
    for name, value in data.items() if isinstance(data, Mapping) else ():
        number = real_number(value)
        if isinstance(name, str) and number is not None:
            tell(name, number)
