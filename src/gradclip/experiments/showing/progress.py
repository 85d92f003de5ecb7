"""Progress in a terminal while something trains: bars, and lines above them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TimeElapsedColumn


class ProgressDisplay:
    """Shows bars of these columns and their time; where there is no terminal, `has_bars` is false and none is seen."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.has_bars = console.file.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal
        columns = (*columns, TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not self.has_bars)
        self.console = console

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def print(self, text: str, style: str | None = None) -> None:
        """Print the text as it is, in lines as long as they are."""
        print_plain(self.console, text, style, soft_wrap=True)


def print_plain(console: Console, text: str, style: str | None = None, soft_wrap: bool = False) -> None:
    """Print the text with no colours but those of the style, and nothing in it taken for markup."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=soft_wrap)
