"""`gradclip watch` as a user calls it, on the scripts of the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forked
import gradclip

SCRIPTS = Path(__file__).parent / "doctor" / "scripts"
SOURCE = Path(gradclip.__file__).parents[1]


def python(
    *arguments: str, folder: Path, cold: bool = False, longest: float = 300, **named: str
) -> subprocess.CompletedProcess[str]:
    """What Python answers, with what is `named` in its environment; `cold` where it is not to be a fork of a server.

    One that is `cold` may take so many seconds.
    """
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **named}
    if not cold:
        return forked.run(arguments, folder, environment)
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=longest,
        check=False,
    )  # fmt: skip


def watch(*arguments: str, folder: Path, cold: bool = False) -> subprocess.CompletedProcess[str]:
    return python("-m", "gradclip", "watch", *arguments, folder=folder, cold=cold)
