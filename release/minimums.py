"""The lowest versions that `pyproject.toml` allows, as constraints for pip: `python release/minimums.py`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OF_DEVELOPERS = ("dev", "docs", "trainers")
LOWEST = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\w.]+)(;.*)?")


def minimums(project: dict[str, object]) -> dict[str, str]:
    """Of each package that users install the lowest version; `gradclip[...]` is no package of its own."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [packages for name, packages in extras.items() if name not in OF_DEVELOPERS]
    found: dict[str, str] = {}
    for requirement in (line for packages in wanted for line in packages):
        if requirement.startswith("gradclip["):
            continue
        match = LOWEST.fullmatch(requirement)
        assert match, f"{requirement} has no lowest version: write name>=version"
        name, version = match["name"], match["version"]
        assert found.setdefault(name, version) == version, f"{name} has two lowest versions in pyproject.toml"
    return found


if __name__ == "__main__":
    for name, version in minimums(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]).items():
        print(f"{name}=={version}")
