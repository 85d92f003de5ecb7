"""What the pages of trained results have in common: how a page is made from a document, checked and trained anew."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from gradclip.experiments.tasks.titles import TASKS


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
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    parser.add_argument("--run", nargs="*", metavar="TASK", help="train these tasks, or all of them, first")
    options = parser.parse_args(arguments)
    if options.run is not None:
        train(options.run or list(TASKS))
    found = text()
    stale = not page.exists() or page.read_text(encoding="utf-8") != found
    if stale and not options.check:
        page.write_text(found, encoding="utf-8")
    if stale:
        print(f"{page.name} {'is out of date: run make docs' if options.check else 'written'}")
    return int(options.check and stale)
