"""One global norm over the parameter groups of an optimizer, which Paddle hands over one after another."""

from __future__ import annotations

import copy

import paddle
import pytest

import gradclip
from gradclip import GradclipWarning, NonFiniteGradient
from gradclip.paddle import Clip, ClipGradByGlobalNorm, ClipGradByNorm
from paddle_eager import ENGINES, embedding, numbers, parameter, scaler_on_cpu, stepped, without_gradient

# The step subtracts a product that was rounded twice.
CLOSE = 3 * 2.0**-24


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def sgd(clip, *groups):
    return paddle.optimizer.SGD(1.0, parameters=[{"params": [*group]} for group in groups], grad_clip=clip)


def close(*numbers):
    return [pytest.approx([-number], rel=CLOSE) for number in numbers]


def test_groups_are_clipped_by_the_norm_of_all(engine):
    a, b = parameter(3.0), parameter(4.0)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    assert stepped(sgd(clip, [a], [b]), a, b) == close(0.6, 0.8)
    assert (clip.last.norm_before, clip.clipper.step) == (5.0, 1)


@pytest.mark.parametrize("kind", ["SGD", "Momentum", "Adam", "AdamW", "Lamb", "RMSProp"])
def test_every_optimizer_with_groups_steps_as_one_without(kind):
    def run(grouped):
        paddle.seed(0)
        a, b = parameter(3.0, 1.0), parameter(-4.0)
        given = [{"params": [a]}, {"params": [b]}] if grouped else [a, b]
        optimizer = getattr(paddle.optimizer, kind)(
            learning_rate=0.1, parameters=given, grad_clip=ClipGradByGlobalNorm(1.0)
        )
        first = stepped(optimizer, a, b)
        a.grad, b.grad = paddle.to_tensor([0.5, 0.25]), paddle.to_tensor([30.0])
        return first, stepped(optimizer, a, b)

    assert run(grouped=True) == run(grouped=False)


def test_a_second_step_is_clipped_by_its_own_norm(engine):
    a, b = parameter(3.0), parameter(4.0)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    optimizer = sgd(clip, [a], [b])
    optimizer.step()
    a.grad, b.grad = paddle.to_tensor([5.0]), paddle.to_tensor([12.0])
    optimizer.step()
    assert (clip.last.norm_before, clip.clipper.step) == (13.0, 2)
    assert numbers(a)[0] == pytest.approx(-0.6 - 5 / 13, rel=2 * CLOSE)


def test_gradients_that_stay_are_clipped_again(engine):
    """Without clear_grad the gradients of the second step are those that the first one left."""
    a, b = parameter(3.0), parameter(4.0)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    optimizer = sgd(clip, [a], [b])
    optimizer.step()
    optimizer.step()
    assert clip.clipper.step == 2
    assert [numbers(a).tolist(), numbers(b).tolist()] == close(1.2, 1.6)


def test_a_group_with_a_clip_of_its_own_has_a_norm_of_its_own(engine):
    a, b, c = parameter(3.0), parameter(4.0), parameter(24.0)
    own, clip = ClipGradByGlobalNorm(2.0, engine=engine), ClipGradByGlobalNorm(1.0, engine=engine)
    groups = [{"params": [a]}, {"params": [c], "grad_clip": own}, {"params": [b]}]
    optimizer = paddle.optimizer.SGD(1.0, parameters=groups, grad_clip=clip)
    assert stepped(optimizer, a, b, c) == close(0.6, 0.8, 2.0)
    assert (clip.last.norm_before, own.last.norm_before) == (5.0, 24.0)


def test_a_group_without_a_clip_is_left_alone(engine):
    a, b, c = parameter(3.0), parameter(4.0), parameter(24.0)
    groups = [{"params": [c], "grad_clip": None}, {"params": [a]}, {"params": [b]}]
    optimizer = paddle.optimizer.SGD(1.0, parameters=groups, grad_clip=ClipGradByGlobalNorm(1.0, engine=engine))
    assert stepped(optimizer, a, b, c) == close(0.6, 0.8, 24.0)


def test_excluded_and_frozen_parameters_of_later_groups_do_not_count(engine):
    a, b, c, d = parameter(3.0), parameter(4.0), parameter(24.0, need_clip=False), parameter(100.0)
    d.stop_gradient = True
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    assert stepped(sgd(clip, [a], [c, b, d]), a, b, c) == close(0.6, 0.8, 24.0)
    assert numbers(d) == 0.0


def test_groups_without_gradients_have_no_part(engine):
    a, b, c, d = without_gradient(), parameter(3.0), without_gradient(), parameter(4.0)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    assert stepped(sgd(clip, [a], [b], [c], [d]), b, d) == close(0.6, 0.8)
    assert clip.clipper.step == 1


def test_nothing_to_clip_in_any_group_is_said():
    with pytest.warns(GradclipWarning, match="nothing is clipped"):
        sgd(ClipGradByGlobalNorm(1.0), [without_gradient()], [without_gradient()]).step()


