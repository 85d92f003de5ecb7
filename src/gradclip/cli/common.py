"""What the commands share: how a mistake is answered, and the arguments that several have."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

MISTAKE = 2


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def mistake(message: str, command: str) -> int:
    print(f"gradclip {command}: {message}", file=sys.stderr)
    return MISTAKE


def add_json(form: Any) -> None:
    form.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def no_folder(folder: Path | None) -> str | None:
    """What keeps a folder from being written, after it was made."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {folder}: {error.strerror}; give a folder that can be written"
    return None if os.access(folder, os.W_OK) else f"--out {folder}: cannot be written; give a folder that can be"
