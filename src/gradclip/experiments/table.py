"""The one table at the end of the demo: every run, the bad ones too."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from rich.text import Text

from gradclip.experiments import char_rnn, direction, seed
from gradclip.experiments.demo import Demo
from gradclip.experiments.run import Run, runs_of


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
    titles = iter((seed.TITLE, "final loss"))
    for clipping in (seed.WITHOUT, seed.WITH):
        table.add_row(next(titles), clipping, _row(runs_of(demo.exploding.runs, clipping), seed.ARRIVED))
    table.add_section()


def _add_char_rnn(table: Table, demo: Demo) -> None:
    language = demo.language
    titles = iter((char_rnn.TITLE, "bits/character", f"guessing: {language.guessing:.2f}", ""))
    for trial in char_rnn.TRIALS:
        table.add_row(next(titles), trial.clipping, _row(runs_of(language.runs, trial.clipping), language.guessing))
    table.add_section()


def _add_direction(table: Table, demo: Demo) -> None:
    titles = iter(("direction of", str(list(direction.GRADIENT))))
    for clipping, (first, second) in demo.direction.clipped.items():
        turned = demo.direction.turned(clipping)
        table.add_row(next(titles), clipping, f"[{first:.5f}, {second:.5f}], turned {turned:.0f}°")


def _row(runs: list[Run], bad: float) -> Text:
    cells = [Text(cell(run), style="red" if not run.end <= bad else "") for run in runs]
    return Text("  ").join(cells)


def cell(run: Run) -> str:
    """The end of a run in a few characters."""
    if run.broke_at is not None:
        return f"{run.steps[-1].loss:.3g}@{run.broke_at}"
    return f"{run.end:.2f}" if math.isfinite(run.end) and run.end < 100 else f"{run.end:.3g}"
