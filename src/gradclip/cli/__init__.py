"""The command line. Every command is a function of the package; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from signal import SIGINT
from typing import Any, NoReturn

from gradclip import __version__
from gradclip.cli import (
    compare_command,
    completion_command,
    demo_command,
    doctor_command,
    export_command,
    methods_command,
    report_command,
    suggest_command,
    watch_command,
)
from gradclip.cli.common import MISTAKE, Parser, meant
from gradclip.cli.help_text import INTERRUPTED, OVERVIEW, overview

COMMANDS = (
    watch_command,
    doctor_command,
    report_command,
    export_command,
    suggest_command,
    compare_command,
    demo_command,
    methods_command,
    completion_command,
)


class CommandLine(Parser):
    """The parser of all commands, which lists them by what they are for."""

    def format_help(self) -> str:
        (commands,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        helps = {action.dest: str(action.help) for action in commands._choices_actions}
        return "\n".join([self.format_usage(), f"{self.description}\n", overview(helps), "", f"{self.epilog}\n"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code, which the help of the command explains; -n if it is to end by signal n."""
    arguments, line = sys.argv[1:] if arguments is None else arguments, command_line()
    names = [command.__name__.rpartition(".")[2].removesuffix("_command") for command in COMMANDS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        near = meant(arguments[0], names) or f", there are {', '.join(names)}"
        line.error(f"there is no command {arguments[0]!r}{near}")
    options = line.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with said_plainly():
            code = command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        print("gradclip: interrupted", file=sys.stderr)
        (number,) = interrupt.args or (SIGINT,)
        return INTERRUPTED if number == SIGINT else -number
    except BrokenPipeError:
        # The reader of our output has gone (`gradclip demo | head`): nobody is left to tell, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print(f"gradclip: its output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MISTAKE


@contextlib.contextmanager
def said_plainly() -> Iterator[None]:
    """Warnings of ours are lines of the command, each once, without the line of code that they come from."""
    from gradclip.errors import GradclipWarning

    with warnings.catch_warnings():
        warnings.simplefilter("default", GradclipWarning)
        show, said = warnings.showwarning, set()

        def plainly(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, GradclipWarning):
                show(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                print(f"gradclip: {message}", file=sys.stderr)

        warnings.showwarning = plainly
        yield


def entry() -> NoReturn:
    """What the shell calls: end with the exit code of the command, or by the signal that ended the script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as daemons close theirs
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names are bytes, and text may not be
    code = main()
    if code < 0:
        from gradclip.watch.passing import end_by

        end_by(-code)  # process 1 of a container outlives it
    sys.exit(code if code >= 0 else 128 - code)


def command_line() -> argparse.ArgumentParser:
    """The parser of all commands; the options that it reads hold it as `command_line`, for a shell to complete."""
    what = "Gradient clipping that is right, fast, and tells you what it did."
    line = CommandLine(prog="gradclip", description=what, epilog=OVERVIEW)
    line.add_argument("-V", "--version", action="version", version=f"gradclip {__version__}")
    line.set_defaults(command_line=line)
    commands = line.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return line
