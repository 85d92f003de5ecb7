"""For each file of peers' cases a planted bug on which one of them is red."""

import pytest

import gradclip.step.decide
import gradclip.torch.functional
from doors import Door
from gradclip import Rescale, WeightRatio
from gradclip.engines import torch as torch_engine
from gradclip.rules.norm import RMS
from gradclip.torch.hook import AttachedClipper
from parity import test_cases_of_apex as apex
from parity import test_cases_of_composer as composer
from parity import test_cases_of_keras as keras
from parity import test_cases_of_optax as optax
from parity import test_cases_of_paddle as paddle
from parity import test_cases_of_pytorch as pytorch
from parity import test_cases_of_timm as timm
from planting import Plant, nothing

DOOR = Door("torch")


def with_epsilon(measure, rule, sizes, unscaled_norm=gradclip.step.decide.unscaled_norm):
    return unscaled_norm(measure, rule, sizes) + 1e-6


def without_floor(self, observed, state):
    return self.ratio * observed.weights, state


def above_a_millionth(self, ratio, xp):
    """Rescale a little too far."""
    return xp.where(ratio > 1.0, (1.0 - 1e-5) / ratio, 1.0)


def as_l2(self, total, size, xp):
    return xp.sqrt(total)


def always(self, ratio, xp):
    return 0.5


PLANTS = [
    Plant("error_if_nonfinite is not asked", pytorch.test_error_if_nonfinite_raises_where_the_norm_is_non_finite,
          (DOOR, "infinity", True, True), gradclip.torch.functional, "_raise_if_nonfinite", nothing),
    Plant("a small gradient is scaled", pytorch.test_small_gradients_stay_as_they_are,
          (DOOR, pytorch.by_clip_grad_norm, 2, False), Rescale, "coefficient", always),
    Plant("a large norm misses the limit by 1e-5", pytorch.test_a_large_norm_becomes_the_limit_by_one_factor,
          (DOOR, pytorch.in_two_calls, 0.5, True), Rescale, "coefficient", above_a_millionth),
    Plant("a root mean square is an L2 norm", optax.test_clipping_what_was_clipped_is_clipping_the_first_gradients,
          ("block RMS",), RMS, "finish", as_l2),
    Plant("a clip under vmap misses by 1e-5", optax.test_each_example_is_clipped_under_vmap,
          (), Rescale, "coefficient", above_a_millionth),
    Plant("a clip in a graph misses by 1e-5", paddle.test_in_a_static_graph_the_gradients_are_those_of_numpy,
          ("pir", "norm", "float32"), Rescale, "coefficient", above_a_millionth),
    Plant("the optimizer steps without the clip", keras.test_each_optimizer_steps_with_the_clipped_gradient,
          ("clipnorm", "Adam"), AttachedClipper, "_before_step", nothing),
    Plant("an epsilon in the norm", apex.test_differs_no_epsilon_stands_beside_the_norm,
          (DOOR,), gradclip.step.decide, "unscaled_norm", with_epsilon),
    Plant("weights of zero have no floor", composer.test_differs_weights_of_zero_may_learn,
          (DOOR,), WeightRatio, "at", without_floor),
    Plant("the units lie on the last axis", composer.test_the_units_are_clipped_to_a_share_of_their_weights,
          (DOOR, "two axes", 1e-3), torch_engine, "unit_axis", lambda shape: len(shape) - 1),
    Plant("small weights have no floor", timm.test_small_weights_count_as_eps,
          (DOOR, 0.5), WeightRatio, "at", without_floor),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_case_is_green_and_with_the_bug_red(plant):
    plant.check()
