"""`gradclip suggest`: a threshold for the next run, from one that was recorded."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradclip.cli.common import add_json, mistake

if TYPE_CHECKING:
    from gradclip.advice.suggest import Suggestion

WIDTH = 100


def add(commands: Any) -> None:
    suggest = commands.add_parser(
        "suggest",
        help="get a threshold for your next run, with the reasons",
        description="Proposes a threshold from the norms before clipping of a run, which jsonl(RUN) recorded. Exits "
        "with 0 if there is a proposal or the run is best left as it is, with 1 if the run is not enough for one.",
    )
    suggest.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    add_json(suggest)
    suggest.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.advice.suggest import suggest
    from gradclip.telemetry.runs import read_run

    try:
        events = read_run(options.run)
    except (OSError, ValueError) as error:
        return mistake(str(error), "suggest")
    found = suggest(events)
    print(json.dumps(found.to_dict(), allow_nan=False) if options.json else told(found))
    return 0 if found.leave or found.rule is not None else 1


def told(found: Suggestion) -> str:
    """A suggestion for a terminal: what to paste, then the reasons."""
    lines = ["leave it as it is if training goes well"] if found.leave else []
    if found.expression is not None:
        lines += [f"otherwise {found.expression}" if found.leave else found.expression]
        lines += row("in PyTorch", f"gradclip.attach(optimizer, gradclip.{found.expression})")
        lines += row("clip rate", f"{found.clip_rate:.1%} of the {found.warm} steps that it is taken from")
        if found.low is not None:
            lines += row("range", f"{found.low:g} to {found.high:g} for the threshold, with a confidence of 90 %")
    elif not found.leave:
        lines += ["no proposal"]
    lines += row("why", found.reason)
    return "\n".join(lines + [line for caveat in found.caveats for line in row("mind", caveat)])


def row(name: str, text: str) -> list[str]:
    """A line with a name in front, and as many more as the text needs."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:12}", subsequent_indent=" " * 14, break_on_hyphens=False)
