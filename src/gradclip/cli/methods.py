"""`gradclip methods`: the list of methods, or one explained."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gradclip.cli.common import add_json, mistake


def add(commands: Any) -> None:
    methods = commands.add_parser(
        "methods",
        help="list the clipping methods, or have one explained",
        description="Lists the clipping methods; with a NAME it explains one.",
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="for example ZClip")
    add_json(methods)
    methods.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    from gradclip import methods
    from gradclip.rules.catalogue import method_called
    from gradclip.rules.catalogue import methods as every

    try:
        chosen = None if options.name is None else method_called(options.name)
    except ValueError as error:
        return mistake(str(error), "methods")
    if options.json:
        found = [methods.as_data(one) for one in every().values()] if chosen is None else methods.as_data(chosen)
        print(json.dumps(found, allow_nan=False))
    else:
        print(methods.overview() if chosen is None else methods.explanation(chosen))
    return 0
