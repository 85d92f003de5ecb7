"""What the commands share: how a mistake is answered, and the arguments that several have."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

MISTAKE = 2


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """What the arguments say; one that nobody knows is a mistake in the command that it stands behind."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown and unknown[0].startswith("-"):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"there is no option {unknown[0]}{meant(unknown[0], known)}")
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many")
        return options, []


def meant(word: str, words: Iterable[str]) -> str:
    """The question whether the nearest of `words` was meant; nothing where none is near."""
    near = difflib.get_close_matches(word.partition("=")[0].lower(), words, n=1)
    return f", did you mean {near[0]}?" if near else ""


def mistake(message: str, command: str) -> int:
    print(f"gradclip {command}: {message}", file=sys.stderr)
    return MISTAKE


def unread(error: OSError | ValueError, what: object) -> str:
    """Why a run cannot be read: what the system says of its file, or what is wrong with what is in it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or what} cannot be read: {error.strerror}"
    return str(error)


def add_json(form: Any) -> None:
    form.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def add_script(form: Any, metavar: str, meaning: str) -> None:
    """A script with its arguments as `script`: a file, a program, or `-m MODULE`."""
    form.add_argument("script", nargs=argparse.REMAINDER, metavar=metavar, help=meaning)
    form.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module instead")
    form.add_argument("--steps", type=count, default=0, metavar="N", help="stop the script after N optimizer steps")


def script_in(options: argparse.Namespace) -> list[str]:
    """The command that `add_script` took."""
    given = options.script[1:] if options.script[:1] == ["--"] else list(options.script)
    return ["-m", *options.module] if options.module else given


def add_accept(command: argparse.ArgumentParser) -> None:
    """The option of what is meant as it is."""
    command.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="ID",
        help="a finding of the doctor that is meant as it is, by its name; also in pyproject.toml, [tool.gradclip] "
        "accept = [ID], or in a comment at its line, # gradclip: accept ID",
    )


def unknown_finding(names: Sequence[str]) -> str | None:
    """What is wrong with the names that were given with that option."""
    from gradclip.doctor.accepted import unknown_among

    unknown = unknown_among(names)
    return None if unknown is None else f"--accept {unknown}"


def with_run_last(options: argparse.Namespace) -> argparse.Namespace:
    """The options of a call. A run has no arguments, so what stands behind it is read as options of ours."""
    first, *rest = script_in(options) or [""]
    return options.form.parse_args([*rest, first], options) if rest and is_run(first) else options


def is_run(given: str) -> bool:
    """Whether this is a recorded run: its folder, or the file of its events."""
    return Path(given).is_dir() or (given.endswith(".jsonl") and Path(given).is_file())


def no_script(command: Sequence[str], name: str) -> str | None:
    """What is not there of what is to be run."""
    first = command[0]
    if first.endswith(".py"):
        if not Path(first).is_file():
            return f"there is no script {first}"
    elif first != "-m" and shutil.which(first) is None:
        return f"{first} is neither a script, a run nor a program: gradclip {name} train.py"
    if importlib.util.find_spec("torch") is None:
        return 'PyTorch is not installed in this Python: pip install "gradclip[torch]"'
    return None


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


def no_new_folder(folder: Path) -> str | None:
    """What keeps a folder from being made, which is tried and undone."""
    if os.path.lexists(folder):
        return f"--out {folder}: there is something already; give a folder that is not there"
    try:
        new = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]
        folder.mkdir(parents=True)
        for place in new:
            place.rmdir()
    except OSError as error:
        return f"--out {folder}: cannot be written ({error.strerror}); give a folder that can be"
    return None


def wrong_rules(texts: Sequence[str], option: str = "--rules") -> str | None:
    """What is wrong with the texts of rules that were given with an option."""
    from gradclip.rules.text import rule_from_text

    try:
        for text in texts:
            rule_from_text(text)
    except ValueError as error:
        return f"{option}: {error}"
    return f"{option}: a rule is given twice in {' '.join(texts)}" if len(set(texts)) < len(texts) else None
