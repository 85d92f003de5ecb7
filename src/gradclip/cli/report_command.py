"""`gradclip report`: what the clipping of a run did, as a page, as text or as one document."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradclip.cli.common import add_accept, add_json, mistake, unknown_finding, unread
from gradclip.cli.help_text import told

if TYPE_CHECKING:
    from gradclip.telemetry.runs import Run

PAGE = "report.html"
NEEDS = ("jinja2", "plotly")

EXAMPLES = (
    "gradclip report runs/first",
    "gradclip report runs/first runs/second --out both.html",
    "gradclip report runs/first --text",
)
EXITS = {0: "the report is written, whatever its verdict"}


def add(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="see on a page with charts whether clipping helps your run",
        description="Writes one HTML page about a recorded run, which needs no network: a verdict in one sentence, the "
        "norms and the loss over the steps, the layers, the worst steps and parameters, and other rules replayed. "
        "Several runs stand side by side, and their losses say which trained better.",
        **told(EXAMPLES, EXITS),
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, or its events.jsonl")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--out", type=Path, metavar="FILE.html", help=f"where the page goes (default: RUN/{PAGE})")
    form.add_argument("--text", action="store_true", help="print the report instead of writing a page")
    add_json(form)
    add_accept(report)
    report.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.doctor.accepted import accepted_here
    from gradclip.telemetry.runs import folders_of, read_run

    if wrong := unknown_finding(options.accept):
        return mistake(wrong, "report")
    try:
        accepted_here()  # settings that cannot be read are said before anything else
        every = [read_run(folder) for path in options.runs for folder in folders_of(path)]
        runs = list({run.path.resolve(): run for run in every}.values())
    except (OSError, ValueError) as error:
        return mistake(unread(error, " ".join(map(str, options.runs))), "report")
    if options.json or options.text:
        _print(runs, options.accept, as_json=options.json)
        return 0
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        needs = f'the page needs {" and ".join(missing)}: pip install "gradclip[report]", or call it with --text'
        return mistake(needs, "report")
    return _write(runs, options.out or runs[0].path / PAGE, options.accept)


def _print(runs: list[Run], accept: list[str], *, as_json: bool) -> None:
    from gradclip.report import compare_losses, summarise
    from gradclip.report.terminal_report import in_colour, text

    summaries = summarise(runs, accept)
    if as_json:
        comparison = compare_losses(summaries)
        document = {
            "runs": [summary.to_dict() for summary in summaries],
            "comparison": comparison and asdict(comparison),
        }
        print(json.dumps(document, allow_nan=False))
    else:
        print(text(summaries, colours=in_colour()))


def _write(runs: list[Run], path: Path, accept: list[str]) -> int:
    from gradclip.report import compare_losses, write_report
    from gradclip.report.terminal_report import named

    try:
        summaries = write_report(runs, path, accept)
    except OSError as error:
        return mistake(f"--out {path}: {error.strerror}; give a file that can be written", "report")
    if comparison := compare_losses(summaries):
        print(comparison.sentence)
    for summary in summaries:
        print(f"{named(summary)}: {summary.verdict.sentence}" if len(summaries) > 1 else summary.verdict.sentence)
    print(f"written: {path}")
    return 0
