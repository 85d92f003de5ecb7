"""Tried in a fresh environment with one framework: `python try_framework.py VERSION torch`, in an empty folder.

Each block of the README that needs no other framework runs by itself, as the wheel brings the README; with PyTorch a
script is watched, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

FRAMEWORKS = {"torch", "paddle", "jax"}
TRAINING = Path(__file__).with_name("train.py")


def main(version: str, framework: str) -> None:
    assert metadata.version("gradclip") == version
    others = FRAMEWORKS - {framework}
    present = [name for name in others if find_spec(name)]
    assert not present, f"this environment is not that of {framework} alone: it has {' and '.join(present)}"
    blocks = re.findall(r"^```python\n(.*?)^```", metadata.metadata("gradclip").get_payload(), flags=re.M | re.S)
    tried = [block for block in blocks if not any(re.search(rf"^import {name}\b", block, re.M) for name in others)]
    assert any(re.search(rf"^import {framework}\b", block, re.M) for block in tried), f"no block is for {framework}"
    for number, block in enumerate(tried):
        assert python(block, f"block{number}.py"), f"this block prints nothing:\n{block}"
    print(f"{framework}: {len(tried)} blocks of the README")
    if framework == "torch":
        watch()


def watch() -> None:
    """Look at a script by the commands that do so."""
    program = str(Path(sys.executable).with_name("gradclip"))
    for line in (f"watch --out run {TRAINING}", "report --text run", "doctor run"):
        done = subprocess.run([program, *line.split()], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"gradclip {line} ended with {done.returncode}: {done.stdout} {done.stderr}"
    print("torch: a watched script")


def python(code: str, name: str) -> str:
    """What a script prints."""
    Path(name).write_text(code)
    done = subprocess.run([sys.executable, name], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}\n{code}"
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
