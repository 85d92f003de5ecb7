"""The command line. Every command is a function of the package; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gradclip import __version__

MISTAKE = 2
INTERRUPTED = 130
LARGEST_SEED = 2**32 - 1
DEMO_NEEDS = {
    "torch": ("torch", "numpy", "matplotlib", "rich"),
    "paddle": ("paddle", "numpy", "matplotlib", "rich"),
    "jax": ("jax", "optax", "numpy", "matplotlib", "rich"),
}


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code: 0 as described, 1 not as described, 2 a mistake in the call."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("gradclip: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`gradclip demo | head`): nobody is left to tell, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gradclip", description="Gradient clipping that is right, fast, and tells you what it did.")
    parser.add_argument("--version", action="version", version=f"gradclip {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_compare(commands)
    _add_methods(commands)
    _add_export(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train without and with clipping, side by side, and see the difference (about a minute)",
        description="Trains an exploding net and a character RNN without and with clipping, and shows what happened in "
        "a table, a sentence and a picture. Exit code 0: as described; 1: not, with the reasons.",
    )
    demo.add_argument(
        "--framework", choices=DEMO_NEEDS, default="torch", help="the framework to train in (default: torch)"
    )
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="the first seed (default: 0)")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the picture goes (default: here)")
    _add_json(demo)
    demo.set_defaults(command=_demo)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="train one task under several rules and see which is better; without a task, list them",
        description="Trains a task under several rules on the same seeds, and shows a table with the differences that "
        "are noise called so, and what became of the published claims.",
    )
    compare.add_argument(
        "task", nargs="?", metavar="TASK", help="for example char-lm; without it, the tasks are listed"
    )
    compare.add_argument(
        "--rules", nargs="+", metavar="RULE", help='such as none global:1 "zclip:z=2.5" (default: those of the task)'
    )
    compare.add_argument("--seeds", type=_count, default=5, metavar="N", help="how many (default: 5, from seed 0 on)")
    compare.add_argument("--out", type=Path, metavar="DIR", help="where TASK.json and TASK.png go (default: nowhere)")
    _add_json(compare)
    compare.set_defaults(command=_compare)


def _add_methods(commands: Any) -> None:
    methods = commands.add_parser(
        "methods",
        help="list the clipping methods, or explain one: formula, defaults, memory, source",
        description="Lists the clipping methods; with a NAME it explains one.",
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="for example ZClip")
    _add_json(methods)
    methods.set_defaults(command=_methods)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write the events of a run as CSV or JSON",
        description="Writes the events of a run, which jsonl(RUN) recorded, as a table or as one JSON document.",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", type=Path, metavar="FILE", help="write a table with a line for each step to FILE")
    _add_json(form)
    export.set_defaults(command=_export)


def _add_json(form: Any) -> None:
    form.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_SEED):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {LARGEST_SEED}, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    framework = options.framework
    if missing := [name for name in DEMO_NEEDS[framework] if importlib.util.find_spec(name) is None]:
        return _mistake(f'the demo needs {" and ".join(missing)}: pip install "gradclip[demo,{framework}]"', "demo")
    if wrong := _no_folder(options.out):
        return _mistake(wrong, "demo")
    from gradclip.experiments.show import show_demo

    return show_demo(framework, options.seed, options.out, as_json=options.json)


def _methods(options: argparse.Namespace) -> int:
    from gradclip import methods
    from gradclip.rules.catalogue import method_called
    from gradclip.rules.catalogue import methods as every

    try:
        chosen = None if options.name is None else method_called(options.name)
    except ValueError as error:
        return _mistake(str(error), "methods")
    if options.json:
        found = [methods.as_data(one) for one in every().values()] if chosen is None else methods.as_data(chosen)
        print(json.dumps(found, allow_nan=False))
    else:
        print(methods.overview() if chosen is None else methods.explanation(chosen))
    return 0


def _export(options: argparse.Namespace) -> int:
    from gradclip.telemetry.runs import as_csv, as_json, read_run

    try:
        events = read_run(options.run)
    except (OSError, ValueError) as error:
        return _mistake(str(error), "export")
    if options.json:
        print(as_json(events))
        return 0
    try:
        options.csv.write_text(as_csv(events), encoding="utf-8")
    except OSError as error:
        return _mistake(f"--csv {options.csv}: {error.strerror}; give a file that can be written", "export")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from gradclip.experiments.tasks import TASKS

    if options.task is None:
        print(_list_of_tasks(options.json))
        return 0
    if options.task not in TASKS:
        return _mistake(f"no task is called {options.task!r}: there are {', '.join(TASKS)}", "compare")
    if missing := [name for name in TASKS[options.task].needs if importlib.util.find_spec(name) is None]:
        return _mistake(f'{options.task} needs {" and ".join(missing)}: pip install "gradclip[demo,torch]"', "compare")
    if wrong := _wrong_rules(options.rules or ()) or _no_folder(options.out):
        return _mistake(wrong, "compare")
    from gradclip.experiments.show_comparison import show_comparison

    return show_comparison(options.task, options.rules, options.seeds, options.out, as_json=options.json)


def _list_of_tasks(as_json: bool) -> str:
    from gradclip.experiments.tasks import TASKS

    if as_json:
        return json.dumps({name: listed.title for name, listed in TASKS.items()})
    return "\n".join(f"{name:16}{listed.title}" for name, listed in TASKS.items())


def _wrong_rules(texts: Sequence[str]) -> str | None:
    """What is wrong with the texts of rules."""
    from gradclip.rules.text import rule_from_text

    try:
        for text in texts:
            rule_from_text(text)
    except ValueError as error:
        return f"--rules: {error}"
    return f"--rules: a rule is given twice in {' '.join(texts)}" if len(set(texts)) < len(texts) else None


def _no_folder(folder: Path | None) -> str | None:
    """What keeps a folder from being written, after it was made."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {folder}: {error.strerror}; give a folder that can be written"
    return None if os.access(folder, os.W_OK) else f"--out {folder}: cannot be written; give a folder that can be"


def _mistake(message: str, command: str) -> int:
    print(f"gradclip {command}: {message}", file=sys.stderr)
    return MISTAKE
