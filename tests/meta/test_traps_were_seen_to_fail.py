"""Each trap of the optimizer's hook: its test is green, and red when the cure of the trap is taken away."""

import pytest
import torch

import gradclip
import gradclip.torch.clipper as by_hand
import gradclip.torch.hook as door
from gradclip.engines import torch_layout
from gradclip.torch import attached, base_step, optimizers, parameters, pinned, step_attributes
from gradclip.torch.hook import AttachedClipper
from planting import Plant, nothing
from torch_door import test_attach as traps
from torch_door import test_unusual_optimizers as unusual

SGD, ADAMW, FUSED = torch.optim.SGD, torch.optim.AdamW, {"lr": 0.01, "fused": True}


def hidden(name):
    """The hook does not look at an attribute that GradScaler sets."""

    def without(self, optimizer, clip=AttachedClipper._clip_for):
        value = optimizer.__dict__.pop(name, None)
        clip(self, optimizer)
        if value is not None:
            setattr(optimizer, name, value)

    return without


def clip_at_once(self, optimizer, arguments, options):
    self._clip_for(optimizer)


def clip_twice(self, optimizer, arguments, options):
    self._clip_for(optimizer)
    self._clip_for(optimizer)


def in_turns(self, optimizer):
    """The first optimizer of a cycle clips for all, whatever happens in between."""
    served = self.__dict__.setdefault("served", set())
    if not served or id(optimizer) in served:
        served.clear()
        served.add(id(optimizer))
        return False
    served.add(id(optimizer))
    return True


def first_only(optimizers, model, of_optimizers=parameters.of_optimizers):
    return of_optimizers(optimizers[:1], model)


def every_group(optimizers, model):
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return parameters.TorchParameters([p for group in groups for p in group["params"]])


def whichever_is_attached(*arguments):
    return next(iter(door._attached.values()))()


def keep_the_gradients(self, gradients, engine, clip=AttachedClipper.clip_gradients):
    result = clip(self, gradients, engine)
    result.gradients = gradients
    return result


kept = []


def keep_the_clipper(self, *arguments, init=AttachedClipper.__init__):
    init(self, *arguments)
    kept.append(self)


def any_function(parameters_, need_clip=None, divisor=1.0, gradients_of=parameters.gradients_of):
    return gradients_of(parameters_, None, divisor)


def always_judge(self):
    gradclip.torch.parameters.report_nothing("pinned")


def judge_any(self, norm):
    """Take the steps of norms that are not finite, and never forget."""
    self._norms.append(norm)
    if len(self._norms) >= pinned.STEPS:
        always_judge(self)


