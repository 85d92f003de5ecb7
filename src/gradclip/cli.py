"""The command line. Every command is a function of the package; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from gradclip import __version__

MISTAKE = 2
INTERRUPTED = 130
LARGEST_SEED = 2**32 - 1
DEMO_NEEDS = {
    "torch": ("torch", "numpy", "matplotlib", "rich"),
    "paddle": ("paddle", "numpy", "matplotlib", "rich"),
    "jax": ("jax", "optax", "numpy", "matplotlib", "rich"),
}


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code: 0 as described, 1 not as described, 2 a mistake in the call."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("gradclip: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`gradclip demo | head`): nobody is left to tell, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gradclip", description="Gradient clipping that is right, fast, and tells you what it did.")
    parser.add_argument("--version", action="version", version=f"gradclip {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="train without and with clipping, side by side, and see the difference (about a minute)",
        description="Trains an exploding net and a character RNN without and with clipping, and shows what happened in "
        "a table, a sentence and a picture. Exit code 0: as described; 1: not, with the reasons.",
    )
    demo.add_argument(
        "--framework", choices=DEMO_NEEDS, default="torch", help="the framework to train in (default: torch)"
    )
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="the first seed (default: 0)")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the picture goes (default: here)")
    demo.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    demo.set_defaults(command=_demo)
    return parser


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {LARGEST_SEED}, got {text!r}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    framework = options.framework
    if missing := [name for name in DEMO_NEEDS[framework] if importlib.util.find_spec(name) is None]:
        return _mistake(f'the demo needs {" and ".join(missing)}: pip install "gradclip[demo,{framework}]"')
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _mistake(f"--out {options.out}: {error.strerror}; give a folder that can be written")
    if not os.access(options.out, os.W_OK):
        return _mistake(f"--out {options.out}: cannot be written; give a folder that can be")
    from gradclip.experiments.show import show_demo

    return show_demo(framework, options.seed, options.out, as_json=options.json)


def _mistake(message: str) -> int:
    print(f"gradclip demo: {message}", file=sys.stderr)
    return MISTAKE
