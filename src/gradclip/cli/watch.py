"""`gradclip watch`: an unchanged training script, recorded."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, add_script, mistake, script_in, wrong_rules


def add(commands: Any) -> None:
    watch = commands.add_parser(
        "watch",
        usage="gradclip watch [--out RUN] [--rule RULE] [--steps N] [--json] "
        "(train.py [ARGUMENTS] | -m MODULE ... | PROGRAM ...)",
        help="run your training script as it is and record its clipping",
        description="Runs a PyTorch training script that nobody changed, and the processes that it starts, and records "
        "the gradient norms of each optimizer and what the script's own clipping did. The exit code is that of the "
        "script. Options of gradclip stand before the script: gradclip watch --out runs/first train.py --epochs 3; "
        "gradclip watch torchrun --nproc-per-node 2 train.py",
    )
    watch.add_argument("--out", type=Path, metavar="RUN", help="the folder of the run (default: runs/NAME-TIME)")
    watch.add_argument(
        "--rule",
        metavar="RULE",
        help="clip by this rule instead of what the script clips by: none, global:1, zclip:z=2.5, any of `gradclip "
        "methods`; every optimizer gets it, each by itself",
    )
    add_json(watch)
    add_script(watch, "train.py [ARGUMENTS]", "the script to run, or a program such as torchrun")
    watch.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.watch.launch import folder_for, run_watched

    script = script_in(options)
    if not script:
        return mistake("give a script to run: gradclip watch train.py", "watch")
    if wrong := missing(script, "watch"):
        return mistake(wrong, "watch")
    if wrong := wrong_rules([options.rule] if options.rule else [], "--rule"):
        return mistake(wrong, "watch")
    folder = options.out or folder_for(script)
    if folder.exists():
        return mistake(f"--out {folder}: there is something already; give a folder that is not there", "watch")
    if not os.access(next(place for place in folder.absolute().parents if place.exists()), os.W_OK):
        return mistake(f"--out {folder}: cannot be written; give a folder that can be", "watch")
    code = run_watched(script, folder, options.steps, options.json, options.rule)
    if not folder.exists():
        print(
            "gradclip watch: nothing was recorded: no optimizer of PyTorch made a step in sight",
            file=sys.stderr,
        )
        return code
    tell(folder, code, options.json)
    return code


def missing(command: Sequence[str], name: str) -> str | None:
    """What is not there of what is to be run."""
    first = command[0]
    if first.endswith(".py"):
        if not Path(first).is_file():
            return f"there is no script {first}"
    elif not first.startswith("-") and shutil.which(first) is None:
        return f"{first} is neither a script, a run nor a program: gradclip {name} train.py"
    if importlib.util.find_spec("torch") is None:
        return 'PyTorch is not installed in this Python: pip install "gradclip[torch]"'
    return None


def tell(folder: Path, code: int, as_json: bool) -> None:
    """Say what was recorded, what the doctor says of it, and what to do next."""
    from gradclip.doctor import diagnose
    from gradclip.doctor.words import told
    from gradclip.telemetry.runs import folders_of, read_run

    runs, findings = [read_run(place) for place in folders_of(folder)], diagnose(folder)
    if as_json:
        counts = {str(run.path): {"steps": len(run), "clipped": sum(event.clipped for event in run)} for run in runs}
        print(json.dumps({"exit": code, "runs": counts, "findings": [one.to_dict() for one in findings]}))
        return
    print(file=sys.stderr)
    for run in runs:
        rate = sum(event.clipped for event in run) / max(1, len(run))
        optimizer = run.about["script"]["optimizer"]
        print(f"gradclip: {len(run)} steps of {optimizer}, {rate:.0%} of them clipped: {run.path}", file=sys.stderr)
    print(told(findings), file=sys.stderr)
    print(f"see it: gradclip report {folder}", file=sys.stderr)
