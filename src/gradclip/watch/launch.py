"""Running a script so that it is watched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gradclip.watch.start import FOLDER, RULE, STEPS

SITE = Path(__file__).parent / "site"
MODULE = "-m"


class Ended(NamedTuple):
    """How a script ended: its exit code, and whether somebody pressed Ctrl-C, which it may have answered well."""

    code: int
    interrupted: bool


def run_watched(
    command: Sequence[str], folder: Path, steps: int = 0, rule: str | None = None, output: IO[str] | None = None
) -> Ended:
    """Run `command` with this terminal, recorded to `folder`, and say how it ended.

    `command` is a script of Python with its arguments, or `-m module`, or a program such as torchrun. The text of a
    `rule` takes the place of what the script clips by. What it prints, errors too, goes to `output` if there is one.
    """
    path = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH", "")]))
    settings = {FOLDER: str(folder.absolute()), STEPS: str(steps), RULE: rule or ""}
    environment = {**os.environ, "PYTHONPATH": path, **settings}
    interrupted = False
    with subprocess.Popen(with_python(command), env=environment, stdout=output, stderr=output) as process:
        while True:
            try:
                code = process.wait()
                return Ended(code if code >= 0 else 128 - code, interrupted)  # a signal, as a shell says it
            except KeyboardInterrupt:
                interrupted = True  # the terminal has told the script as well, which ends in its own way


def with_python(command: Sequence[str]) -> list[str]:
    """The command with its Python, if it is not a program of its own."""
    script = command[0].endswith(".py") or command[0] == MODULE
    return [sys.executable, *command] if script else list(command)


def folder_for(command: Sequence[str]) -> Path:
    """Where a run is recorded if nobody says: named by the script and the time."""
    script = next((word for word in command if word.endswith(".py")), command[0])
    name = command[1].rpartition(".")[2] if command[0] == MODULE else Path(script).stem
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
