"""Under fleet's hybrid parallelism all processes clip by one norm: two of them, over gloo, on the CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

from gradclip.paddle import ClipGradByGlobalNorm
from paddle_eager import pairs_of, parameter

TESTS = Path(__file__).parent.parent
# A product in float32, after two roundings to it.
CLOSE = 3 * 2.0**-24


@pytest.fixture(scope="module")
def ended():
    """How each case ended in each process."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / "paddle_hybrid.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return lambda case: [found[rank][case] for rank in ("0", "1")]


def moved(*numbers):
    return [pytest.approx([-number], rel=CLOSE) for number in numbers]


@pytest.mark.parametrize("case", ["global norm", "fleet", "pipeline", "on an accelerator"])
def test_the_norm_is_over_all_processes_and_counts_each_element_once(case, ended):
    """Of 3, 4 and 12, which both have: 13. Each by itself would find sqrt(153) and sqrt(160); doubled it is 17.7."""
    first, second = ended(case)
    assert first["values"] == moved(3 / 13, 12 / 13)
    assert second["values"] == moved(4 / 13, 12 / 13)
    assert [first["norm"], second["norm"]] == [13.0, 13.0]


def test_a_matrix_in_parts_has_the_norm_of_the_whole(ended):
    assert [one["values"] for one in ended("norm")] == [moved(0.6, 1.0), moved(0.8, 1.0)]


def test_rules_by_name_sum_up_what_each_is_for(ended):
    assert [one["values"] for one in ended("by name")] == [moved(0.6, 6.0), moved(0.8, 6.0)]


def test_clipping_by_value_needs_nobody_else(ended):
    assert [one["values"] for one in ended("value")] == [moved(1.0, 1.0)] * 2


def test_a_copy_that_another_stage_counts_has_a_norm_of_its_own_all_the_same(ended):
    """Each tensor to 5 at most leaves 3, 4 and the copies of 5; together they are sqrt(50)."""
    first, second = ended("pipeline of two norms")
    assert first["values"] == moved(3 / 50**0.5, 5 / 50**0.5)
    assert second["values"] == moved(4 / 50**0.5, 5 / 50**0.5)


def test_a_process_with_nothing_to_clip_takes_part_in_the_sum(ended):
    first, second = ended("a stage without gradients")
    assert first["values"] == moved(1.0, 7.0)
    assert second["values"] == moved(7.0)
    first, second = ended("groups of which a stage has none")
    assert first["values"] == moved(0.6, 0.8)
    assert [first["norm"], second["norm"]] == [5.0, 5.0]


def test_under_sharding_each_process_clips_what_it_updates_by_the_norm_of_all(ended):
    """The parameters [3, 0] and [4, 0] are updated by one process each, and sent to the other."""
    for one in ended("sharded"):
        assert [value[0] for value in one["values"]] == pytest.approx([-0.6, -0.8], rel=CLOSE)
        assert one["norm"] == 5.0


def test_a_nan_of_one_process_is_a_skip_of_all(ended):
    for one in ended("a nan of one"):
        assert one["values"] == [[0.0]]
        assert math.isnan(one["norm"])


def test_processes_with_the_same_gradients_sum_up_nothing(ended):
    assert [one["values"] for one in ended("data")] == [moved(0.6, 0.8)] * 2


def test_inside_group_sharded_parallel_which_runs_on_accelerators_alone_a_clip_is_refused():
    """Each process would clip by the norm of its slices. Here a function of that module only seems to call."""
    clip = ClipGradByGlobalNorm(1.0)
    module = {"__name__": "paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage3"}
    step = FunctionType((lambda clip, pairs: clip(pairs)).__code__, module)
    with pytest.raises(NotImplementedError, match="slices"):
        step(clip, pairs_of(parameter(3.0)))
