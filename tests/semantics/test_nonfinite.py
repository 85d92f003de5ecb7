"""Non-finite gradients: decided from the count of non-finite elements, not from the norm."""

from __future__ import annotations

import math

import pytest
import torch

from doors import parameter, written
from gradclip import (
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    GradclipWarning,
    Linf,
    NonFiniteGradient,
    Rule,
    TooManySkips,
)
from gradclip.torch import Clipper

BROKEN = [math.nan, math.inf, -math.inf]
NORMS = [2.0, 1.0, 3.0, math.inf]
nonfinite = pytest.mark.parametrize("value", BROKEN)
norms = pytest.mark.parametrize("p", NORMS)


def pair(value):
    return {"good": parameter(3.0, 4.0), "bad": parameter(1.0, value, 2.0)}


@nonfinite
@norms
def test_keep_writes_nothing_counts_and_names_the_parameter(door, value, p):
    both = pair(value)
    with pytest.warns(GradclipWarning, match=r"the gradient of 'bad' is non-finite at step 0"):
        result = door.clip_(both, ClipGradByGlobalNorm(1.0, p))
    assert both["good"].grad.tolist() == [3.0, 4.0]
    assert both["bad"].grad.tolist()[::2] == [1.0, 2.0]
    assert result.nonfinite == 1
    assert not math.isfinite(result.norm_before)
    assert not result.clipped
    assert not result.skipped


@nonfinite
def test_keep_leaves_one_tensor_alone_and_clips_the_others(door, value):
    both = pair(value)
    with pytest.warns(GradclipWarning, match="'bad'"):
        assert not written(lambda: door.clip_(both, ClipGradByNorm(1.0)), both["bad"].grad)
    assert both["good"].grad.tolist() == pytest.approx([0.6, 0.8])


@nonfinite
@norms
def test_skip_takes_every_gradient_away(door, value, p):
    both = pair(value)
    kept = [q.grad for q in both.values()]
    assert not written(lambda: door.clip_(both, ClipGradByGlobalNorm(1.0, p), on_nonfinite="skip"), *kept)
    assert [q.grad for q in both.values()] == [None, None]


@nonfinite
def test_zero_makes_the_segment_zero_and_no_other(door, value):
    both = pair(value)
    door.clip_(both, ClipGradByNorm(1.0), on_nonfinite="zero")
    assert both["bad"].grad.tolist() == [0.0, 0.0, 0.0]
    assert both["good"].grad.tolist() == pytest.approx([0.6, 0.8])


@nonfinite
def test_zero_by_value_makes_the_element_zero_and_no_other(door, value):
    both = pair(value)
    door.clip_(both, ClipGradByValue(1.5), on_nonfinite="zero")
    assert both["bad"].grad.tolist() == [1.0, 0.0, 1.5]
    assert both["good"].grad.tolist() == [1.5, 1.5]


@nonfinite
@norms
def test_raise_names_the_parameter_and_writes_nothing(door, value, p):
    both = pair(value)
    with pytest.raises(NonFiniteGradient, match=r"the gradient of 'bad' is non-finite.*no gradient was written"):
        door.clip_(both, ClipGradByGlobalNorm(1.0, p), on_nonfinite="raise")
    assert both["good"].grad.tolist() == [3.0, 4.0]
    assert both["good"].grad._version == 0


def test_by_value_an_infinity_becomes_its_bound_and_nan_stays(door):
    p = parameter(math.inf, -math.inf, math.nan, 0.5)
    with pytest.warns(GradclipWarning, match="non-finite"):
        result = door.clip_([p], ClipGradByValue(1.0, -2.0))
    assert p.grad.tolist() == pytest.approx([1.0, -2.0, math.nan, 0.5], nan_ok=True)
    assert result.nonfinite == 3


def test_a_warning_is_given_once(door):
    clipper = Clipper(ClipGradByGlobalNorm(1.0), engine=door.engine)
    with pytest.warns(GradclipWarning):
        clipper.clip_(pair(math.nan))
    clipper.clip_(pair(math.nan))  # where a warning would be an error


def test_no_other_warning_is_given(door, recwarn):
    for rule in (ClipGradByGlobalNorm(1.0), ClipGradByNorm(1.0), Rule(norm=Linf()), ClipGradByValue(1.0)):
        for value in BROKEN:
            door.clip_(pair(value), rule, on_nonfinite="skip")
    assert [str(warning.message) for warning in recwarn] == []


def test_too_many_skips_in_a_row_raise(door):
    clipper = Clipper(ClipGradByGlobalNorm(1.0), engine=door.engine, on_nonfinite="skip", max_consecutive_skips=2)
    clipper.clip_(pair(math.nan))
    clipper.clip_(pair(1.0))
    clipper.clip_(pair(math.nan))
    clipper.clip_(pair(math.nan))
    with pytest.raises(TooManySkips, match="3 steps in a row were skipped, the last at step 4"):
        clipper.clip_(pair(math.nan))


@nonfinite
def test_the_drop_in_returns_the_norm_and_writes_nothing(door, value):
    both = list(pair(value).values())
    norm = None

    def clip():
        nonlocal norm
        norm = door.clip_grad_norm_(both, 1.0)

    assert not written(clip, *[p.grad for p in both])
    assert norm.item() == pytest.approx(abs(value), nan_ok=True)


def test_every_element_is_counted(door):
    p = torch.nn.Parameter(torch.zeros(1000))
    p.grad = torch.ones(1000)
    p.grad[::10] = math.nan
    p.grad[5::10] = math.inf
    with pytest.warns(GradclipWarning):
        assert door.clip_([p]).nonfinite == 200


def test_a_sum_of_nan_and_infinity_is_nan(door):
    p, q = parameter(math.inf, 1.0), parameter(math.nan)
    with pytest.warns(GradclipWarning):
        assert math.isnan(door.clip_([p, q]).norm_before)
    assert math.isnan(door.clip_grad_norm_([p, q], 1.0))
