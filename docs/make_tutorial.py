"""Types the tutorial, block by block: what each printed stands below it, and what each drew stands in `docs/tutorial`.

    python docs/make_tutorial.py            write docs/tutorial.md and its pictures
    python docs/make_tutorial.py --check    exit with 1 if the page shows something else, but for its numbers

A block of text right below one of Python is what that one printed.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path

PAGE = Path(__file__).with_name("tutorial.md")
PICTURES = PAGE.with_suffix("")
CELL = re.compile(
    r"(?P<python>^```python\n(?P<code>.*?)^```\n)(?P<shown>\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"-?\d[\d.,]*(?:e[-+]?\d+)?")


def typed(text: str, folder: Path) -> str:
    """The page with what its blocks print when they are typed in this folder."""
    names: dict[str, object] = {"__name__": "__main__"}

    def answered(cell: re.Match[str]) -> str:
        printed = io.StringIO()
        line = text.count("\n", 0, cell.start("code"))
        with redirect_stdout(printed):
            exec(compile("\n" * line + cell["code"], PAGE.name, "exec"), names)
        shown = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return cell["python"] + shown

    with chdir(folder):
        return CELL.sub(answered, text)


def form(text: str) -> str:
    """The text with N for each number, which is another one on another processor."""
    return NUMBER.sub("N", text)


def main(arguments: Sequence[str] | None = None) -> int:
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        found = typed(text, Path(place))
        pictures = sorted(Path(place).glob("*.png"))
        if "--check" in (sys.argv[1:] if arguments is None else arguments):
            same = form(found) == form(text) and [each.name for each in pictures] == sorted(os.listdir(PICTURES))
            print("up to date" if same else f"{PAGE.name} shows something else: python docs/make_tutorial.py")
            return 0 if same else 1
        PAGE.write_text(found, encoding="utf-8")
        PICTURES.mkdir(exist_ok=True)
        for picture in pictures:
            shutil.copy(picture, PICTURES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
