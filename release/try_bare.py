"""Tried in a fresh environment of gradclip alone: `python try_bare.py VERSION`, in an empty folder.

Rules, runs and the command line work; what needs more says in one line what to install.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

VERSION = sys.argv[1]
OTHERS = ("numpy", "torch", "jax", "paddle", "numba", "matplotlib", "plotly", "shtab")
DOORS = {
    "torch": "torch", "timm": "torch", "optax": "jax", "paddle": "paddle", "keras": "keras", "lightning": "lightning",
    "transformers": "transformers", "stable_baselines3": "stable-baselines3", "skorch": "skorch", "ignite": "ignite",
    "fastai": "fastai",
}  # fmt: skip
"""The modules that speak a framework's idiom, and the extra that each needs."""
RUN = "runs/bare"
FINE = {
    "--version": VERSION,
    "--help": "methods",
    "methods": "ClipGradByGlobalNorm",
    "methods zclip": "arXiv",
    f"report {RUN} --text": "40 steps",
    f"report {RUN} --json": '"runs"',
    f"suggest {RUN}": "ClipGradByGlobalNorm(",
    f"export {RUN} --csv run.csv": "",
    f"doctor {RUN}": "",
}
"""What works, and a part of what it says."""
NEEDS = {
    f"report {RUN}": "gradclip[report]",
    f"export {RUN} --parquet run.parquet": "gradclip[parquet]",
    "completion bash": "gradclip[completion]",
    "demo": "gradclip[demo,torch]",
    "compare l0l1": "gradclip[demo,torch]",
    "watch train.py": "gradclip[torch]",
    "doctor train.py": "gradclip[torch]",
    "suggest train.py": "gradclip[torch]",
}
"""What needs more, and the extra that it names."""


def main() -> None:
    present = [name for name in OTHERS if find_spec(name)]
    assert not present, f"this environment is not bare: it has {' and '.join(present)}"
    import gradclip

    assert gradclip.__version__ == VERSION, f"gradclip is {gradclip.__version__}, not {VERSION}"
    assert gradclip.from_dict(gradclip.ZClip().to_dict()) == gradclip.ZClip()
    for door, extra in DOORS.items():
        assert f'pip install "gradclip[{extra}]"' in said_by_import(door), f"gradclip.{door}: {said_by_import(door)}"
    write_run()
    Path("train.py").write_text("print('trained')\n")
    for line, part in FINE.items():
        done = command(line.split())
        assert done.returncode in (0, 1), f"gradclip {line} ended with {done.returncode}: {done.stderr}"
        assert part in done.stdout, f"gradclip {line} does not say {part}: {done.stdout}"
    for line, extra in NEEDS.items():
        done = command(line.split())
        assert done.returncode == 2, f"gradclip {line} ended with {done.returncode}"
        assert f'pip install "{extra}"' in done.stderr, f"gradclip {line} does not name {extra}: {done.stderr}"
        assert len(done.stderr.splitlines()) == 1, f"gradclip {line} says more than a line: {done.stderr}"
    print(f"{len(DOORS)} doors, {len(FINE) + len(NEEDS)} commands")


def said_by_import(door: str) -> str:
    try:
        import_module(f"gradclip.{door}")
    except ModuleNotFoundError as error:
        return str(error)
    return "it can be imported without its framework"


def write_run() -> None:
    """A run of 40 steps, as a training writes it on another machine."""
    from gradclip.telemetry import Event, jsonl

    sink = jsonl(RUN)
    for step in range(40):
        norm = 1.0 + step % 7 / 10
        sink(Event(step, "all tensors together: an L2 norm above 1.2 is rescaled to it", "cpu", norm, min(norm, 1.2),
                   1.2, min(1.0, 1.2 / norm), norm > 1.2))  # fmt: skip


def command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`gradclip`, as the shell finds it in this environment."""
    program = str(Path(sys.executable).with_name("gradclip"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, f"gradclip {' '.join(arguments)} ended in a traceback: {done.stderr}"
    return done


if __name__ == "__main__":
    main()