PLANTS = [
    Plant("a closure is not waited for", traps.test_a_closure_is_clipped_after_it_made_the_gradients,
          (SGD, {"lr": 0.1}, False), AttachedClipper, "_before_step", clip_at_once),
    Plant("a closure given by name is not waited for", traps.test_a_closure_is_clipped_after_it_made_the_gradients,
          (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 5}, True), AttachedClipper, "_before_step", clip_at_once),
    Plant("clipped twice a step", traps.test_schedulers_and_accumulation_clip_once_for_each_real_step,
          (), AttachedClipper, "_before_step", clip_twice),
    Plant("the loss scale is not divided out", traps.test_grad_scaler_is_divided_out_before_the_threshold_is_compared,
          (ADAMW, FUSED, False, False), AttachedClipper, "_clip_for", hidden("grad_scale")),
    Plant("an overflow is not left to the scaler", traps.test_a_step_on_which_grad_scaler_overflows_is_left_to_it,
          (True,), AttachedClipper, "_clip_for", hidden("found_inf"), gradclip.NonFiniteGradient),
    Plant("what was lent stays", traps.test_a_coefficient_through_grad_scale_equals_scaling_the_gradients,
          (ADAMW, FUSED), step_attributes.StepAttributes, "restore", nothing),
    Plant("a coefficient is lent to anyone",
          traps.test_through_grad_scale_is_refused_where_one_coefficient_is_not_enough,
          (lambda m: attached.attach(ADAMW(m.parameters()), traps.RULE, through_grad_scale=True),),
          door, "refuse_through", nothing),
    Plant("each optimizer has a norm of its own", traps.test_two_optimizers_share_one_norm,
          (), door, "of_optimizers", first_only),
    Plant("each optimizer clips again", traps.test_two_optimizers_share_one_norm,
          (), AttachedClipper, "_was_clipped", lambda self, optimizer: False),
    Plant("optimizers are taken to step in turns",
          traps.test_two_optimizers_that_step_at_their_own_pace_are_both_clipped,
          (), AttachedClipper, "_was_clipped", in_turns),
    Plant("gradients made later are taken for clipped",
          traps.test_gradients_that_one_optimizer_gets_after_the_other_stepped_are_clipped_as_well,
          (), AttachedClipper, "_was_clipped", in_turns),
    Plant("what waits for its step is clipped again",
          traps.test_a_gradient_that_waits_for_its_optimizer_is_clipped_once, (),
          AttachedClipper, "_needs_without", lambda self, left_out: self.need_clip),
    Plant("scaled and unscaled gradients mix", traps.test_two_optimizers_under_grad_scaler_must_be_unscaled_first,
          (), door, "to_be_left_out", lambda others, stepping: []),
    Plant("attached twice", traps.test_attaching_twice_is_attaching_once, (), attached, "already_attached", nothing),
    Plant("another rule joins in", traps.test_another_rule_on_an_attached_optimizer_is_refused_until_detached,
          (), attached, "already_attached", nothing),
    Plant("a copy is taken for attached", traps.test_a_copy_of_an_optimizer_has_no_hooks_and_can_be_attached_again,
          (traps.copy.deepcopy,), attached, "already_attached", whichever_is_attached, (AssertionError, RuntimeError)),
    Plant("hooks stay", traps.test_detach_and_the_context_manager_take_the_hooks_away,
          (), torch.utils.hooks.RemovableHandle, "remove", nothing),
    Plant("the clipper is held", traps.test_an_optimizer_and_its_clipper_go_when_nobody_holds_them,
          (), AttachedClipper, "__init__", keep_the_clipper),
    Plant("a wrapper is not unwrapped", traps.test_a_wrapper_is_unwrapped,
          (), attached, "unwrapped", lambda optimizer: optimizer, AttributeError),
    Plant("an optimizer inside another one is not looked for",
          unusual.test_sam_is_clipped_where_its_inner_step_uses_the_gradient,
          (True,), optimizers, "_held", lambda optimizer: {}, RuntimeError),
    Plant("a step inside a step is clipped again", unusual.test_a_step_that_calls_that_of_its_base_is_clipped_once,
          (), base_step.UpdateStep, "is_this", lambda self, optimizer: True),
    Plant("the clip comes before the outer step", unusual.test_what_is_clipped_is_what_the_step_of_the_base_uses,
          (unusual.ChangesGradients,), base_step, "calls", lambda code, owners: False),
    Plant("a replaced step is not seen", unusual.test_a_step_that_was_replaced_on_the_instance_is_refused,
          (), optimizers, "_runs_hooks", lambda optimizer: True),
    Plant("each evaluation of LBFGS is watched",
          unusual.test_lbfgs_that_evaluates_often_is_not_told_that_something_clips_before,
          (), pinned.PinnedNorm, "_add", judge_any),
    Plant("what a scaler leaves out spoils the norm",
          unusual.test_what_a_grad_scaler_leaves_out_does_not_keep_the_other_optimizer_from_being_clipped,
          ("b",), door, "to_be_left_out", lambda others, stepping: []),
    Plant("an optimizer in backward gets a global rule",
          traps.test_an_optimizer_in_backward_takes_a_rule_for_each_tensor_and_refuses_a_global_one,
          (), door, "refuse_step_in_backward", nothing),
    Plant("a step in backward is not seen", traps.test_a_step_inside_a_backward_hook_of_ones_own_is_found_out,
          (), torch._C, "_current_graph_task_id", lambda: -1),
    Plant("a clip of one's own is not seen", traps.test_ones_own_clip_left_on_is_warned_of,
          (), pinned.PinnedNorm, "watch", nothing),
    Plant("free training is taken for clipped", traps.test_training_without_a_clip_of_ones_own_is_not_warned_of,
          (), pinned, "WIDTH", 10.0),
    Plant("a constant norm is taken for clipped", traps.test_a_norm_that_never_changes_is_not_taken_for_a_clip,
          (), pinned.PinnedNorm, "_judge", always_judge),
    Plant("a compiled step loses the hook", traps.test_a_compiled_step_clips,
          (), torch.compiler, "disable", lambda hook: nothing),
    Plant("a sparse gradient is not coalesced", traps.test_sparse_gradients_are_clipped_in_the_step,
          (), torch_layout, "_coalesced", lambda gradient: gradient),
    Plant("a zero step is clipped", traps.test_an_all_zero_step_is_a_step_like_any_other_and_is_not_clipped,
          (), gradclip.Rescale, "coefficient", lambda self, ratio, xp: 0.5),
    Plant("a step without gradients is silent", traps.test_a_step_without_gradients_is_reported_once,
          (), door, "report_nothing", nothing),
    Plant("a skipped step steps", traps.test_a_skipped_step_moves_nothing_at_all, (ADAMW, {"lr": 0.01}), door, "drop",
          nothing),
    Plant("skips are not counted", traps.test_too_many_skips_in_a_row_raise,
          (), AttachedClipper, "count_skip", nothing),
    Plant("the model's names are not asked for", traps.test_raising_names_the_parameter_and_takes_no_step,
          (), door, "of_optimizers", every_group),
    Plant("the optimizer's names are not asked for",
          traps.test_names_come_from_the_optimizer_if_it_was_given_named_parameters, (), door, "of_optimizers",
          every_group),
    Plant("an excluded group is clipped", traps.test_a_parameter_group_can_be_excluded_by_its_key,
          (), door, "of_optimizers", every_group),
    Plant("the function need_clip is not asked", traps.test_an_excluded_parameter_is_neither_measured_nor_scaled,
          (traps.exclusions()[1],), by_hand, "gradients_of", any_function),
    Plant("groups are lost", traps.test_a_global_norm_spans_the_groups_and_a_group_norm_does_not,
          (), door, "of_optimizers", every_group),
    Plant("a result keeps the gradients", traps.test_the_last_result_keeps_no_gradient_alive,
          ("cpu", traps.RULE), AttachedClipper, "clip_gradients", keep_the_gradients),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_trap_is_cured_and_without_its_cure_red(plant):
    plant.check()
    kept.clear()
