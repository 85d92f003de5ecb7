"""`gradclip export`: the events of a run for other programs."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, mistake, unread
from gradclip.cli.help_text import told

EXAMPLES = (
    "gradclip export runs/first --csv steps.csv",
    "gradclip export runs/first --parquet steps.parquet",
    "gradclip export runs/first --json",
)
EXITS = {0: "the events are written"}


def add(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="take a run to other programs: as CSV, Parquet or JSON",
        description="Writes the events of a run, which jsonl(RUN) recorded, as a table with a line for each step or as "
        "one JSON document.",
        **told(EXAMPLES, EXITS),
    )
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=Path, metavar="FILE", help="write the table to FILE as CSV")
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write the table to FILE as Parquet, typed")
    add_json(form)
    export.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.telemetry.export import as_csv, as_json, as_parquet
    from gradclip.telemetry.folder import write_whole
    from gradclip.telemetry.runs import read_run

    if options.parquet and importlib.util.find_spec("pyarrow") is None:
        return mistake('--parquet needs pyarrow: pip install "gradclip[parquet]"', "export")
    try:
        events = read_run(options.run)
    except (OSError, ValueError) as error:
        return mistake(unread(error, options.run), "export")
    if options.json:
        print(as_json(events).decode())
        return 0
    name, file = ("--parquet", options.parquet) if options.parquet else ("--csv", options.csv)
    try:
        write_whole(file, as_parquet(events) if options.parquet else as_csv(events))
    except ValueError as error:
        return mistake(str(error), "export")
    except OSError as error:
        return mistake(f"{name} {file}: {error.strerror}; give a file that can be written", "export")
    return 0
