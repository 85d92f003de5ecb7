"""What a new process pays: the import, and the first clip before and after its kernels are kept."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import NamedTuple

IMPORT = "import gradclip"

FIRST_CLIP = """
import torch
loaded = time.perf_counter()
import gradclip.torch
weight = torch.nn.Parameter(torch.zeros(1000))
weight.grad = torch.ones(1000)
gradclip.torch.Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight])
"""

SCRIPT = """
import json, time
start = loaded = time.perf_counter()
{work}
end = time.perf_counter()
print(json.dumps([end - start, end - loaded]))
"""


class Start(NamedTuple):
    """Median seconds of new processes, and the goal if there is one."""

    title: str
    seconds: float
    runs: int
    goal: float | None = None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        missed = self.seconds / self.goal - 1
        return "reached" if missed <= 0 else f"missed by {missed:.0%}"


def measure(runs: int) -> list[Start]:
    """Each start `runs` times, in processes of their own; with a cache that is empty at first."""
    imports = [_run(IMPORT)[0] for _ in range(runs)]
    cold, warm = [], []
    for _ in range(max(1, runs // 3)):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_run(FIRST_CLIP, cache))
            warm += [_run(FIRST_CLIP, cache) for _ in range(3)]
    return [
        Start("import gradclip", statistics.median(imports), len(imports), 0.05),
        _start("first clip, kernels in the cache, after import torch", warm, 1, 0.5),
        _start("first clip, kernels in the cache, with import torch", warm, 0, None),
        _start("first clip, empty cache, after import torch", cold, 1, None),
        _start("first clip, empty cache, with import torch", cold, 0, None),
    ]


def _start(title: str, found: list[tuple[float, float]], which: int, goal: float | None) -> Start:
    return Start(title, statistics.median(one[which] for one in found), len(found), goal)


def _run(work: str, cache: str | None = None) -> tuple[float, float]:
    """Seconds of `work` in a new interpreter, and those after `loaded` was set."""
    environment = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": cache})
    command = [sys.executable, "-c", SCRIPT.format(work=work)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    whole, after = json.loads(done.stdout)
    return whole, after
