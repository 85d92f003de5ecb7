"""What a project means as it is: findings that it accepts, by an option, in its settings, or in the line itself."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from pathlib import Path

from gradclip.doctor.problems import DIVERGED, PROBLEMS
from gradclip.errors import shown
from gradclip.rules.arguments import items_of

COMMENT = re.compile(r"#\s*gradclip:\s*accept\s+([\w, -]+)")
SETTINGS = Path("pyproject.toml")
"""In the folder where the command is called: `[tool.gradclip]`, `accept = ["one-optimizer-of-several"]`."""


def accepted_here() -> frozenset[str]:
    """The problems that the settings of the project accept; `ValueError` where these cannot be read."""
    if not SETTINGS.is_file():
        return frozenset()
    try:
        found = tomllib.loads(SETTINGS.read_text(encoding="utf-8")).get("tool", {}).get("gradclip", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{SETTINGS} cannot be read: {error}") from None
    accepted = found.get("accept", []) if isinstance(found, dict) else []
    if not isinstance(accepted, list) or not all(isinstance(name, str) for name in accepted):
        raise ValueError(f'{SETTINGS}: tool.gradclip.accept is a list like ["twice"], got {shown(accepted)}')
    if unknown := unknown_among(accepted):
        raise ValueError(f"{SETTINGS}: tool.gradclip.accept has {unknown}")
    return frozenset(accepted)


def unknown_among(names: Collection[str]) -> str | None:
    """Which of these is the name of no finding, in words; None where each is one."""
    known = [*PROBLEMS, DIVERGED]
    unknown = next((name for name in names if name not in known), None)
    return None if unknown is None else f"{unknown}: there is no such finding, there are {', '.join(known)}"


def accepted_with(names: Collection[str]) -> frozenset[str]:
    """The problems that are accepted here, and those of these `names`; `TypeError` where they are no list of names."""
    found = None if isinstance(names, str) else items_of(names)
    if found is None or not all(isinstance(name, str) for name in found):
        raise TypeError(f"what is accepted is a list of names of findings, got {shown(names)}: write ['twice']")
    return accepted_here() | frozenset(found)


def is_accepted(problem: str, where: str, accepted: Collection[str]) -> bool:
    """Whether a finding is meant: named among `accepted`, or in a comment at its line or the one above."""
    return problem in accepted or problem in _accepted_at(where)


def _accepted_at(where: str) -> set[str]:
    file, _, number = where.rpartition(":")
    if not number.isdecimal() or not Path(file).is_file():
        return set()
    lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    beside = lines[max(int(number) - 2, 0) : int(number)]
    return {name.strip() for line in beside for found in COMMENT.findall(line) for name in found.split(",")}
