"""Writes docs/cli.md from the parsers of the commands: `python docs/make_cli.py [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from gradclip.cli import command_line
from gradclip.cli.completion_command import commands_of
from gradclip.cli.help_text import GROUPS, examples_in, exits_in
from made import options_of, write

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"
HEAD = """# The command line

`gradclip --help` lists the commands, `gradclip COMMAND --help` says what stands here of one. A mistake in a call is
answered by one line on standard error that says what to write, and by exit code 2. With `--json` a command prints
[one document](json.md) and nothing else. Colours are for terminals: `NO_COLOR=1` turns them off, `FORCE_COLOR=1` turns
them on in a pipe. Progress, with the time that is left, goes to standard error; where that is no terminal, `suggest`
and `compare` write lines.
"""


def page() -> str:
    """The page with a section for each command, by what it is for."""
    forms = commands_of(command_line())
    lines = [HEAD]
    for title, names in GROUPS.items():
        lines += [f"## {title.capitalize()}", ""]
        for name in names:
            lines += section(name, forms[name])
    return "\n".join(lines)


def section(name: str, form: argparse.ArgumentParser) -> Iterator[str]:
    """A command: what it does, how it is called, its options, examples and exit codes."""
    yield from (f"### `gradclip {name}`", "", str(form.description), "")
    yield from ("```sh", *examples_in(form.format_help()), "```", "")
    yield from ("| argument | meaning |", "| --- | --- |")
    for action in form._actions:
        if "--help" not in action.option_strings:
            yield f"| `{written(action)}` | {str(action.help).replace('|', chr(92) + '|')} |"
    yield from ("", "| exit code | meaning |", "| --- | --- |")
    yield from (f"| {code} | {words} |" for code, words in exits_in(form).items())
    yield ""


def written(action: argparse.Action) -> str:
    """An argument as it is typed; a bar would end a cell."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
    takes = "" if action.nargs == 0 else action.metavar or choices
    text = " ".join(filter(None, [", ".join(action.option_strings), str(takes)]))
    more = " ..." if action.nargs in ("+", argparse.REMAINDER) and "..." not in text else ""
    return f"{text}{more}".replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    check = options_of(__doc__).parse_args(arguments).check
    return write(PAGE, page(), check)


if __name__ == "__main__":
    sys.exit(main())
