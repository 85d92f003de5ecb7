"""Runs the demo for a person or for a machine: a table of every run, the bad ones too, and the exit code."""

from __future__ import annotations

import json
import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradclip.experiments.demo import SILENT, Demo, run_demo
from gradclip.experiments.showing.demo_picture import save_picture
from gradclip.experiments.showing.demo_progress import DemoProgress
from gradclip.experiments.showing.progress import print_plain
from gradclip.experiments.training import char_rnn, direction, exploding_net
from gradclip.experiments.training.framework import framework_called
from gradclip.experiments.training.training_run import TrainingRun, runs_of


def show_demo(framework_name: str, first_seed: int, folder: Path, *, as_json: bool) -> int:
    """Run, save the picture, say what happened; 0 if it was as described and 1 if not."""
    framework = framework_called(framework_name)
    console = Console(stderr=as_json)
    with DemoProgress(console, first_seed) as progress:
        followed = progress.has_bars or not as_json
        demo = run_demo(framework, first_seed, progress if followed else SILENT)
    return print_document(demo, folder) if as_json else print_report(demo, folder, console)


def print_document(demo: Demo, folder: Path) -> int:
    """The demo as one JSON document."""
    document = demo.to_json(str(save_picture(demo, folder)))
    print(json.dumps(document, allow_nan=False))
    return exit_code(demo)


def print_report(demo: Demo, folder: Path, console: Console) -> int:
    """The table, the sentence, the reasons if there are any, and where the picture is."""
    console.print()
    console.print(table(demo))
    print_plain(console, demo.sentence)
    for reason in demo.reasons:
        print_plain(console, f"not as described: {reason}", style="red")
    print_plain(console, f"\n{footnote(demo)}", style="dim")
    print_plain(console, f"picture: {save_picture(demo, folder)}", soft_wrap=True)
    return exit_code(demo)


def exit_code(demo: Demo) -> int:
    """0 where the runs ended as described, else 1."""
    return 1 if demo.reasons else 0


def footnote(demo: Demo) -> str:
    """What the numbers depend on."""
    numbers = ", ".join(f"{name} {version}" for name, version in demo.versions.items())
    text = f"{demo.language.characters} characters of {char_rnn.TEXT_SOURCE}"
    return f"a@k: the loss was a, not finite, at step k; {text}; {numbers}; {demo.seconds:.0f} s"


def table(demo: Demo) -> Table:
    """A row for each experiment and kind of clipping, a cell with one number for each seed."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("experiment", no_wrap=True)
    found.add_column("clipped", no_wrap=True)
    found.add_column(f"result, seed {demo.seed} and on")
    _add_seed(found, demo)
    _add_char_rnn(found, demo)
    _add_direction(found, demo)
    return found


def _add_seed(table: Table, demo: Demo) -> None:
    titles = iter((exploding_net.TITLE, "final loss"))
    for clipping in (exploding_net.WITHOUT, exploding_net.WITH):
        table.add_row(next(titles), clipping, _row(runs_of(demo.exploding.runs, clipping), exploding_net.ARRIVED))
    table.add_section()


def _add_char_rnn(table: Table, demo: Demo) -> None:
    language = demo.language
    titles = iter((char_rnn.TITLE, "bits/character", f"guessing: {language.guessing:.2f}", ""))
    for setup in char_rnn.SETUPS:
        table.add_row(next(titles), setup.clipping, _row(runs_of(language.runs, setup.clipping), language.guessing))
    table.add_section()


def _add_direction(table: Table, demo: Demo) -> None:
    titles = iter(("direction of", str(list(direction.GRADIENT))))
    for clipping, (first, second) in demo.direction.clipped.items():
        turned = demo.direction.turned(clipping)
        table.add_row(next(titles), clipping, f"[{first:.5f}, {second:.5f}], turned {turned:.0f}°")


def _row(runs: list[TrainingRun], bad: float) -> Text:
    cells = [Text(cell(run), style="red" if not run.end <= bad else "") for run in runs]
    return Text("  ").join(cells)


def cell(run: TrainingRun) -> str:
    """The end of a run in a few characters."""
    if run.broke_at is not None:
        return f"{run.steps[-1].loss:.3g}@{run.broke_at}"
    return f"{run.end:.2f}" if math.isfinite(run.end) and run.end < 100 else f"{run.end:.3g}"
