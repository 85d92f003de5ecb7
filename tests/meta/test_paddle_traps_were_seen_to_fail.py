"""Each trap of the Paddle door: its test is green, and red when the cure of the trap is taken away."""

import paddle
import pytest

import gradclip
import gradclip.paddle.clip as door
from gradclip.engines import paddle_layout
from gradclip.paddle import clipper, groups, lbfgs
from gradclip.paddle.groups import Call, Turns
from paddle_door import test_clip as contract
from paddle_door import test_groups as several
from paddle_door import test_optimizers as steps
from planting import Plant, nothing

SGD = paddle.optimizer.SGD


def every_parameter(parameter, need_clip):
    return True


def only_flagged(parameter, need_clip):
    return getattr(parameter, "need_clip", True) is not False


def whichever_gradient(gradient):
    return 0, 0


def frozen_too(clip, call):
    every = [(n, group) for n, group in call.groups_with(clip) if n > (call.number or 0)]
    pairs = [(p, g) for _, group in every for p in group["params"] if (g := p._grad_ivar()) is not None]
    return pairs, [n for n, group in every for p in group["params"] if p._grad_ivar() is not None]


def any_clip(self, clip):
    return [] if self.number is None else list(enumerate(self.optimizer._param_groups))


def a_slot_each(own):
    return own._replace(tensors=[clipper.Slot(gradient) for gradient in own.tensors])


def unmerged(gradient):
    return paddle.Tensor(gradient.get_selected_rows().get_tensor())


PLANTS = [
    Plant("each group has a norm of its own", several.test_groups_are_clipped_by_the_norm_of_all,
          ("cpu",), door, "later_groups", lambda clip, call: ([], [])),
    Plant("a later group is clipped again", several.test_groups_are_clipped_by_the_norm_of_all,
          ("cpu",), Turns, "taken", nothing),
    Plant("what was clipped on a device is lost", several.test_groups_are_clipped_by_the_norm_of_all,
          ("paddle",), Turns, "put", nothing),
    Plant("a gradient is known by its parameter alone",
          several.test_a_gradient_that_changes_before_its_turn_is_clipped_again,
          (), groups, "_stamp", whichever_gradient),
    Plant("a step that failed is remembered", several.test_a_step_that_failed_leaves_nothing_for_the_next,
          ("cpu",), Call, "is_first_of", lambda self, clip: False),
    Plant("a group with another clip is taken in", several.test_a_group_with_a_clip_of_its_own_has_a_norm_of_its_own,
          ("cpu",), Call, "groups_with", any_clip),
    Plant("frozen parameters count", several.test_excluded_and_frozen_parameters_of_later_groups_do_not_count,
          ("cpu",), door, "later_groups", frozen_too),
    Plant("an overflow is not left to the scaler", steps.test_an_overflow_that_the_scaler_found_is_no_step_of_the_clip,
          (False,), Call, "overflowed", False, gradclip.NonFiniteGradient),
    Plant("a skip breaks kernels of many tensors",
          steps.test_an_optimizer_that_updates_all_tensors_at_once_is_clipped_and_refuses_skips,
          ("Momentum",), Call, "refuse_skips", nothing),
    Plant("LBFGS is silent", steps.test_lbfgs_never_calls_its_clip_and_it_is_said_when_it_is_made,
          (paddle.optimizer.LBFGS,), lbfgs, "NEVER_CALLED", "all is well"),
    Plant("ParamAttr is not asked", contract.test_pairs_without_a_gradient_are_dropped_and_the_order_stays,
          ("cpu",), clipper, "needs_clip", every_parameter),
    Plant("the function need_clip is not asked",
          contract.test_a_parameter_that_needs_no_clip_is_returned_as_it_is,
          (gradclip.paddle.ClipGradByGlobalNorm, "cpu"), clipper, "needs_clip", only_flagged),
    Plant("a pair given twice is scaled twice", contract.test_a_pair_given_twice_is_counted_and_scaled_once,
          ("paddle",), clipper, "in_slots", a_slot_each),
    Plant("rows are measured before they are merged",
          contract.test_rows_of_a_sparse_gradient_are_merged_measured_and_clipped,
          ("cpu",), paddle_layout, "merged_rows", unmerged),
    Plant("a transposed gradient is moved", contract.test_a_transposed_gradient_is_clipped_in_its_own_memory,
          (), paddle.Tensor, "clone", paddle.Tensor.contiguous),
    Plant("autograd hears of no write", contract.test_below_the_threshold_nothing_is_written,
          (), paddle.Tensor, "_bump_inplace_version", nothing),
    Plant("nothing to clip is silent", contract.test_nothing_to_clip_is_said_once,
          (), door, "report_nothing", nothing),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_trap_is_cured_and_without_its_cure_red(plant):
    plant.check()
