"""`gradclip doctor`: what is wrong with the clipping of a script or of a run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradclip.cli.common import (
    add_accept,
    add_json,
    add_script,
    is_run,
    mistake,
    no_script,
    script_in,
    unknown_finding,
    unread,
    with_run_last,
)
from gradclip.cli.help_text import told

EXAMPLES = (
    "gradclip doctor train.py --epochs 1",
    "gradclip doctor runs/first",
    "gradclip doctor --versions",
)
EXITS = {
    0: "nothing is wrong, or all that is found is accepted",
    1: "something is wrong: with the clipping, or the training broke",
    2: "a mistake in the call, or the script did not train",
}


def add(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        usage="gradclip doctor [--accept ID] [--steps N] [--json] train.py [ARGUMENTS]\n"
        "       gradclip doctor [--accept ID] [--steps N] [--json] -m MODULE [ARGUMENTS]\n"
        "       gradclip doctor [--accept ID] [--json] RUN\n"
        "       gradclip doctor --versions [--json]",
        help="find what is wrong with your clipping, where, and the cure",
        description="Runs an unchanged PyTorch training script (or takes a run that `gradclip watch` or telemetry "
        "recorded), and names what is wrong with its clipping, where, since which step, and the cure.",
        **told(EXAMPLES, EXITS),
    )
    add_accept(doctor)
    add_json(doctor)
    doctor.add_argument(
        "--versions",
        action="store_true",
        help="print what gradclip runs on, which engines clip here and what the others need: for a report of an error",
    )
    add_script(doctor, "train.py [ARGUMENTS] | RUN", "the script to run, a program such as torchrun, or a recorded run")
    doctor.set_defaults(command=run, form=doctor)


def run(options: argparse.Namespace) -> int:
    options = with_run_last(options)
    script = script_in(options)
    if options.versions and script:
        return mistake(f"--versions is about this Python and not about {script[0]}: leave one out", "doctor")
    if options.versions:
        return print_versions(options.json)
    if not script:
        return mistake("give a script to run, or a run to read: gradclip doctor train.py", "doctor")
    if wrong := unknown_finding(options.accept):
        return mistake(wrong, "doctor")
    from gradclip.doctor.accepted import accepted_here

    try:
        accepted_here()
    except ValueError as error:
        return mistake(str(error), "doctor")
    if is_run(script[0]) and script[1:]:
        return mistake(f"one run at a time, got {' '.join(script)}", "doctor")
    if is_run(script[0]) and options.steps:
        return mistake("--steps is for a script; a run is read as it is", "doctor")
    if is_run(script[0]):
        return print_findings(Path(script[0]), options.accept, options.json)
    from gradclip.watch.launch import run_watched

    if wrong := no_script(script, "doctor"):
        return mistake(wrong, "doctor")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        code, died_of, asked = run_watched(script, place, options.steps, output=sys.stderr if options.json else None)
        found = print_findings(place, options.accept, options.json) if place.exists() else None
        if asked or died_of == signal.SIGINT:
            raise KeyboardInterrupt(asked or signal.SIGINT)
        if found is None:
            return mistake(
                f"the script made no optimizer step (its exit code: {code}): there is nothing to say", "doctor"
            )
        return found or (mistake(f"the script itself ended with {code}", "doctor") if code else found)


def print_findings(place: Path, accept: list[str], as_json: bool) -> int:
    """Say what is wrong with the run in `place`, or the verdict on it."""
    from gradclip.doctor.checkup import checked_runs, checkup_as_text

    try:
        checked = checked_runs(place, accept)
    except (OSError, ValueError) as error:
        return mistake(unread(error, place), "doctor")
    if as_json:
        findings = [finding.to_dict() for one in checked for finding in one.findings]
        verdicts = {str(one.run.path): asdict(one.verdict) for one in checked}
        print(json.dumps({"findings": findings, "verdicts": verdicts}))
    else:
        print(checkup_as_text(checked))
    sick = any(one.is_sick for one in checked)
    return 2 if not sick and all(one.verdict.kind == "empty" for one in checked) else int(sick)


def print_versions(as_json: bool) -> int:
    """Say what gradclip runs on, and then of each engine whether it clips, as soon as that is known."""
    from gradclip.doctor.installation import engine_as_text, engines, installation, installation_as_text

    found = installation()
    if as_json:
        print(json.dumps({**asdict(found), "engines": [asdict(engine) for engine in engines()]}))
        return 0
    print(installation_as_text(found), flush=True)
    for engine in engines():
        print(engine_as_text(engine), flush=True)
    return 0
