"""For processes that decide alike: bugs planted, on which the law is red."""

from __future__ import annotations

from unittest import mock

import pytest

import gradclip.step.decide
import gradclip.step.layout
import gradclip.step.nonfinite
import gradclip.step.processes
import gradclip.step.respond
import test_across
from gradclip import L2, AutoClip, ClipGradByValue, Constant, Raise, Rule, SkipStep, Tensor
from gradclip.engines.base import Across
from planting import Plant

LAW = test_across.test_processes_decide_alike_what_one_process_would_decide
BY_VALUE = ClipGradByValue(1.5) >> AutoClip()


def broken_here(measure, broken, across=None, either=gradclip.step.decide.either):
    return either(measure, broken)


def not_shared(number, counts, xp, engine, across):
    return number


def refused_early(*arguments):
    """The law where what is refused before the first write is all that stops a step."""
    short = mock.patch.object(test_across, "WAIT", 3.0)  # with the bug one process waits in vain
    with mock.patch.object(gradclip.step.respond, "in_any", not_shared), short:
        LAW(*arguments)


def met_here_alone(number, phase, names, spread, apart, columns_of=gradclip.step.layout._columns_of):
    return columns_of(number, phase, names, spread and (spread[0], False), apart)


def by_name(rule):
    """The test of rules by name, in which with a bug one process waits in vain, or has the sums of other tensors."""
    with mock.patch.object(test_across, "WAIT", 3.0):
        test_across.test_rules_by_name_sum_up_what_has_these_names_anywhere(rule)


PLANTS = [
    Plant("what was broken elsewhere is learnt", LAW, (BY_VALUE, "zero", "NaN"),
          gradclip.step.processes, "either", broken_here),
    Plant("the same, by an infinity that is kept", LAW, (test_across.CHAINS[5], "keep", "inf"),
          gradclip.step.processes, "either", broken_here),
    Plant("learnt beside a stage that zeroes", LAW, (test_across.CHAINS[3], "zero", "NaN"),
          gradclip.step.decide, "either", broken_here),
    Plant("one process skips", LAW, (Rule(Tensor(), L2(), Constant(50.0), SkipStep()), "keep", "large"),
          gradclip.step.respond, "in_any", not_shared),
    Plant("one process raises", LAW, (Rule(Tensor(), L2(), Constant(50.0), Raise()), "keep", "large"),
          gradclip.step.respond, "in_any", not_shared),
    Plant("one process refuses early", refused_early, (test_across.CHAINS[5], "raise", "NaN"),
          gradclip.step.nonfinite, "in_any", not_shared),
    Plant("a pattern without a tensor here is left out", by_name, (test_across.BY_NAME[-1],),
          gradclip.step.layout, "_columns_of", met_here_alone),
    Plant("the sums of a pattern are those of all tensors", by_name, (test_across.BY_NAME[0],),
          Across, "only", lambda self, indices: self),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning")
def test_a_planted_bug_turns_the_law_red(plant):
    plant.check()
