"""Write the page of the methods from the functions that are the methods, and their profiles.

    python docs/make_methods.py            write docs/methods.md, and profiles.json and profiles.png in docs/methods
    python docs/make_methods.py --check    exit with 1 if they are out of date

What a method is comes from its docstring, signature and rule; what it does to norms from a run of the real clipper.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import profile_picture
import profiles
from gradclip.rules.catalogue import Method, methods

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
RECORD = ROOT / "docs" / "methods" / "profiles.json"
PICTURE = ROOT / "docs" / "methods" / "profiles.png"
CLOSE = 2e-3
"""How far two records of the same run on two machines may differ: they have four digits."""

Record = Mapping[str, Any]

INTRODUCTION = """# The methods

Every named method is one expression of a scope, a norm, a threshold and a response, and a function with its published
defaults: `gradclip.ZClip(z=2.5)`. `gradclip methods` lists them in a terminal. `python docs/make_methods.py` writes
this page from those functions.
"""
PICTURED = "![Threshold and output of every method on the same streams of norms](methods/profiles.png)"
DRAWN = f"""
Each row is a method with its defaults, each column a stream of gradient norms. Grey is the norm that goes in, orange
the threshold (none where there is no line), blue the norm that comes out; the steps drawn are {profiles.FIRST_DRAWN}
to {profiles.STEPS - 1}. Ordinary norms are {profiles.LEVEL} in the mean, fixed thresholds are 1, weights are such that
thresholds relative to them are 1, and a method that has `max_norm` beside its own threshold is shown without it.
Methods that do the same to norms share a row: they differ in what they measure together.
"""
TABLED = f"""
In the table, *clipped* is the share of the steps that are clipped or skipped, *kept* the mean norm that comes out over
the one that goes in, over the steps {profiles.EVENT} to {profiles.STEADY - 1}, on norms with a coefficient of
variation of {profiles.QUIET} (quiet) and {profiles.NOISY} (noisy). *Reach* is the number of steps until a lasting
change of the level by 2 or by 10 is taken up: until as much as usual comes out of it, less a tenth. *Burst* is the
largest norm that comes out of ten bad steps of {profiles.SPIKE:g} ordinary norms, in ordinary norms.
"""


def written(record: Record) -> str:
    """The whole page."""
    known = methods()
    parts = [INTRODUCTION, overview(known), "## What they do to the same norms\n", PICTURED + "\n"]
    parts += [filled(DRAWN), filled(TABLED), table(record)]
    parts += [section(method, record["methods"][name]["traits"]) for name, method in known.items()]
    return "\n".join(parts)


def filled(text: str) -> str:
    """A paragraph in lines of one width."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def overview(known: Mapping[str, Method]) -> str:
    """A line for each method."""
    lines = ["| method | what it does | stages | remembers | source |", "| --- | --- | --- | --- | --- |"]
    for name, method in known.items():
        stages = "<br>".join(stage(one) for one in method.coordinates)
        cells = (f"[`{name}`](#{name.lower()})", method.law, stages, method.state, cited(method.source))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def stage(one: Mapping[str, str]) -> str:
    """The coordinates of one stage."""
    scope, norm, response = (one[name].removesuffix("()") for name in ("scope", "norm", "response"))
    return f"{scope}, {norm}, {one['threshold']}: {response}"


def cited(source: str) -> str:
    """The first authors and the place of a source, without what it says of details."""
    return re.split(r", (?:section|equation|algorithm)s? |; | \(|, where ", source.rstrip("."))[0]


def table(record: Record) -> str:
    """The traits of each method."""
    lines = [
        "| method | clipped, quiet | kept, quiet | clipped, noisy | kept, noisy | reach x2 | reach x10 | burst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in record["methods"].items():
        traits = profiles.Traits(**own["traits"])
        shares = [percent(share) for share in traits[:4]]
        cells = [name, *shares, steps(traits.reach_2), steps(traits.reach_10), f"{traits.burst:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def section(method: Method, traits: Mapping[str, Any]) -> str:
    """Everything about one method."""
    differences = [f"{number}. {sentence(text)}" for number, text in enumerate(method.differences, 1)]
    parts = [
        f"## {method.name}",
        method.law,
        f"**Formula.** {sentence(method.formula)}",
        f"```python\ngradclip.{method.signature}\n```",
        f"**As a rule.** {sentence(repr(method.rule))}",
        f"**Remembers** {method.state}.",
        *(["**Differs from the original.**\n\n" + "\n".join(differences)] if differences else []),
        *([f"**Mind.** {sentence(method.mind)}"] if method.mind else []),
        f"**Source.** {method.source}",
        f"**Profile.** {told(profiles.Traits(**traits))}",
    ]
    return "\n\n".join(parts) + "\n"


def sentence(text: str) -> str:
    """`text` with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def told(traits: profiles.Traits) -> str:
    """The traits in words."""
    two, ten = (taken_up(number) for number in (traits.reach_2, traits.reach_10))
    return (
        f"Of quiet norms it clips {percent(traits.clip_rate_quiet)} and keeps {percent(traits.kept_quiet)}, of noisy "
        f"ones {percent(traits.clip_rate_noisy)} and {percent(traits.kept_noisy)}. A lasting change of the level by 2 "
        f"is taken up {two}, by 10 {ten}. Of ten bad steps the largest leaves as {traits.burst:.2g} ordinary norms."
    )


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %"


def steps(number: int | None) -> str:
    """How many steps, or that it is more than were looked for."""
    return f"over {profiles.LONGEST}" if number is None else str(number)


def taken_up(number: int | None) -> str:
    """When a new level is taken up."""
    if number is None:
        return f"not within {profiles.LONGEST} steps"
    return f"after {number} steps" if number else "at once"


def as_json(record: Record) -> str:
    """The record as JSON, a list of numbers on each line."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n"


def agree(one: Any, other: Any) -> bool:
    """Whether two records say the same, but for the rounding of another processor."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(agree(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=CLOSE)
    return bool(one == other)


def stored() -> Any:
    """The record in the docs; nothing if there is none."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else None


def out_of_date(record: Record) -> list[Path]:
    """The files that say something else than `record` and the methods."""
    stale = [] if agree(record, stored()) else [RECORD]
    held = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return stale if held == written(stored() if not stale else record) else [*stale, PAGE]


def write(stale: list[Path], found: profile_picture.Profiles, record: Record) -> None:
    """Bring the files up to date."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    profile_picture.save_profiles(found, PICTURE)
    if RECORD in stale:
        RECORD.write_text(as_json(record), encoding="utf-8")
    if PAGE in stale:
        PAGE.write_text(written(stored()), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    checks = parser.parse_args(arguments).check
    found = profiles.profiles()
    record = profiles.record(found)
    stale = out_of_date(record)
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date: run make docs' if checks else 'written'}")
    if not checks:
        write(stale, found, record)
    return int(checks and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
