"""Run each framework's clipping and gradclip's on the same inputs, and write down what each does.

    python docs/make_tables.py            write docs/where-<framework>-is-wrong.md, and the table in README.md
    python docs/make_tables.py --check    exit with 1 if they are out of date

What the functions do comes from the run. Which of them is right is a judgement, and stands next to the input.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import optax_inputs
import paddle_inputs
import pytorch_inputs
from observed import Input, Page

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (pytorch_inputs.PAGE, paddle_inputs.PAGE, optax_inputs.PAGE)
COMMON = (
    '`python docs/make_tables.py` runs them and writes this page. "kept" means bit for bit as before. A number after '
    "`~` depends on the processor."
)

TELLING = {
    "PyTorch": "fp16 `[6e4, 6e4, 6e4, 6e4]`",
    "Paddle": "`[3]` and `[4]` in two parameter groups, global norm",
    "Optax": "`[NaN, 2]` and `[3]`",
}
"""The row of each framework that the README shows."""

BEGIN, END = "<!-- wrong-table -->", "<!-- /wrong-table -->"

ComparisonRow = tuple[Input, str, str]


def rows(page: Page) -> list[ComparisonRow]:
    """Each input, and what the framework and gradclip do with it."""
    return [(one, one.run(page.theirs), one.run(page.ours)) for one in page.inputs]


def written(page: Page, found: list[ComparisonRow]) -> str:
    """The whole page."""
    lines = [
        f"# Where {page.framework}'s clipping is wrong, and where it is right",
        "",
        textwrap.fill(f"{page.introduction} {COMMON}", 120, break_long_words=False, break_on_hyphens=False),
        "",
        f"| input | {page.framework} {page.version} does | gradclip does | which is right, and why |",
        "| --- | --- | --- | --- |",
        *[f"| {one.title} | {theirs} | {ours} | {one.why} |" for one, theirs, ours in found],
    ]
    return "\n".join(lines) + "\n"


def readme_rows(found: Mapping[str, list[ComparisonRow]]) -> str:
    """The most telling row of each framework, as a table."""
    lines = ["| input | framework | it does | gradclip does |", "| --- | --- | --- | --- |"]
    for framework, title in TELLING.items():
        theirs, ours = next((theirs, ours) for one, theirs, ours in found[framework] if one.title == title)
        lines.append(f"| {title} | {framework} | {theirs} | {ours} |")
    return "\n".join(lines)


def filled(text: str, table: str) -> str:
    """`text` with `table` between the markers; as it is if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table}\n{end}{after}" if begin and end else text


def wanted() -> dict[Path, str]:
    """What the files should hold."""
    found = {page.framework: rows(page) for page in PAGES}
    files = {ROOT / "docs" / page.file: written(page, found[page.framework]) for page in PAGES}
    if README.exists():
        files[README] = filled(README.read_text(encoding="utf-8"), readme_rows(found))
    return files


def out_of_date(files: dict[Path, str]) -> list[Path]:
    """The files that hold something else. How wrong a sum in fp32 is depends on the processor: `~5` equals `~6`."""
    stale = []
    for path, text in files.items():
        held = path.read_text(encoding="utf-8") if path.exists() else ""
        if _comparable(held) != _comparable(text):
            stale.append(path)
    return stale


def _comparable(text: str) -> str:
    return re.sub(r"~[\d.e+-]+", "~", text)


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    checks = parser.parse_args(arguments).check
    files = wanted()
    stale = out_of_date(files)
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date: run make docs' if checks else 'written'}")
        if not checks:
            path.write_text(files[path], encoding="utf-8")
    return int(checks and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
