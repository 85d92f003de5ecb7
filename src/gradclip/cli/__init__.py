"""The command line. Every command is a function of the package; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from gradclip import __version__
from gradclip.cli import compare, completion, demo, doctor, export, methods, report, suggest, watch
from gradclip.cli.common import Parser, meant

INTERRUPTED = 130
COMMANDS = (demo, watch, doctor, report, suggest, compare, methods, export, completion)
EXIT_CODES = (
    "Exit codes: 0 done and well; 1 done, and not well (the demo is not as described, the doctor finds something, a "
    "run is too short for a suggestion); 2 a mistake in the call; 130 interrupted. `watch` has the code of the script."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code, which `EXIT_CODES` explains."""
    arguments, whole = sys.argv[1:] if arguments is None else arguments, parser()
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        near = meant(arguments[0], names) or f", there are {', '.join(names)}"
        whole.error(f"there is no command {arguments[0]!r}{near}")
    options = whole.parse_args(arguments)
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
    what = "Gradient clipping that is right, fast, and tells you what it did."
    whole = Parser(prog="gradclip", description=what, epilog=EXIT_CODES)
    whole.add_argument("-V", "--version", action="version", version=f"gradclip {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole
