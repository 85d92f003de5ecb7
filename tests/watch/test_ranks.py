"""Scripts whose gradients are in several processes, watched: one run, of the norms of all, whatever a rank does."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from gradclip.telemetry import read_run
from gradclip.telemetry.runs import folders_of
from watching import SCRIPTS, python, watch

HERE = Path(__file__).parent / "scripts"
TOLERANCE = 1e-6
"""Norms of float32 gradients against float64."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for script in (*HERE.glob("*.py"), SCRIPTS / "ranks.py"):
        (tmp_path / script.name).symlink_to(script)
    return tmp_path


def test_the_norms_of_sharded_gradients_are_the_global_ones(folder: Path) -> None:
    """And no bit of the training changes; nor does it hang where rank 0 alone has telemetry."""
    plain = python("sharded.py", "plain.json", folder=folder)
    assert plain.returncode == 0, plain.stderr
    (folder / "store").unlink()
    answer = watch("--out", "run", "sharded.py", "watched.json", folder=folder)
    assert answer.returncode == 0, answer.stderr
    assert "recorded" not in answer.stderr
    known = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "watched.json").read_text(encoding="utf-8")) == known
    runs = list(map(read_run, folders_of(folder / "run")))
    for (name, training), run in zip(known.items(), runs, strict=True):
        truth = [math.hypot(*norms.values()) for norms in training["norms"]]
        truth = training["largest"] if name == "by-value" else truth
        limit = {"unclipped": truth, "by-value": [0.01] * len(truth)}.get(name, [0.3] * len(truth))
        assert [event.norm_before for event in run] == pytest.approx(truth, rel=TOLERANCE), name
        assert [event.norm_after for event in run] == pytest.approx(limit, rel=1e-4), name
        assert all(event.clipped == (name != "unclipped") for event in run), name
        for event, norms in zip(run, training["norms"], strict=True):
            if event.tensors is not None:
                told = {key: norm for key, norm in norms.items() if name != "partial" or not key.startswith("3.")}
                assert event.tensors == pytest.approx(told, rel=TOLERANCE), name
    told = [name for name, run in zip(known, runs, strict=True) if all(event.tensors for event in run)]
    assert told == list(known)[:6]  # of a rule that is attached the run has no norms of tensors
    for name in ("told-by-all", "told-by-rank-0"):
        told = read_run(folder / f"told-{name}")
        for event, norms in zip(told, known[name]["norms"], strict=True):
            assert event.norm_before == pytest.approx(math.hypot(*norms.values()), rel=TOLERANCE)
            assert list(event.tensors.values()) == pytest.approx(list(norms.values()), rel=TOLERANCE)
    assert not list(folder.glob("run.ranks"))
    assert len(list(folder.glob("told-*"))) == 2  # rank 0 alone has made one of each


@pytest.mark.parametrize("steps", [60, 10])
def test_ranks_that_make_other_numbers_of_steps_go_on_alone(folder: Path, steps: int) -> None:
    answer = watch("--out", "run", "uneven.py", str(steps), folder=folder)
    assert answer.returncode == 0, answer.stderr
    assert [event.step for event in read_run(folder / "run")] == list(range(steps))


def test_a_rank_that_dies_leaves_the_run_readable(folder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2")
    call = [sys.executable, "-m", "gradclip", "watch", "--out", "run", *torchrun, "dying.py"]
    answer = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode != 0
    run = read_run(folder / "run")
    assert len(run) >= 20, answer.stderr  # more than a second before
    assert [event.step for event in run] == list(range(len(run)))
    assert all(set(event.tensors) == {"weight", "bias"} for event in run[:20])
    assert [*folder.glob("run*")] == [folder / "run"]
