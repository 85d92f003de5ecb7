"""`gradclip completion`: what a shell needs to complete commands, options, methods and tasks."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, mistake
from gradclip.cli.help_text import told

SHELLS = ("bash", "zsh", "tcsh")

EXAMPLES = (
    'eval "$(gradclip completion bash)"',
    "gradclip completion zsh > _gradclip",
)
EXITS = {0: "the script is printed"}


def add(commands: Any) -> None:
    completion = commands.add_parser(
        "completion",
        help="let your shell complete what you type",
        description="Prints the script by which a shell completes commands, options, methods and tasks. In bash: "
        '`eval "$(gradclip completion bash)"` in ~/.bashrc; in zsh: `gradclip completion zsh > _gradclip` in a folder '
        "of $fpath; in tcsh: `gradclip completion tcsh > ~/.gradclip.csh` and `source` that in ~/.tcshrc.",
        **told(EXAMPLES, EXITS),
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell that you use")
    add_json(completion)
    completion.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("shtab") is None:
        return mistake('it needs shtab: pip install "gradclip[completion]"', "completion")
    script = script_for(options.shell, options.command_line)
    print(json.dumps({"shell": options.shell, "script": script}) if options.json else script)
    return 0


def script_for(shell: str, command_line: argparse.ArgumentParser) -> str:
    """The script for `shell`, with the words and files that each argument takes."""
    import shtab

    choices = choices_by_argument()
    for command, form in commands_of(command_line).items():
        for argument in form._actions:  # shtab reads them there, too
            argument.choices = choices.get((command, argument.dest), argument.choices)
            if argument.type is Path or argument.nargs == argparse.REMAINDER:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab wants it
    return str(shtab.complete(command_line, shell))


def commands_of(command_line: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (commands,) = (action for action in command_line._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def choices_by_argument() -> dict[tuple[str, str], list[str]]:
    """What an argument of a command may be, where its parser does not know it: those lists take long to import."""
    from gradclip.experiments.tasks.titles import TITLES
    from gradclip.rules.catalogue import methods
    from gradclip.rules.text import recipes_by_name

    rules = list(recipes_by_name())
    return {("methods", "name"): list(methods()), ("compare", "task"): list(TITLES), ("compare", "rules"): rules}
