"""Runs the demo for a person or for a machine, and gives the exit code."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from gradclip.experiments.char_rnn import TEXT_SOURCE
from gradclip.experiments.demo import Demo, Silent, run_demo
from gradclip.experiments.framework import Framework, framework_called
from gradclip.experiments.picture import save_picture
from gradclip.experiments.table import table
from gradclip.experiments.terminal import Terminal


def show_demo(framework_name: str, first_seed: int, folder: Path, *, as_json: bool) -> int:
    """Run, save the picture, say what happened; 0 if it was as described and 1 if not."""
    framework = framework_called(framework_name)
    if as_json:
        return print_document(run_demo(framework, first_seed, Silent()), folder)
    return _for_people(framework, first_seed, folder)


def _for_people(framework: Framework, first_seed: int, folder: Path) -> int:
    console = Console()
    with Terminal(console, first_seed) as terminal:
        demo = run_demo(framework, first_seed, terminal)
    return print_report(demo, folder, console)


def print_document(demo: Demo, folder: Path) -> int:
    """The demo as one JSON document."""
    document = demo.to_json(str(save_picture(demo, folder)))
    print(json.dumps(document, allow_nan=False))
    return exit_code(demo)


def print_report(demo: Demo, folder: Path, console: Console) -> int:
    """The table, the sentence, the reasons if there are any, and where the picture is."""
    console.print()
    console.print(table(demo))
    console.print(demo.sentence, highlight=False, markup=False)
    for reason in demo.reasons:
        console.print(f"not as described: {reason}", style="red", highlight=False, markup=False)
    console.print(f"\n{footnote(demo)}", style="dim", highlight=False, markup=False)
    console.print(f"picture: {save_picture(demo, folder)}", highlight=False, markup=False, soft_wrap=True)
    return exit_code(demo)


def exit_code(demo: Demo) -> int:
    """0 where the runs ended as described, else 1."""
    return 1 if demo.reasons else 0


def footnote(demo: Demo) -> str:
    """What the numbers depend on."""
    numbers = ", ".join(f"{name} {version}" for name, version in demo.versions.items())
    text = f"{demo.language.characters} characters of {TEXT_SOURCE}"
    return f"a@k: the loss was a, not finite, at step k; {text}; {numbers}; {demo.seconds:.0f} s"
