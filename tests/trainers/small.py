"""What the tests of trainers share: data on which gradients spike, and a rule that remembers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import gradclip

RULE = gradclip.ZClip(z=2.0, warmup=3, max_norm=0.5)
"""It learns from each step, so a run that forgot its memory clips otherwise."""

LEARNT = gradclip.AutoClip(30.0)
"""It cuts most steps at what it has learnt alone, so that the weights of a run that forgot differ, too."""

LOGGED = (
    "grad_norm",
    "grad_norm_clipped",
    "clip/threshold",
    "clip/scale",
    "clip/rate",
    "clip/nonfinite",
    "clip/skipped",
)
"""What the callbacks log."""

ROOT = Path(__file__).parent.parent.parent


def batches(number: int = 32, width: int = 4) -> torch.utils.data.TensorDataset:
    """Regression data, of which every eighth example is a hundred times too large."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, width, generator=generator)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(number, 1, generator=generator)
    y[7::8] *= 100.0
    return torch.utils.data.TensorDataset(x, y)


def model(width: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def child(script: str, *arguments: object, killed: bool = False, processes: int = 1, **environment: str) -> str:
    """Run a file of this folder in a process of its own, or in several by torchrun, and return what it prints.

    Where it is to be `killed` it has to end by SIGKILL, which it sends itself in the middle.
    """
    found = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **environment}
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    command = [sys.executable, *launcher, str(Path(__file__).parent / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=found, timeout=300, check=False)
    expected = -signal.SIGKILL if killed else 0
    assert done.returncode == expected, f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def die() -> None:
    """What a machine does that loses power."""
    os.kill(os.getpid(), signal.SIGKILL)
