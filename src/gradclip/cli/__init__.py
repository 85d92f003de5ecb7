"""The command line. Every command is a function of the package; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from gradclip import __version__
from gradclip.cli import compare, demo, export, methods
from gradclip.cli.common import Parser

INTERRUPTED = 130
COMMANDS = (demo, compare, methods, export)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code: 0 as described, 1 not as described, 2 a mistake in the call."""
    options = parser().parse_args(arguments)
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


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    whole = Parser(prog="gradclip", description="Gradient clipping that is right, fast, and tells you what it did.")
    whole.add_argument("--version", action="version", version=f"gradclip {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole
