"""Toward thousands of processes: what a step sends does not depend on their number."""

from pathlib import Path

from watching import SOURCE, python

SCRIPT = """
import sys
sys.path.append({root!r})
from benchmarks import sharded
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue

sharded.TENSORS, sharded.ROUNDS = 20, 1
for world in (8, 4096):
    for shape in sharded.MESHES.values():
        print([sharded.grown(world, shape(world), rule(1.0))[1] for rule in (
            ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
        )])
"""


def test_a_step_sends_as_much_in_4096_processes_as_in_8(tmp_path: Path):
    (tmp_path / "grow.py").write_text(SCRIPT.format(root=str(SOURCE.parent)))
    done = python("grow.py", folder=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"[[{24 + 16}], [{24 + 16 * 20}], []]"] * 6
