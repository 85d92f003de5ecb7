"""Under fleet's hybrid parallelism all processes clip by one norm: two of them, and four, over gloo, on the CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest

import paddle_hybrid_of_four
from gradclip.paddle import ClipGradByGlobalNorm
from paddle_eager import pairs_of, parameter
from paddle_hybrid_of_four import POLICIES, RULES, SHAPES, STEPS, model, part_of, truth

TESTS = Path(__file__).parent.parent
# A product in float32, after two roundings to it.
CLOSE = 3 * 2.0**-24


@pytest.fixture(scope="module")
def every():
    """How each case ended in each process, of two and of four."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / "paddle_hybrid.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ended(every):
    """How a case ended in each of two processes."""
    return lambda case: [every["two"][rank][case] for rank in ("0", "1")]


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


GRIDS = pytest.mark.parametrize("grid", list(paddle_hybrid_of_four.GRIDS))
TRUTH = {name: truth(rule, *map(model, range(STEPS))) for name, rule in RULES.items()}
"""What one process does with the whole model in each step, in float64."""


@pytest.fixture(scope="module")
def four(every):
    """How the cases of a grid ended in each of four processes; with a bug in them, if so."""
    return lambda grid, *bug: [process[grid][bug[0]] if bug else process[grid] for process in every["four"]]


def require_one(found):
    """What all processes have."""
    assert len(found) == 1, found
    return found.pop()


def require_moved(processes, case, whole, step=None):
    """Each process has moved what it has of the whole, as far; what they measured of all has the same bits."""
    found = [process[case] if step is None else process[case][step] for process in processes]
    for process, ended in zip(processes, found, strict=True):
        assert not ended["error"]
        for name, moved in ended["moved"].items():
            wanted = part_of(name, -np.asarray(whole.get(name, np.zeros(SHAPES[name]))), *process["mp"])
            np.testing.assert_allclose(moved, wanted, rtol=CLOSE, err_msg=name)
    return list(map(float.fromhex, require_one({tuple(ended["stages"][-1]) for ended in found})))


def last_of(clipper, rounded=False):
    """Norm and coefficient of all, where they were measured last; `rounded` to float32 before, if so."""
    found = [segment for segment in clipper.last.segments if segment.name == "all"][-1]
    return pytest.approx([found.norm_before, found.coefficient], rel=CLOSE if rounded else 1e-12, nan_ok=True)


def require_true(processes, name):
    """Step after step, a copy counts once, and thresholds remember the same bits on each process."""
    steps, clipper = TRUTH[name]
    for step, whole in enumerate(steps):
        stage = require_moved(processes, name, whole, step)
    assert stage == last_of(clipper, rounded=name == "by name")
    memory = require_one({json.dumps(process[f"{name} remembers"]) for process in processes})
    assert ("norms" in memory) == (name == "AutoClip")


def require_same_memory(processes):
    require_one({json.dumps(process["AutoClip remembers"]) for process in processes})


def require_known(processes, policy):
    """What one process alone has is known to all."""
    name = require_one({name for process in processes for name in process["broken"]})
    if policy in ("raise", "skip"):
        for ended in (process[policy] for process in processes):
            assert ended["error"] == ("NonFiniteGradient" if policy == "raise" else "")
            assert ended["error"] or ended["skipped"]
            assert not any(np.any(moved) for moved in ended["moved"].values())
        return
    whole = model()
    whole[name].flat[0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (clipped,), clipper = truth(RULES["chain"], whole, on_nonfinite=policy)
    assert require_moved(processes, policy, clipped) == last_of(clipper)


def require_part(processes):
    """The last stage of a pipeline, or the second shard, has no gradient, and takes part."""
    has = {name for process in processes if not process["none"] for name in process["has"]}
    (whole,), clipper = truth(RULES["chain"], {name: gradient for name, gradient in model().items() if name in has})
    nothing = [{**process, "without": {**process["without"], "moved": {}}} for process in processes]
    found = [none if process["none"] else process for process, none in zip(processes, nothing, strict=True)]
    assert require_moved(found, "without", whole) == last_of(clipper)


@GRIDS
@pytest.mark.parametrize("name", RULES)
def test_four_processes_clip_as_one_would(grid, name, four):
    require_true(four(grid), name)


@GRIDS
def test_the_engine_of_accelerators_does_so_too(grid, four):
    require_moved(four(grid), "operations", TRUTH["by name"][0][0])


@GRIDS
def test_some_of_four_processes_may_have_float64(grid, four):
    require_moved(four(grid), "float64", TRUTH["chain"][0][0])


@GRIDS
@pytest.mark.parametrize("policy", POLICIES)
def test_a_nan_of_one_of_four_is_known_to_all(grid, policy, four):
    """Two have it where they have the same data: those of data parallelism."""
    require_known(four(grid), policy)


@GRIDS
def test_a_process_of_four_without_a_gradient_takes_part(grid, four):
    require_part(four(grid))


COPY, PARTS, STAGES, ALONE = paddle_hybrid_of_four.PLANTS


@pytest.mark.parametrize(
    ("bug", "oracle", "given"),
    [
        *((bug, require_true, (name,)) for bug in (COPY, PARTS, STAGES) for name in ("global", "chain", "by name")),
        (STAGES, require_same_memory, ()),
        *((bug, require_moved, (case, TRUTH[name][0][0])) for bug in (PARTS, STAGES) for case, name in
          (("operations", "by name"), ("float64", "chain"))),
        *((PARTS, require_known, (policy,)) for policy in ("keep", "zero")),
        *((ALONE, require_known, (policy,)) for policy in ("skip", "raise")),
        (STAGES, require_part, ()),
    ],
    ids=lambda given: getattr(given, "__name__", None) or str(given)[:40],
)  # fmt: skip
def test_a_planted_bug_turns_the_oracle_of_four_red(bug, oracle, given, four):
    with pytest.raises(AssertionError):
        oracle(four("mp 2 x pp 2", bug), *given)
