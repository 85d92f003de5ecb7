"""Processes that share gradients decide alike: here threads, each with its part, that wait for one another."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gradclip import (
    L2,
    RMS,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Global,
    GradclipWarning,
    GradientAboveThreshold,
    Group,
    Linf,
    Lp,
    NonFiniteGradient,
    Raise,
    Row,
    Rule,
    Rules,
    SkipStep,
    Tensor,
    ZClip,
)
from gradclip.clipper import Clipper
from gradclip.engines.base import Across, Measure
from gradclip.engines.reference import NUMPY, ReferenceEngine
from gradclip.rules.response import KEEP
from gradclip.rules.segments import Segments
from gradclip.step.decide import Terms, decide_sweep
from gradclip.step.gradients import Gradients
from gradclip.step.policy import POLICIES

ENGINE = ReferenceEngine()


WAIT = 10.0
"""Seconds after which a thread gives up on the others."""


class Together:
    """Sums and maxima over the threads of one group; each calls it with its rank in the group."""

    def __init__(self, size: int) -> None:
        self.given = [None] * size
        self.barrier = threading.Barrier(size, timeout=WAIT)

    def reduce(self, rank: int, array, how: str):
        self.given[rank] = np.asarray(array, dtype=float)
        self.barrier.wait()
        result = (np.sum if how == "sum" else np.max)(self.given, axis=0)
        self.barrier.wait()
        return result


def across(rank: int, sharded: list[bool], rows: list[Together], columns: list[Together]) -> Across:
    """Process `rank` of a grid: those of a row share the tensors marked in `sharded`, a column has each its own."""
    row, column = divmod(rank, len(columns))

    def shards(array, how):
        summed = rows[row].reduce(column, np.where(sharded, array, 0.0), how)
        return np.where(sharded, summed, array)

    def some(indices):
        return across(rank, [sharded[index] for index in indices], rows, columns)

    return Across(shards, lambda array, how: columns[column].reduce(row, array, how), some=some)


def clip_together(rule, grid, sharded, **options):
    """Clip in a thread for each process of `grid`, a list of rows; a process has a list of tensors."""
    width, parts = len(grid[0]), [part for row in grid for part in row]
    rows, columns = [Together(width) for _ in grid], [Together(len(grid)) for _ in range(width)]
    results = [None] * len(parts)

    def work(rank):
        gradients = Gradients(parts[rank], "t{}".format, across=across(rank, sharded, rows, columns))
        try:
            results[rank] = Clipper(rule, **options).clip_gradients(gradients, ENGINE)
        except NonFiniteGradient as error:
            results[rank] = error

    at_once(work, len(parts))
    return results


def at_once(work, processes):
    """Call `work` with each rank, in a thread for each process."""
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("norm", [L2(), Linf(), Lp(3.0), Lp(0.5)])
def test_shards_of_one_tensor_are_clipped_as_the_whole(norm):
    whole = np.random.default_rng(0).standard_normal((6, 4)) * 1e3
    alone = whole.copy()
    rule = Rule(Tensor(), norm, Constant(1.0))
    expected = Clipper(rule).clip_gradients(Gradients([alone], "t{}".format), ENGINE)
    parts = [[whole[:2].copy()], [whole[2:].copy()]]
    results = clip_together(rule, [parts], [True])
    assert [r.norm_before for r in results] == pytest.approx([expected.norm_before] * 2, rel=1e-12)
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), alone, rtol=1e-12)


def test_each_element_counts_once_where_some_tensors_are_whole_on_one_process():
    """A row of two shares t0, both have a copy of t1; the second row has tensors of its own: 5, 12, 0, 84, norm 85."""
    grid = [
        [[np.array([3.0]), np.array([12.0])], [np.array([4.0]), np.array([12.0])]],
        [[np.array([0.0]), np.array([84.0])], [np.array([0.0]), np.array([84.0])]],
    ]
    results = clip_together(ClipGradByNorm(100.0) >> ClipGradByGlobalNorm(17.0), grid, [True, False])
    assert [r.segments[-1].norm_before for r in results] == pytest.approx([85.0] * 4)
    assert [part[1][0] for row in grid for part in row] == pytest.approx([12 / 5, 12 / 5, 84 / 5, 84 / 5])
    assert [part[0][0] for part in grid[0]] == pytest.approx([3 / 5, 4 / 5])


def test_a_skip_of_one_process_is_a_skip_of_all():
    rule = Rule(Tensor(), L2(), Constant(10.0), SkipStep())
    grid = [[[np.array([3.0])]], [[np.array([400.0])]]]
    assert [r.skipped for r in clip_together(rule, grid, [False])] == [True, True]
    assert grid[0][0][0] == 3.0


def test_a_nan_of_one_process_is_known_to_all():
    grid = [[[np.array([3.0])], [np.array([np.nan])]]]
    results = clip_together(ClipGradByGlobalNorm(1.0), grid, [True], on_nonfinite="zero")
    assert [r.segments[0].action for r in results] == ["zero", "zero"]
    assert [r.nonfinite for r in results] == [0, 1]  # each counts what it has
    assert [part[0][0] for part in grid[0]] == [0.0, 0.0]


@pytest.mark.parametrize("rule", [Rule(Row()), Rule(Group()), Rule(Global(), RMS())])
def test_what_cannot_be_summed_up_is_refused(rule):
    alone = across(0, [True], [Together(1)], [Together(1)])
    gradients = Gradients([np.ones((2, 2))], "t{}".format, across=alone)
    with pytest.raises(ValueError, match="shared among processes"):
        Clipper(rule).clip_gradients(gradients, ENGINE)


def test_a_nan_of_one_process_raises_in_all_and_is_named_where_it_is():
    grid = [[[np.array([3.0])]], [[np.array([np.nan])]]]
    caught = clip_together(ClipGradByGlobalNorm(1.0), grid, [False], on_nonfinite="raise")
    assert "'another process' is non-finite" in str(caught[0])
    assert "'t0' is non-finite" in str(caught[1])
    assert grid[0][0][0] == 3.0


def test_a_kept_nan_is_warned_of_where_it_is():
    grid = [[[np.array([3.0])]], [[np.array([np.nan])]]]
    with pytest.warns(GradclipWarning) as said:
        clip_together(ClipGradByGlobalNorm(1.0), grid, [False])
    assert ["'t0'" in str(warning.message) for warning in said] == [True]


def test_a_copy_that_another_process_counts_is_left_out_of_the_global_norm_alone():
    """3, and a copy of 12 that another process counts with its own 4: each keeps its own norm, together they are 13."""
    own, copy = np.array([3.0]), np.array([12.0])
    together = Across(
        lambda array, how: array,
        lambda array, how: array + (160.0 if array[0] == 9.0 else 0.0),
        lambda array: np.where([True, False], array, 0.0),
    )
    rule = ClipGradByNorm(100.0) >> ClipGradByGlobalNorm(1.0)
    result = Clipper(rule).clip_gradients(Gradients([own, copy], "t{}".format, across=together), ENGINE)
    assert [row.norm_before for row in result.segments] == pytest.approx([3.0, 12.0, 13.0])
    assert [own[0], copy[0]] == pytest.approx([3 / 13, 12 / 13])


CHAINS = [
    ClipGradByGlobalNorm(1.0),
    ClipGradByNorm(2.0) >> ClipGradByGlobalNorm(1.0),
    ZClip(warmup=1),
    ClipGradByNorm(2.0) >> AutoClip(),
    ClipGradByValue(1.5) >> AutoClip(),
    ClipGradByValue(1.5) >> ClipGradByNorm(2.0) >> ZClip(warmup=1),
    Rule(Tensor(), L2(), Constant(50.0), SkipStep()),
    Rule(Element(), Linf(), Constant(50.0), SkipStep()) >> ClipGradByGlobalNorm(1.0),
    Rule(Tensor(), L2(), Constant(50.0), Raise()) >> ClipGradByGlobalNorm(1.0),
]
BAD = {"finite": 4.0, "NaN": np.nan, "inf": np.inf, "large": 400.0}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rule", CHAINS, ids=repr)
@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning")
def test_processes_decide_alike_what_one_process_would_decide(rule, policy, bad):
    """Two processes with a tensor each, or with a shard each, do step after step what one with all of it does."""
    steps = [
        ([3.0, 1.0], [2.0, 2.0]),
        ([BAD[bad], 1.0], [2.0, 5.0]),
        ([3.0, 1.0], [6.0, 2.0]),
        ([1.0, 9.0], [2.0, 2.0]),
    ]
    for sharded in (False, True):
        alone, pair = Clipper(rule, on_nonfinite=policy), [Clipper(rule, on_nonfinite=policy) for _ in range(2)]
        for first, second in steps:
            parts = [[np.array(first)], [np.array(second)]]
            whole = [np.concatenate([first, second])] if sharded else [np.array(first), np.array(second)]
            expected = stopped(alone, Gradients(whole, "t{}".format))
            assert together(pair, parts, sharded) == [expected] * 2
            np.testing.assert_allclose(
                np.concatenate([parts[0][0], parts[1][0]]), np.concatenate(whole), rtol=1e-12, err_msg=f"{sharded}"
            )
        assert [remembered(clipper) for clipper in pair] == [pytest.approx(remembered(alone), rel=1e-12)] * 2


def together(clippers, parts, sharded):
    """How the step ends in each of two processes, which share one tensor or have one each."""
    height, width = (1, 2) if sharded else (2, 1)
    rows, columns = [Together(width) for _ in range(height)], [Together(height) for _ in range(width)]
    found = [None, None]

    def work(rank):
        sums = across(rank, [sharded], rows, columns)
        found[rank] = stopped(clippers[rank], Gradients(parts[rank], "t{}".format, across=sums))

    at_once(work, 2)
    return found


def remembered(clipper):
    """All numbers that the thresholds of a clipper remember, in the order of its stages."""
    every = [memory["memory"] for _, memory in sorted(clipper.state_dict()["thresholds"].items())]
    return [number for memory in every for name in sorted(memory) for number in np.ravel(memory[name]).tolist()]


def stopped(clipper, gradients):
    """How a step ended: taken, skipped, or the class of its error."""
    try:
        return "skipped" if clipper.clip_gradients(gradients, ENGINE).skipped else "taken"
    except (NonFiniteGradient, GradientAboveThreshold) as error:
        return type(error).__name__


BY_NAME = [
    Rules([("a", ClipGradByNorm(2.0)), ("*", ClipGradByGlobalNorm(3.0))]) >> ClipGradByGlobalNorm(1.0),
    Rules([("b", ClipGradByValue(0.5)), ("*", ClipGradByNorm(2.0) >> ClipGradByGlobalNorm(1.0))]),
    Rules([("a", None), ("c", ClipGradByGlobalNorm(1.0)), ("*", Rule(Tensor(), Linf(), Constant(1.0)))]),
]


@pytest.mark.parametrize("rule", BY_NAME, ids=repr)
def test_rules_by_name_sum_up_what_has_these_names_anywhere(rule):
    """The first process has shards of a and b, as the second; the third and fourth have copies of c. None has all."""
    whole = {"a": np.array([3.0, 4.0]), "b": np.array([1.0, 2.0]), "c": np.array([6.0])}
    alone = {name: array.copy() for name, array in whole.items()}
    Clipper(rule).clip_gradients(Gradients(list(alone.values()), list(alone).__getitem__), ENGINE)
    grid = [[{"a": [3.0], "b": [1.0]}, {"a": [4.0], "b": [2.0]}], [{"c": [6.0]}, {"c": [6.0]}]]
    rows, columns = [Together(2), Together(2)], [Together(2), Together(2)]
    found = [{name: np.array(values) for name, values in part.items()} for row in grid for part in row]

    def work(rank):
        sums = across(rank, [rank < 2] * len(found[rank]), rows, columns)
        gradients = Gradients(list(found[rank].values()), list(found[rank]).__getitem__, across=sums)
        Clipper(rule).clip_gradients(gradients, ENGINE)

    at_once(work, 4)
    for name in ("a", "b"):
        np.testing.assert_allclose([found[0][name][0], found[1][name][0]], alone[name], rtol=1e-12)
    assert [found[2]["c"], found[3]["c"]] == [pytest.approx(alone["c"], rel=1e-12)] * 2


def test_a_count_of_another_process_is_heard_where_its_total_hides_it():
    """A maximum over processes may drop a NaN; their counts do not."""
    measure = Measure(np.array([4.0]), np.array([0.0]), NUMPY)
    across = Across(lambda array, how: np.maximum(array, 1.0), lambda array, how: array)
    plan = decide_sweep(measure, (Rule(Tensor(), Linf(), Constant(1.0)),), [Segments(0)], [{}], Terms(across=across))
    assert plan.decisions[0].action.tolist() == [KEEP]
