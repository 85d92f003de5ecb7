"""`gradclip watch`: an unchanged training script, recorded."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradclip.cli.common import MISTAKE, add_json, add_script, mistake, no_new_folder, no_script, script_in, wrong_rules
from gradclip.cli.help_text import told

UNSEEN = (
    "no optimizer of PyTorch made a step in sight, and of an update that the script writes itself, such as "
    "p.data.add_(p.grad, alpha=-lr), the norms are known only where it calls a clipping function"
)

EXAMPLES = (
    "gradclip watch train.py --epochs 3",
    "gradclip watch --out runs/clipped --rule global:1 train.py",
    "gradclip watch torchrun --nproc-per-node 2 train.py",
)
EXITS = {
    0: "the script ended well, and its steps are recorded",
    2: "the script ended well, but nothing was recorded; or a mistake in the call",
}
"""Any other code is that of the script."""


def add(commands: Any) -> None:
    watch = commands.add_parser(
        "watch",
        usage="gradclip watch [options] train.py [ARGUMENTS]\n"
        "       gradclip watch [options] -m MODULE [ARGUMENTS]\n"
        "       gradclip watch [options] PROGRAM [ARGUMENTS]",
        help="run your training script as it is and record its clipping",
        description="Runs a PyTorch training script that nobody changed, and the processes that it starts, and records "
        "the gradient norms of each optimizer and what the script's own clipping did. The exit code is that of the "
        "script, 2 where it is 0 and nothing was recorded. Options of gradclip stand before the script.",
        **told(EXAMPLES, EXITS),
    )
    watch.add_argument("--out", type=Path, metavar="RUN", help="the folder of the run (default: runs/NAME-TIME)")
    watch.add_argument(
        "--rule",
        metavar="RULE",
        help="clip by this rule instead of what the script clips by: none, global:1, zclip:z=2.5, any of `gradclip "
        "methods`; every optimizer gets it, each by itself. Clipping by code of the script's own, or in a compiled "
        "function, stays",
    )
    add_json(watch)
    add_script(watch, "train.py [ARGUMENTS]", "the script to run, or a program such as torchrun")
    watch.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.watch.launch import folder_for, run_watched

    script = script_in(options)
    if not script:
        return mistake("give a script to run: gradclip watch train.py", "watch")
    folder = options.out or folder_for(script)
    rules = [] if options.rule is None else [options.rule]
    if wrong := no_script(script, "watch") or wrong_rules(rules, "--rule") or no_new_folder(folder):
        return mistake(wrong, "watch")
    ended = run_watched(script, folder, options.steps, options.rule, sys.stderr if options.json else None)
    code = ended.code
    if not folder.is_dir():
        why = f"{folder} is a file" if folder.exists() else UNSEEN
        if options.json:
            print(json.dumps({"exit": code, "runs": {}}))
        print(f"gradclip watch: nothing was recorded: {why} (exit code {code})", file=sys.stderr)
        return -ended.signal or code or MISTAKE
    recorded = print_recorded(folder, code, options.json)
    return -ended.signal or code or (0 if recorded else MISTAKE)


def print_recorded(folder: Path, code: int, as_json: bool) -> bool:
    """Say what was recorded, what the doctor says of it, and what to do next; whether there is a step."""
    from gradclip.doctor.checkup import checked_runs, checkup_as_text

    try:
        checked = checked_runs(folder)
    except (OSError, ValueError) as error:
        print(f"gradclip watch: what was recorded cannot be read: {error} (exit code {code})", file=sys.stderr)
        return False
    recorded = any(one.run for one in checked)
    if as_json:
        runs = {
            str(run.path): {
                "steps": len(run),
                "clipped": sum(event.clipped for event in run),
                "verdict": asdict(verdict),
                "findings": [finding.to_dict() for finding in findings],
            }
            for run, findings, verdict, _ in checked
        }
        print(json.dumps({"exit": code, "runs": runs}))
        return recorded
    print(file=sys.stderr)
    for run in [one.run for one in checked]:
        print(f"gradclip: {len(run)} steps of {run.optimizer}: {run.path}", file=sys.stderr)
    if recorded:
        print(checkup_as_text(checked), file=sys.stderr)
        print(f"see it: gradclip report {shlex.quote(str(folder))}", file=sys.stderr)
    return recorded
