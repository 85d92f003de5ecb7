"""For what works on elements and beside the gradient: bugs planted, on which its tests are red."""

from __future__ import annotations

import pytest
import torch

import gradclip.clipper
import gradclip.step.carry
import gradclip.step.decide
import gradclip.step.moments
import gradclip.step.run
import gradclip.step.write
import gradclip.torch.hook
import gradclip.torch.update
import test_carry
import test_given
import test_second_moments
from benches import BENCHES
from doors import Door
from gradclip import ClipGradByValue, GradientAboveThreshold, Raise, Rule
from gradclip.engines.reference import NUMPY, NumpyValues
from gradclip.engines.torch_layout import TorchValues
from gradclip.rules.combine import Given
from gradclip.torch import AttachedClipper
from planting import Plant
from rules import test_traps_elements
from semantics import test_adapting_bounds
from torch_door import test_update

BENCH, DOOR = BENCHES["reference"], Door("torch")


def one_bound_for_all(part, bounds=gradclip.step.write.own_bounds_of):
    low, high = bounds(part)
    return low.min(), high.max()


def learning_from_all(values, xp, sides=gradclip.step.decide.sides):
    """The counts of non-finite elements forgotten, so that every peak is learnt."""
    first, second = sides(values, xp)
    return (0.0 * first, second) if (values == values.astype(int)).all() and values.max() < 2 else (first, second)


def comparing_all(self, observed, state, at=Given.at):
    """A non-finite loss taken for a large one."""
    number = observed.given[self.name]
    return at(self, observed._replace(given={self.name: min(number, 1e9) if number == number else 1e9}), state)


def keeping_given(self):
    return dict(self._given)


def written_first(gradients, *rest, carry=gradclip.step.carry.carry):
    for tensor in gradients.tensors:
        tensor *= 0.5
    return carry(gradients, *rest)


def zero_closes(engine, moment, like, limit=gradclip.step.moments._limit):
    """A second moment of 0 as the smallest threshold, as the original has it."""
    found = limit(engine, moment, like)
    return found + 1e-30 * (found == 0.0)


def rewriting(clipper, before):
    """Every parameter written anew from its old value and the update."""
    for p, old in zip(before.parameters.tensors, before.values, strict=True):
        p.data = old + (p.data - old) * 1.0000001


PLANTS = [
    Plant(
        "one bound for all tensors",
        test_adapting_bounds.test_each_tensor_has_its_own_bounds,
        (BENCH,),
        gradclip.step.write,
        "own_bounds_of",
        one_bound_for_all,
    ),
    Plant(
        "a peak beside a NaN is learnt",
        test_adapting_bounds.test_each_tensor_has_its_own_bounds,
        (BENCH,),
        gradclip.step.decide,
        "sides",
        learning_from_all,
    ),
    Plant(
        "a NaN loss is compared",
        test_given.test_a_non_finite_loss_is_neither_compared_nor_learnt,
        (DOOR, float("nan")),
        Given,
        "at",
        comparing_all,
    ),
    Plant(
        "the loss of the step before",
        test_given.test_a_loss_is_for_one_step_and_its_absence_is_refused_before_anything_is_written,
        (DOOR,),
        AttachedClipper,
        "taken_given",
        keeping_given,
    ),
    Plant(
        "a NaN is carried",
        test_carry.test_a_step_that_is_not_finite_is_clipped_alone_and_what_is_carried_waits,
        (BENCH, float("nan")),
        gradclip.step.carry,
        "any_nonfinite",
        lambda batch, engine: (False, NUMPY),
    ),
    Plant(
        "nothing is carried",
        test_carry.test_nothing_is_lost,
        (BENCH, ClipGradByValue(0.3)),
        NumpyValues,
        "beside",
        staticmethod(lambda saved, value: value * 0.0),
    ),
    Plant(
        "carried in the dtype of the gradient",
        test_carry.test_what_is_carried_is_wide,
        (DOOR, torch.bfloat16),
        TorchValues,
        "wide",
        staticmethod(lambda tensor, index: tensor.clone()),
    ),
    Plant(
        "written before it raises",
        test_carry.test_nothing_is_written_when_it_raises,
        (BENCH, Rule(response=Raise()), {}, GradientAboveThreshold),
        gradclip.step.run,
        "carry",
        written_first,
    ),
    Plant(
        "a second moment of 0 clips",
        test_second_moments.test_an_element_without_a_second_moment_is_not_clipped,
        (BENCH,),
        gradclip.step.moments,
        "_limit",
        zero_closes,
    ),
    Plant(
        "a row of an embedding is frozen",
        test_traps_elements.test_an_element_that_is_first_used_after_the_warm_up_is_frozen_by_the_original_spam,
        (),
        gradclip.step.moments,
        "_limit",
        zero_closes,
    ),
    Plant(
        "parameters are written anew",
        test_update.test_where_nothing_is_clipped_the_parameters_keep_their_bits,
        (DOOR, torch.float32),
        gradclip.torch.hook,
        "clip_update",
        rewriting,
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_turns_its_test_red(plant):
    plant.check()
