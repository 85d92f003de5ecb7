"""`gradclip demo`: training without and with clipping, side by side."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, mistake, no_folder
from gradclip.cli.help_text import told

LARGEST_SEED = 2**32 - 1
DEMO_NEEDS = {
    "torch": ("torch", "numpy", "matplotlib", "rich"),
    "paddle": ("paddle", "numpy", "matplotlib", "rich"),
    "jax": ("jax", "optax", "numpy", "matplotlib", "rich"),
}

EXAMPLES = (
    "gradclip demo",
    "gradclip demo --framework jax --out pictures",
    "gradclip demo --json",
)
EXITS = {0: "training went as described", 1: "it did not, with the reasons"}


def add(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="see training without and with clipping, side by side",
        description="Trains an exploding net and a character RNN without and with clipping, and shows what happened in "
        "a table, a sentence and a picture. It takes one to three minutes.",
        **told(EXAMPLES, EXITS),
    )
    demo.add_argument(
        "--framework", choices=DEMO_NEEDS, default="torch", help="the framework to train in (default: torch)"
    )
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="the first seed (default: 0)")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the picture goes (default: here)")
    add_json(demo)
    demo.set_defaults(command=run)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {LARGEST_SEED}, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    framework = options.framework
    if missing := [name for name in DEMO_NEEDS[framework] if importlib.util.find_spec(name) is None]:
        return mistake(f'the demo needs {" and ".join(missing)}: pip install "gradclip[demo,{framework}]"', "demo")
    if wrong := no_folder(options.out):
        return mistake(wrong, "demo")
    from gradclip.experiments.showing.demo_report import show_demo

    return show_demo(framework, options.seed, options.out, as_json=options.json)
