"""`gradclip methods`: the list of methods, or one explained; as text for a terminal, or as data."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from typing import Any

from gradclip.cli.common import add_json, mistake
from gradclip.cli.help_text import told
from gradclip.rules.catalogue import Method, method_called, methods

WIDEST = 100

EXAMPLES = ("gradclip methods", "gradclip methods zclip", "gradclip methods AGC --json")
EXITS = {0: "done"}


def add(commands: Any) -> None:
    form = commands.add_parser(
        "methods",
        help="list the clipping methods, or have one explained",
        description="Lists the clipping methods; with a NAME it explains one.",
        **told(EXAMPLES, EXITS),
    )
    form.add_argument("name", nargs="?", metavar="NAME", help="for example ZClip")
    add_json(form)
    form.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    try:
        chosen = None if options.name is None else method_called(options.name)
    except ValueError as error:
        return mistake(str(error), "methods")
    if options.json:
        found = list(map(as_data, methods().values())) if chosen is None else as_data(chosen)
        print(json.dumps(found, allow_nan=False))
    else:
        print(overview() if chosen is None else explanation(chosen))
    return 0


def overview() -> str:
    """A line for each method: its name and what it does."""
    known = methods()
    indent = max(map(len, known)) + 2
    lines = [_wrapped(method.law, indent, name.ljust(indent)) for name, method in known.items()]
    return "\n".join([*lines, "", "`gradclip methods NAME` explains one; each is gradclip.NAME(...) in Python"])


def explanation(method: Method) -> str:
    """Everything that is known of a method."""
    stages = method.coordinates
    parts = [
        f"gradclip.{method.signature}",
        "",
        _wrapped(method.law, 0),
        "",
        _labelled("formula", method.formula),
        _labelled("the rule", repr(method.rule)),
        *(
            _labelled(f"stage {number}" if len(stages) > 1 else "", _stage(each))
            for number, each in enumerate(stages, 1)
        ),
        _labelled("remembers", method.state),
        _labelled("source", method.source),
        *(_labelled(f"differs ({number})", text) for number, text in enumerate(method.differences, 1)),
        *([_labelled("mind", method.mind)] if method.mind else []),
    ]
    return "\n".join(parts)


def as_data(method: Method) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "name": method.name,
        "signature": method.signature,
        "law": method.law,
        "formula": method.formula,
        "rule": method.rule.to_dict(),
        "sentence": repr(method.rule),
        "stages": method.coordinates,
        "remembers": method.state,
        "source": method.source,
        "differs": method.differences,
        "mind": method.mind or None,
    }


def _stage(stage: dict[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in stage.items() if name != "threshold")


def _labelled(label: str, text: str) -> str:
    return _wrapped(text, 13, label.ljust(13))


def _wrapped(text: str, indent: int, first: str = "") -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)
