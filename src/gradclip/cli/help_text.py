"""The help of the command line: commands by purpose, and of each command what to type and what its exit code says."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 79
"""The longest line of what is laid out here, for a terminal of 80 columns."""

INTERRUPTED = 130
ALWAYS = {2: "a mistake in the call; the line on standard error says what to write", INTERRUPTED: "interrupted"}
"""What exit codes mean where the command says nothing else."""
GROUPS = {
    "look at your run": ("watch", "doctor", "report", "export"),
    "choose a rule": ("suggest", "compare"),
    "learn": ("demo", "methods", "completion"),
}
"""The commands by what they are for, in the order of the help."""
OVERVIEW = (
    "begin with: gradclip watch train.py\n\n"
    "`gradclip COMMAND --help` has the options of a command, examples and exit codes."
)


class HelpText(argparse.HelpFormatter):
    """Wraps a text, but for one that has lines of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def told(examples: Sequence[str], exits: Mapping[int, str]) -> dict[str, Any]:
    """What a parser is given for the examples of a command and for what its exit codes mean."""
    codes = {**exits, **{code: words for code, words in ALWAYS.items() if code not in exits}}
    lines = ["examples:", *(f"  {example}" for example in examples), "", "exit codes:"]
    lines += [
        textwrap.fill(words, WIDTH, initial_indent=f"  {code:<4} ", subsequent_indent=" " * 7)
        for code, words in sorted(codes.items())
    ]
    return {"epilog": "\n".join(lines), "formatter_class": HelpText}


def examples_in(help_text: str) -> list[str]:
    """The examples that stand in the help of a command.

    >>> examples_in("usage: ...\\n\\nexamples:\\n  gradclip demo\\n\\nexit codes:\\n  0 ...")
    ['gradclip demo']
    """
    _, _, after = help_text.partition("\nexamples:\n")
    return [line.strip() for line in after.partition("\n\n")[0].splitlines()]


def exits_in(form: argparse.ArgumentParser) -> dict[int, str]:
    """What the exit codes of a command mean, as its help says it."""
    _, _, after = (form.epilog or "").partition("\nexit codes:\n")
    found: dict[int, str] = {}
    for line in after.splitlines():
        code, words = line[:7].strip(), line[7:]
        found[int(code) if code else max(found)] = words if code else f"{found[max(found)]} {words}"
    return found


def overview(helps: Mapping[str, str]) -> str:
    """The commands by purpose, each with its line of help."""
    width = max(map(len, helps)) + 2
    blocks = [
        "\n".join([f"{title}:", *(f"  {name:<{width}}{helps[name]}" for name in names)])
        for title, names in GROUPS.items()
    ]
    return "\n\n".join(blocks)
