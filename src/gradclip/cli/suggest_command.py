"""`gradclip suggest`: a threshold for the next run, from one that was recorded or by trying."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradclip.cli.common import (
    add_json,
    add_script,
    count,
    is_run,
    mistake,
    no_new_folder,
    no_script,
    script_in,
    with_run_last,
)

if TYPE_CHECKING:
    from gradclip.advice.suggestion import Suggestion
    from gradclip.advice.trainings import Training, TrialsResult

WIDTH = 100
TRIALS = 10


def add(commands: Any) -> None:
    suggest = commands.add_parser(
        "suggest",
        usage="gradclip suggest [--json] (RUN | [--out DIR] [--trials N] [--steps N] train.py [ARGUMENTS])",
        help="get a threshold for your next run, with the reasons",
        description="Proposes a threshold. From a RUN, which `gradclip watch` or jsonl(RUN) recorded, by its norms "
        "before clipping. For a script (or -m MODULE ..., or a program such as torchrun) by trial: it is trained as it "
        "is and then under other thresholds, up to N of them, and the one with the lowest training loss at the end is "
        "proposed. The script runs some six times in this folder: seed it, and let it not go on from a checkpoint. "
        "Exits with 0 if there is a proposal or clipping is best left as it is, with 1 if the run is not enough for "
        "one, or every training broke.",
    )
    suggest.add_argument("--out", type=Path, metavar="DIR", help="where trainings are recorded (default: runs/...)")
    suggest.add_argument(
        "--trials", type=count, default=TRIALS, metavar="N", help=f"how many thresholds at most (default: {TRIALS})"
    )
    add_json(suggest)
    add_script(suggest, "RUN | train.py [ARGUMENTS]", "a recorded run, or the script to train")
    suggest.set_defaults(command=run, form=suggest)


def run(options: argparse.Namespace) -> int:
    options = with_run_last(options)
    given = script_in(options)
    if not given:
        return mistake("give a run to read, or a script to train: gradclip suggest RUN", "suggest")
    if not is_run(given[0]):
        return by_trial(options, given)
    if given[1:]:
        return mistake(f"one run at a time, got {' '.join(given)}", "suggest")
    if options.out or options.steps or options.trials != TRIALS:
        return mistake("--out, --trials and --steps are for a script; a run is read as it is", "suggest")
    return from_run(Path(given[0]), options.json)


def from_run(folder: Path, as_json: bool) -> int:
    """Say what the norms of a run suggest, for each optimizer of it."""
    from gradclip.advice.suggestion import suggest
    from gradclip.doctor.diagnosis import mistakes_in, runs_in

    try:
        runs = runs_in(folder)
        mistakes = list(map(len, mistakes_in(runs)))
    except (OSError, ValueError) as error:
        return mistake(str(error), "suggest")
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
    from gradclip.advice.trainings import threshold_by_trial
    from gradclip.watch.launch import folder_for

    folder = options.out or folder_for(script)
    if wrong := no_script(script, "suggest") or no_new_folder(folder):
        return mistake(wrong, "suggest")
    try:
        found = threshold_by_trial(script, folder, options.steps, options.trials, print_training)
    except ValueError as error:
        return mistake(str(error), "suggest")
    except OSError as error:
        return mistake(f"{error.filename}: {error.strerror}", "suggest")
    print(json.dumps(found.to_dict(), allow_nan=False) if options.json else trials_as_text(found))
    return 1 if found.broken else 0


def print_training(training: Training) -> None:
    """Say how a training ended, as soon as it has."""
    broke = f", exit code {training.exit}" if training.exit else ""
    print(f"{training.rule or 'as it is':20}loss {training.loss:<12.5g}{training.steps} steps{broke}", file=sys.stderr)


def trials_as_text(found: TrialsResult) -> str:
    """What trying has found, for a terminal."""
    best, as_it_is = found.best, found.as_it_is
    if found.broken:
        return "no proposal: no training ended at a finite loss\n" + "\n".join(
            labelled("see it", f"{as_it_is.path}.log")
        )
    lines = [found.expression or "leave it as it is: no threshold that was tried trains better by more than noise"]
    if found.expression is not None:
        lines += labelled("in PyTorch", f"gradclip.attach(optimizer, gradclip.{found.expression})")
    under = f" under {best.rule}" if found.leave and best.rule else ""
    lines += labelled("loss", f"{best.loss:.5g} at the end{under}, {as_it_is.loss:.5g} as it is")
    lines += labelled("mind", "this is the training loss of one training each: see that your validation metric agrees")
    if found.optimizers > 1:
        lines += labelled(
            "mind", f"each of {found.optimizers} optimizers got the rule by itself; the loss is the first's"
        )
    if found.at_edge and not found.leave:
        lines += labelled("mind", f"the best is the {found.at_edge} threshold of all: look further with more --trials")
    if len({training.steps for training in (as_it_is, best)}) > 1:
        lines += labelled("mind", f"these trainings have {best.steps} and {as_it_is.steps} steps")
    paths = " ".join(dict.fromkeys(shlex.quote(str(training.path)) for training in (as_it_is, best)))
    return "\n".join([*lines, *labelled("see it", f"gradclip report {paths}")])


def suggestion_as_text(found: Suggestion) -> str:
    """A suggestion for a terminal: what to paste, then the reasons."""
    lines = ["leave it as it is if training goes well"] if found.leave else []
    if found.expression is not None:
        lines += [f"otherwise {found.expression}" if found.leave else found.expression]
        lines += labelled("in PyTorch", f"gradclip.attach(optimizer, gradclip.{found.expression})")
        part = f", {found.clip_rate:.1%} of the {found.warm} {part_of(found)}" if found.warm < found.steps else ""
        lines += labelled("clip rate", f"{found.whole_rate:.1%} of all {found.steps} steps{part}")
        if found.low is not None:
            lines += labelled("range", f"{found.low:g} to {found.high:g} for the threshold, with a confidence of 90 %")
    elif not found.leave:
        lines += ["no proposal"]
    lines += labelled("why", found.reason)
    return "\n".join(lines + [line for caveat in found.caveats for line in labelled("mind", caveat)])


def part_of(found: Suggestion) -> str:
    """Which steps a suggestion is taken from, where not from all."""
    return f"after the first {found.warmup}" if found.warmup else "before the norms ran away"


def labelled(name: str, text: str) -> list[str]:
    """A line with a name in front, and as many more as the text needs."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:12}", subsequent_indent=" " * 14, break_on_hyphens=False)
