"""A page that a program makes: written, or checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def options_of(about: str | None) -> argparse.ArgumentParser:
    """What every program that makes a page is asked."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    return parser


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table, of which the first row is the head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def write(page: Path, text: str, check: bool) -> int:
    """Write the page where it says something else; with `check` leave it and give 1."""
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return 0
    print(f"{page.name} {'is out of date: run make docs' if check else 'written'}")
    if not check:
        page.write_text(text, encoding="utf-8")
    return int(check)
