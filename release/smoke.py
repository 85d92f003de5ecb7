"""The wheel is installed into fresh environments and tried there: `python release/smoke.py dist bare torch all`.

Each case is tried on each Python that `pyproject.toml` promises. What is not on this machine is said and left out: a
Python, and a PyTorch without CUDA for it, which would bring gigabytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from pythons import ROOT, promised, python_of

PINNED = ("--constraint", str(ROOT / "constraints.txt"))
OF_DEVELOPERS = ("dev", "docs", "trainers")
CASES = ["bare", "torch", "paddle", "jax", "all"]
CUDA = "nvidia-"
TORCHVISION = "torchvision"
"""Its operators are compiled for CUDA and PyTorch here for CPUs: who imports it fails. Nobody needs it."""


def main(folder: Path, cases: list[str]) -> int:
    (wheel,) = folder.resolve().glob("*.whl")
    left_out = [line for version in promised() for line in tried_on(version, wheel, cases)]
    for line in left_out:
        print(f"not tried: {line}")
    return 0


def tried_on(version: str, wheel: Path, cases: list[str]) -> list[str]:
    """Try the cases on one Python, and say which could not be."""
    python = python_of(version)
    if python is None:
        return [f"Python {version}, which is not on this machine"]
    left_out = []
    for case in cases:
        with tempfile.TemporaryDirectory() as place:
            began = time.monotonic()
            if tried(python, case, wheel, Path(place)):
                print(f"Python {version}, {case}: {time.monotonic() - began:.0f} s", flush=True)
            else:
                left_out.append(f"{case} on Python {version}, where PyTorch comes with CUDA")
    return left_out


def tried(python: str, case: str, wheel: Path, place: Path) -> bool:
    """Whether the case was tried; what goes wrong in it ends this program."""
    run(python, "-m", "venv", str(place / "env"))
    own = str(place / "env" / "bin" / "python")
    what = f"{wheel}{extras(case)}"
    if case != "bare" and brings_cuda(own, what, place / "plan.json"):
        return False
    run(own, "-m", "pip", "install", "-qq", *PINNED, what)
    if case == "all":
        run(own, "-m", "pip", "uninstall", "-qq", "--yes", TORCHVISION)
    (place / "empty").mkdir()
    script = ROOT / "release" / f"try_{case if case in ('bare', 'all') else 'framework'}.py"
    run(own, "-I", str(script), wheel.name.split("-")[1], case, folder=place / "empty")
    if case == "all":
        check_types(own, place)
    return True


def check_types(own: str, place: Path) -> None:
    """What type checkers say of the files that use every public name, and see the package as it was installed.

    What other packages leave unknown is theirs: mypy ignores packages without types, `pyrightconfig.json` likewise.
    """
    tool = [sys.executable, "-m"]
    typed = shutil.copytree(ROOT / "tests" / "typed", place / "typed")  # beside the sources these would be taken
    config = shutil.copy(ROOT / "release" / "pyrightconfig.json", place / "pyrightconfig.json")
    own_types = ["--python-executable", own, "--cache-dir", str(place / "mypy")]
    run(*tool, "mypy", "--strict", "--ignore-missing-imports", *own_types, str(typed), folder=place)
    run(*tool, "pyright", "--project", str(config), "--pythonpath", own, folder=place)


def extras(case: str) -> str:
    """What stands behind the name of the package: "[torch]"; with all, those of users."""
    if case == "bare":
        return ""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [name for name in known if name not in OF_DEVELOPERS] if case == "all" else [case]
    return f"[{','.join(wanted)}]"


def brings_cuda(python: str, what: str, plan: Path) -> bool:
    """Whether pip would install packages of CUDA, which it says without fetching them."""
    run(python, "-m", "pip", "install", "-qq", "--dry-run", "--report", str(plan), *PINNED, what)
    return any(one["metadata"]["name"].startswith(CUDA) for one in json.loads(plan.read_text())["install"])


def run(*command: str, folder: Path | None = None) -> None:
    """Run a command, without what this shell says of Pythons and their paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or CASES))
