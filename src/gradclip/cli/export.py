"""`gradclip export`: the events of a run for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, mistake


def add(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write the events of a run as CSV or JSON",
        description="Writes the events of a run, which jsonl(RUN) recorded, as a table or as one JSON document.",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=Path, metavar="FILE", help="write a table with a line for each step to FILE")
    add_json(form)
    export.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.telemetry.runs import as_csv, as_json, read_run

    try:
        events = read_run(options.run)
    except (OSError, ValueError) as error:
        return mistake(str(error), "export")
    if options.json:
        print(as_json(events))
        return 0
    try:
        options.csv.write_text(as_csv(events), encoding="utf-8")
    except OSError as error:
        return mistake(f"--csv {options.csv}: {error.strerror}; give a file that can be written", "export")
    return 0
