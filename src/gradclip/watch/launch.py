"""Running a script so that it is watched."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gradclip.watch.environment import FOLDER, RULE, STEPS, folder_of_shares
from gradclip.watch.passing import Passing

SITE = Path(__file__).parent / "site"
MODULE = "-m"


class Ended(NamedTuple):
    """How a script ended: its exit code, as a shell says it, and the number of the signal that ended it or 0.

    `asked` is the signal by which somebody asked for an end meanwhile, or 0; a script may answer it by ending well.
    """

    code: int
    signal: int
    asked: int


def run_watched(
    command: Sequence[str], folder: Path, steps: int = 0, rule: str | None = None, output: IO[str] | None = None
) -> Ended:
    """Run `command` with this terminal, recorded to `folder`, and say how it ended.

    `command` is a script of Python with its arguments, or `-m module`, or a program such as torchrun. The text of a
    `rule` takes the place of what the script clips by. What it prints, errors too, goes to `output` if there is one.
    Signals are passed on to it.
    """
    path = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH", "")]))
    settings = {FOLDER: str(folder.absolute()), STEPS: str(steps), RULE: rule or ""}
    environment = {**os.environ, "PYTHONPATH": path, **settings}
    passing = Passing()
    with passing.handlers():
        begin = passing.begin if os.name == "posix" else None
        with subprocess.Popen(
            with_python(command), env=environment, stdout=output, stderr=output, preexec_fn=begin
        ) as process:
            passing.to(process)
            code = process.wait()
    shutil.rmtree(folder_of_shares(folder.absolute()), ignore_errors=True)
    died_of = max(-code, 0)
    return Ended(128 + died_of if died_of else code, died_of, passing.asked)


def with_python(command: Sequence[str]) -> list[str]:
    """The command with its Python, if it is not a program of its own."""
    script = command[0].endswith(".py") or command[0] == MODULE
    return [sys.executable, *command] if script else list(command)


def folder_for(command: Sequence[str]) -> Path:
    """Where a run is recorded if nobody says: named by the script, the time, and a word of its own."""
    script = next((word for word in command if word.endswith(".py")), command[0])
    name = command[1].rpartition(".")[2] if command[0] == MODULE else Path(script).stem
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
