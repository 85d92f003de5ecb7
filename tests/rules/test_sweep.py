"""Sweeps: which stages share one read and one write."""

import pytest

from gradclip import (
    L2,
    RMS,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    Row,
    Rule,
    Rules,
    Smooth,
    Tensor,
)
from gradclip.rules.sweep import phases_of

TENSOR, GLOBAL, VALUE = ClipGradByNorm(1.0), ClipGradByGlobalNorm(2.0), ClipGradByValue(3.0)
ROW = Rule(Row(), L2(), Constant(1.0), Smooth())
COLUMN = Rule(Row(1), L2(), Constant(1.0))


def stages(rule):
    return [[sweep and sweep.stages for sweep in phase.sweeps] for phase in phases_of(rule)]


@pytest.mark.parametrize(
    ("rule", "phases"),
    [
        (TENSOR, [[(TENSOR,)]]),
        (TENSOR >> GLOBAL, [[(TENSOR, GLOBAL)]]),
        (ROW >> TENSOR >> GLOBAL, [[(ROW, TENSOR, GLOBAL)]]),
        (ROW >> TENSOR >> ROW, [[(ROW, TENSOR, ROW)]]),
        (ROW >> TENSOR >> COLUMN >> GLOBAL, [[(ROW, TENSOR)], [(COLUMN, GLOBAL)]]),
        (VALUE >> GLOBAL, [[(VALUE,)], [(GLOBAL,)]]),
        (GLOBAL >> VALUE, [[(GLOBAL,)], [(VALUE,)]]),
        (VALUE >> VALUE, [[(VALUE,)], [(VALUE,)]]),
        (TENSOR >> ClipGradByGlobalNorm(1.0, 1), [[(TENSOR,)], [(ClipGradByGlobalNorm(1.0, 1),)]]),
        (TENSOR >> VALUE >> TENSOR >> GLOBAL, [[(TENSOR,)], [(VALUE,)], [(TENSOR, GLOBAL)]]),
    ],
    ids=repr,
)
def test_rescaling_stages_of_one_norm_share_a_sweep(rule, phases):
    assert stages(rule) == phases


def test_a_root_mean_square_folds_with_an_l2_norm():
    rms = Rule(Tensor(), RMS(), Constant(1.0))
    assert stages(rms >> GLOBAL) == [[(rms, GLOBAL)]]


def test_patterns_run_side_by_side_and_longer_ones_go_on():
    rules = Rules({"a": TENSOR >> GLOBAL, "b": None, "c": VALUE >> GLOBAL})
    assert stages(rules) == [[(TENSOR, GLOBAL), None, (VALUE,)], [None, None, (GLOBAL,)]]
    assert [phase.names for phase in phases_of(rules)] == [rules, rules]


def test_a_choice_by_name_does_not_fold_with_what_comes_before_or_after():
    rules = Rules({"*": TENSOR})
    assert stages(GLOBAL >> rules >> GLOBAL) == [[(GLOBAL,)], [(TENSOR,)], [(GLOBAL,)]]


def test_a_sweep_is_measured_at_its_finest_scope():
    def leaf(rule):
        return phases_of(rule)[0].sweeps[0].leaf

    assert leaf(GLOBAL) == Global()
    assert leaf(TENSOR >> GLOBAL) == Tensor()
    assert leaf(GLOBAL >> ROW) == Row()