def test_a_skip_skips_all_groups(engine):
    a, b = parameter(3.0), parameter(float("nan"))
    clip = ClipGradByGlobalNorm(1.0, on_nonfinite="skip", engine=engine)
    optimizer = sgd(clip, [a], [b])
    assert stepped(optimizer, a, b) == [[0.0], [0.0]]
    assert clip.last.skipped
    a.grad, b.grad = paddle.to_tensor([3.0]), paddle.to_tensor([4.0])
    assert stepped(optimizer, a, b) == close(0.6, 0.8)


def test_an_error_in_a_later_group_comes_before_the_first_steps(engine):
    a, b = parameter(3.0), parameter(float("nan"))
    with pytest.raises(NonFiniteGradient, match=b.name):
        sgd(ClipGradByGlobalNorm(1.0, on_nonfinite="raise", engine=engine), [a], [b]).step()
    assert numbers(a) == 0.0
    assert numbers(a.grad) == 3.0


def test_sparse_gradients_of_later_groups_count_too(engine):
    """Of the later group 8 elements of 2, with norm 2 * sqrt(8); of the first one 7: 32 + 49 = 81."""
    a, table = parameter(7.0), embedding(0, 1, 3, 4, scale=2.0)
    before = numbers(table)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    assert stepped(sgd(clip, [a], [table]), a) == close(7 / 9)
    assert clip.last.norm_before == pytest.approx(9.0, rel=1e-6)
    # The difference of two numbers below 4 in float32 has the rounding of the larger.
    assert (before - numbers(table))[3, 0] == pytest.approx(2 / 9, abs=4 * 2.0**-24)


def test_two_optimizers_with_one_clip_have_a_norm_each(engine):
    a, b, c, d = parameter(3.0), parameter(4.0), parameter(5.0), parameter(12.0)
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    first, second = sgd(clip, [a], [b]), sgd(clip, [c], [d])
    assert stepped(first, a, b) == close(0.6, 0.8)
    assert stepped(second, c, d) == close(5 / 13, 12 / 13)
    assert clip.clipper.step == 2


def test_a_clip_of_each_tensor_serves_groups_as_well(engine):
    a, b = parameter(3.0), parameter(0.5)
    clip = ClipGradByNorm(1.0, engine=engine)
    assert stepped(sgd(clip, [a], [b]), a, b) == close(1.0, 0.5)
    assert [row.name for row in clip.last.segments] == [a.name, b.name]


def test_a_rule_for_each_group_knows_the_groups():
    a, b, c = parameter(3.0), parameter(4.0), parameter(12.0)
    clip = Clip(gradclip.Rule(scope=gradclip.Group()))
    assert stepped(sgd(clip, [a, b], [c]), a, b, c) == close(0.6, 0.8, 1.0)


def test_a_group_added_later_is_clipped_with_the_others(engine):
    a, b = parameter(3.0), parameter(4.0)
    optimizer = sgd(ClipGradByGlobalNorm(1.0, engine=engine), [a])
    optimizer._add_param_group({"params": [b]})
    assert stepped(optimizer, a, b) == close(0.6, 0.8)


def test_under_a_scaler_the_norm_of_all_groups_is_unscaled(engine):
    a, b = parameter(0.0), parameter(0.0)
    a.grad = b.grad = None
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    optimizer, scaler = sgd(clip, [a], [b]), scaler_on_cpu()
    scaler.scale(3.0 * a.sum() + 4.0 * b.sum()).backward()
    scaler.step(optimizer)
    assert clip.last.norm_before == 5.0
    assert [numbers(a).tolist(), numbers(b).tolist()] == close(0.6, 0.8)


def test_a_step_that_failed_leaves_nothing_for_the_next(engine):
    """The update of the first group fails after all were clipped; the next step clips the new gradients."""
    a, b = parameter(3.0), parameter(4.0)
    optimizer = sgd(ClipGradByGlobalNorm(1.0, engine=engine), [a], [b])
    update, optimizer._append_optimize_op = optimizer._append_optimize_op, None
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer._append_optimize_op = update
    a.grad, b.grad = None, paddle.to_tensor([12.0])
    assert stepped(optimizer, b) == close(1.0)


def test_a_gradient_that_changes_before_its_turn_is_clipped_again():
    """The update of the first group makes the gradient of the second a hundred times larger."""
    a, b = parameter(3.0), parameter(4.0)
    optimizer = sgd(ClipGradByGlobalNorm(1.0), [a], [b])
    update = optimizer._append_optimize_op

    def update_and_enlarge(block, pair):
        update(block, pair)
        if pair["params"][0] is a:
            b.grad.scale_(100.0)

    optimizer._append_optimize_op = update_and_enlarge
    assert stepped(optimizer, a, b) == close(0.6, 1.0)


def test_a_copy_of_the_clip_waits_for_no_group():
    a, b = parameter(3.0), parameter(4.0)
    clip = ClipGradByGlobalNorm(1.0)
    sgd(clip, [a], [b]).step()
    assert copy.deepcopy(clip)._turns._ahead == {}
