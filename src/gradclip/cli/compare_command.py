"""`gradclip compare`: one task trained under several rules."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from gradclip.cli.common import add_json, count, mistake, no_folder, unread, wrong_rules
from gradclip.cli.help_text import told
from gradclip.errors import UnsuitedRule

EXAMPLES = (
    "gradclip compare",
    "gradclip compare bias --rules none global:1 --seeds 2",
    'gradclip compare char-lm --rules none "zclip:z=2.5" --out compared',
    "gradclip compare bias --rules none global:1 --seeds 10 --out compared --resume",
)
EXITS = {
    0: "the rules are compared, whichever is best",
    130: "interrupted: the seeds that every rule had trained on are compared; with --out, go on with --resume",
}


def add(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="see which of several rules trains a task best",
        description="Trains a task under several rules on the same seeds, and shows what each is worth, by how much it "
        "differs from the first one, with intervals and chances that are corrected for the number of rules, which "
        "differences are noise, and what became of the published claims.",
        **told(EXAMPLES, EXITS),
    )
    compare.add_argument(
        "task", nargs="?", metavar="TASK", help="for example char-lm; without it, the tasks are listed"
    )
    compare.add_argument(
        "--rules", nargs="+", metavar="RULE", help='such as none global:1 "zclip:z=2.5" (default: those of the task)'
    )
    compare.add_argument("--seeds", type=count, default=5, metavar="N", help="how many (default: 5, from seed 0 on)")
    compare.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where TASK.json and TASK.png go, and each run as it ends (default: nowhere)",
    )
    compare.add_argument(
        "--resume", action="store_true", help="go on from what DIR has, and train what is missing of rules and seeds"
    )
    add_json(compare)
    compare.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip.experiments.tasks.titles import TITLES

    if options.task is None:
        print(_list_of_tasks(options.json))
        return 0
    if options.task not in TITLES:
        return mistake(f"no task is called {options.task!r}: there are {', '.join(TITLES)}", "compare")
    if missing := [name for name in TITLES[options.task].needs if importlib.util.find_spec(name) is None]:
        return mistake(f'{options.task} needs {" and ".join(missing)}: pip install "gradclip[demo,torch]"', "compare")
    if options.resume and options.out is None:
        return mistake("--resume goes on from what is in a folder: give it with --out DIR", "compare")
    if wrong := wrong_rules(options.rules or ()) or no_folder(options.out):
        return mistake(wrong, "compare")
    from gradclip.experiments.showing.comparison_report import kept_in, show_comparison

    task, rules, seeds, out = options.task, options.rules, options.seeds, options.out
    try:
        kept = None if out is None else kept_in(out, task, rules, resume=options.resume)
    except (OSError, ValueError) as error:
        return mistake(unread(error, out), "compare")
    try:
        return show_comparison(task, rules, seeds, out, as_json=options.json, kept=kept)
    except UnsuitedRule as error:
        return mistake(f"{task} cannot be trained by one of the rules: {error}", "compare")


def _list_of_tasks(as_json: bool) -> str:
    from gradclip.experiments.tasks.titles import TITLES

    if as_json:
        return json.dumps({name: listed.title for name, listed in TITLES.items()})
    return "\n".join(f"{name:16}{listed.title}" for name, listed in TITLES.items())
