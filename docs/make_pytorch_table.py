"""Run PyTorch's clipping functions and gradclip's on the same inputs, and write down what each does.

    python docs/make_pytorch_table.py            write docs/where-pytorch-is-wrong.md, and the table in README.md
    python docs/make_pytorch_table.py --check    exit with 1 if they are out of date

What the functions do comes from the run. Which of them is right is a judgement, and stands next to the input.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch

import gradclip.torch
from pytorch_inputs import INPUTS, Input

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "where-pytorch-is-wrong.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- pytorch-table -->", "<!-- /pytorch-table -->"

INTRODUCTION = f"""# Where PyTorch's clipping is wrong, and where it is right

The functions of `torch.nn.utils` {torch.__version__.partition("+")[0]} and those of `gradclip.torch`, on the same
inputs on a CPU. `python docs/make_pytorch_table.py` runs them and writes this page. The limit is 1 where none is said;
"kept" means bit for bit as before; the norm is the one that is returned, measured before clipping. A number after `~`
depends on the processor.
"""


def rows() -> list[tuple[Input, str, str]]:
    """Each input, and what PyTorch and gradclip do with it."""
    return [(one, one.run(torch.nn.utils), one.run(gradclip.torch)) for one in INPUTS]


def page(found: list[tuple[Input, str, str]]) -> str:
    """The whole page."""
    version = ".".join(torch.__version__.split(".")[:2])
    lines = [
        INTRODUCTION,
        f"| input | PyTorch {version} does | gradclip does | which is right, and why |",
        "| --- | --- | --- | --- |",
        *[f"| {one.title} | {theirs} | {ours} | {one.why} |" for one, theirs, ours in found],
    ]
    return "\n".join(lines) + "\n"


def readme_rows(found: list[tuple[Input, str, str]]) -> str:
    """The most telling rows, as a table."""
    lines = ["| input | PyTorch does | gradclip does |", "| --- | --- | --- |"]
    lines += [f"| {one.title} | {theirs} | {ours} |" for one, theirs, ours in found if one.telling]
    return "\n".join(lines)


def filled(text: str, table: str) -> str:
    """`text` with `table` between its markers; as it is if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table}\n{end}{after}" if begin and end else text


def wanted() -> dict[Path, str]:
    """What the files should hold."""
    found = rows()
    files = {PAGE: page(found)}
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
