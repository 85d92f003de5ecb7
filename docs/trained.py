"""What the pages of trained results have in common: how a page is made from a document, checked and trained anew."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from gradclip.experiments.tasks.titles import TASKS
from made import options_of, write


def wrapped(text: str) -> str:
    """A paragraph."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def make(
    page: Path,
    text: Callable[[], str],
    train: Callable[[Sequence[str]], None],
    about: str | None,
    arguments: Sequence[str] | None,
) -> int:
    """Write `page`, or check that it says what `text` makes; `train` the tasks that are asked for before."""
    parser = options_of(about)
    parser.add_argument("--run", nargs="*", metavar="TASK", help="train these tasks, or all of them, first")
    options = parser.parse_args(arguments)
    if options.run is not None:
        train(options.run or list(TASKS))
    return write(page, text(), options.check)
