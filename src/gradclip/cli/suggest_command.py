"""`gradclip suggest`: a threshold for the next run, from one that was recorded or by trying."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradclip.cli.common import (
    add_accept,
    add_json,
    add_script,
    count,
    is_run,
    mistake,
    no_new_folder,
    no_script,
    script_in,
    unknown_finding,
    unread,
    with_run_last,
)
from gradclip.cli.help_text import told

if TYPE_CHECKING:
    from gradclip.advice.trainings import TrialsResult

TRIALS = 10

EXAMPLES = (
    "gradclip suggest runs/first",
    "gradclip suggest --steps 100 --trials 4 train.py --epochs 3",
    "gradclip suggest --metric accuracy --maximize --trials 4 train.py",
)
EXITS = {
    0: "there is a proposal, or clipping is best left as it is",
    1: "the run is not enough for a proposal, or every training broke",
    2: "a mistake in the call, or the script cannot be tried",
    130: "interrupted: what the trainings that had ended have shown is said",
}


def add(commands: Any) -> None:
    suggest = commands.add_parser(
        "suggest",
        usage="gradclip suggest [--accept ID] [--json] RUN\n"
        "       gradclip suggest [options] train.py [ARGUMENTS]\n"
        "       gradclip suggest [options] -m MODULE [ARGUMENTS]\n"
        "       gradclip suggest [options] PROGRAM [ARGUMENTS]",
        help="get a threshold for your next run, with the reasons",
        description="Proposes a threshold. From a RUN, which `gradclip watch` or jsonl(RUN) recorded, by its norms "
        "before clipping. For a script (or -m MODULE ..., or a program such as torchrun) by trial: it is trained as it "
        "is and then under other thresholds, up to N of them, and the one with the lowest training loss at the end is "
        "proposed, or with the best --metric. The script runs some six times in this folder, with two seeds each where "
        "it has the option --seed: seed it, and let it not go on from a checkpoint.",
        **told(EXAMPLES, EXITS),
    )
    suggest.add_argument("--out", type=Path, metavar="DIR", help="where trainings are recorded (default: runs/...)")
    suggest.add_argument(
        "--trials", type=count, default=TRIALS, metavar="N", help=f"how many thresholds at most (default: {TRIALS})"
    )
    suggest.add_argument(
        "--metric",
        metavar="NAME",
        help="judge by this number instead of the training loss: a name that the script prints before a number, or "
        "tells gradclip.metric or a logger (TensorBoard, W&B), a regular expression with a group for the number, or "
        "FILE:NAME for a column of a CSV or a name in a JSON file; the last tenth of its values counts",
    )
    suggest.add_argument("--maximize", action="store_true", help="a higher metric is better")
    suggest.add_argument(
        "--seeds", type=count, metavar="N", help="how many seeds per threshold (default: 2 where there is a --seed)"
    )
    add_json(suggest)
    add_accept(suggest)
    add_script(suggest, "RUN | train.py [ARGUMENTS]", "a recorded run, or the script to train")
    suggest.set_defaults(command=run, form=suggest)


def run(options: argparse.Namespace) -> int:
    options = with_run_last(options)
    given = script_in(options)
    if not given:
        return mistake("give a run to read, or a script to train: gradclip suggest RUN", "suggest")
    if wrong := unknown_finding(options.accept):
        return mistake(wrong, "suggest")
    if not is_run(given[0]):
        return by_trial(options, given)
    if given[1:]:
        return mistake(f"one run at a time, got {' '.join(given)}", "suggest")
    if options.out or options.steps or options.trials != TRIALS or options.metric or options.maximize or options.seeds:
        return mistake(
            "--out, --trials, --steps, --metric and --seeds are for a script; a run is read as it is", "suggest"
        )
    return from_run(Path(given[0]), options.accept, options.json)


def from_run(folder: Path, accept: list[str], as_json: bool) -> int:
    """Say what the norms of a run suggest, for each optimizer of it."""
    from gradclip.advice.suggestion import suggest
    from gradclip.advice.wording import suggestion_as_text
    from gradclip.doctor.diagnosis import mistakes_in, runs_in

    try:
        runs = runs_in(folder)
        mistakes = list(map(len, mistakes_in(runs, accept)))
    except (OSError, ValueError) as error:
        return mistake(unread(error, folder), "suggest")
    names = [run.optimizer if len(runs) == 1 else f"{run.optimizer}, {run.path}" for run in runs]
    found = dict(zip(names, map(suggest, runs, mistakes), strict=True))
    if as_json:
        every = [{"optimizer": optimizer, **one.to_dict()} for optimizer, one in found.items()]
        print(json.dumps(every[0] if len(every) == 1 else {"optimizers": every}, allow_nan=False))
    elif len(runs) == 1:
        print(*map(suggestion_as_text, found.values()))
    else:
        print("\n\n".join(f"{optimizer}\n{suggestion_as_text(one)}" for optimizer, one in found.items()))
    return 0 if any(one.leave or one.rule is not None for one in found.values()) else 1


def by_trial(options: argparse.Namespace, script: list[str]) -> int:
    """Say which threshold trains a script best."""
    from gradclip.advice.metric import ScriptMetric
    from gradclip.advice.trainings import TrialsStopped, seeds_for, threshold_by_trial
    from gradclip.cli.trials_progress import TrialsProgress
    from gradclip.watch.launch import folder_for

    if options.maximize and options.metric is None:
        return mistake("--maximize is about a metric: give its name with --metric", "suggest")
    folder = options.out or folder_for(script)
    if wrong := no_script(script, "suggest") or no_new_folder(folder):
        return mistake(wrong, "suggest")
    try:
        metric = None if options.metric is None else ScriptMetric.of(options.metric, options.maximize)
        most = (options.trials + 1) * len(seeds_for(script, options.seeds or 0))
        with TrialsProgress(folder, most) as progress:
            found = threshold_by_trial(
                script, folder, options.steps, options.trials, progress.training, metric, options.seeds or 0
            )
    except ValueError as error:
        return mistake(str(error), "suggest")
    except OSError as error:
        return mistake(f"{error.filename}: {error.strerror}", "suggest")
    except TrialsStopped as stopped:
        print_trials(stopped.found, options.json, interrupted=True)
        raise
    print_trials(found, options.json)
    return 1 if found.broken or found.unclear else 0


def print_trials(found: TrialsResult, as_json: bool, interrupted: bool = False) -> None:
    """Say what trying has found, so far as it went."""
    from gradclip.advice.wording import trials_as_text

    if as_json:
        print(json.dumps({**found.to_dict(), "interrupted": interrupted}, allow_nan=False), flush=True)
        return
    if interrupted:
        print(f"interrupted after {len(found.trainings)} trainings, which have shown so far:", flush=True)
    print(trials_as_text(found), flush=True)
