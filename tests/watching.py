"""`gradclip watch` as a user calls it, on the scripts of the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gradclip

SCRIPTS = Path(__file__).parent / "doctor" / "scripts"
SOURCE = Path(gradclip.__file__).parents[1]


def python(*arguments: str, folder: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=300,
        check=False, **options,
    )  # fmt: skip


def watch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "gradclip", "watch", *arguments, folder=folder)
