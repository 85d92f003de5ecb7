"""What a clip does in a static graph beside its arithmetic: what it reports, remembers, leaves alone and refuses."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import paddle
import pytest

import gradclip
from gradclip import L2, Element, Global, Linf, Raise, Row, Rule, Schedule, SkipStep, Smooth, Tensor
from gradclip.errors import GradclipWarning
from gradclip.paddle import Clip, ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.rules.threshold import Threshold
from gradclip.telemetry import Telemetry
from paddle_graph import MODES, graph, held
from remembering import Following

pytestmark = pytest.mark.parametrize("mode", MODES)


def parameter(name, start=(0.0, 0.0), **attributes):
    constant = paddle.nn.initializer.Assign(np.array(start, "float32"))
    attr = paddle.ParamAttr(name, initializer=constant, **attributes)
    return paddle.create_parameter([len(start)], "float32", attr=attr)


def minimize(clip, names=("a",), optimizer=paddle.optimizer.SGD, **options):
    """Parameters, each multiplied with what is fed under "to <name>", which is then its gradient; returns the loss."""
    loss = 0.0
    for name in names:
        fed = paddle.static.data(f"to {name}", [2], "float32")
        loss = (
            loss + (parameter(name) * fed).sum() if mode_is_pir() else loss + paddle.mean(parameter(name) * fed) * 2.0
        )
    optimizer(1.0, grad_clip=clip, **options).minimize(loss)
    return loss


def mode_is_pir():
    return paddle.framework.in_pir_mode()


def steps(made, clip, *gradients):
    """Run with each of the gradients of "a"; returns what was read of each step."""
    read = []
    for gradient in gradients:
        made.run({"to a": np.array(gradient, "float32")}, [])
        read.append(clip.last)
    return read


@pytest.mark.parametrize("rule", [Rule(Global()), Rule(Tensor(), response=Smooth()), Rule(Element(), Linf())], ids=repr)
def test_a_limit_that_becomes_0_writes_zeros_and_a_negative_one_nothing(mode, rule):
    """The limits are 1, 0 and -1; where it is 0 the element that is 0 already must not become NaN."""
    clip = Clip(replace(rule, threshold=Schedule(lambda step: 1.0 - step)))
    with graph(mode) as made:
        minimize(clip)
        after = [0.0]
        for _ in range(3):
            made.run({"to a": np.array([3.0, 0.0], "float32")}, [])
            after.append(float(held("a")[0]))
            assert held("a")[1] == 0.0
        assert (clip.last.threshold, clip.last.clipped) == (-1.0, False)
    first, second, third = np.diff(after)
    assert -1.0 <= first < 0.0
    assert (second, third) == (0.0, -3.0)


def test_a_schedule_follows_the_runs_of_the_program(mode):
    clip = Clip(Rule(threshold=Schedule((0, 4.0), (2, 1.0))))
    with graph(mode) as made:
        minimize(clip)
        results = steps(made, clip, *[[3.0, 4.0]] * 4)
    assert [result.threshold for result in results] == [4.0, 2.5, 1.0, 1.0]
    assert [result.step for result in results] == [0, 1, 2, 3]


def test_bounds_may_follow_a_schedule(mode):
    clip = Clip(Rule(Element(), Linf(), Schedule((0, 4.0), (2, 1.0))))
    with graph(mode) as made:
        minimize(clip)
        steps(made, clip, [3.0, -9.0])
        np.testing.assert_allclose(held("a"), [-3.0, 4.0])
        steps(made, clip, [3.0, -9.0])
        np.testing.assert_allclose(held("a"), [-5.5, 6.5])


def test_a_threshold_remembers_in_the_program(mode):
    """Twice the mean of the norms before: 5, then 5 and 1; a NaN teaches nothing."""
    clip = Clip(Rule(threshold=Following(2.0)))
    with graph(mode) as made:
        minimize(clip)
        results = steps(made, clip, [3.0, 4.0], [0.6, 0.8], [np.nan, 1.0], [30.0, 40.0])
    assert [result.threshold for result in results] == pytest.approx([2.0, 10.0, 6.0, 6.0])


@dataclass(frozen=True)
class Doubling(Threshold):
    """1, then twice as much in each step."""

    adapts: ClassVar[bool] = True

    def at(self, observed, state):
        level = state.get("level", observed.norm * 0.0 + 1.0)
        return level, {"level": 2.0 * level}

    def __str__(self):
        return "twice the last"


def test_a_memory_begins_as_the_threshold_begins_it(mode):
    clip = Clip(Rule(Tensor(), L2(), Doubling()))
    with graph(mode) as made:
        minimize(clip)
        results = steps(made, clip, *[[3.0, 4.0]] * 3)
    assert [result.threshold for result in results] == [1.0, 2.0, 4.0]


@dataclass(frozen=True)
class OfTheWeights(Threshold):
    """A tenth of the norm of the parameters, and without a memory."""

    adapts: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = True

    def at(self, observed, state):
        return observed.weights * 0.1, state

    def __str__(self):
        return "a tenth of the weights"


def test_a_threshold_reads_the_parameters(mode):
    clip = Clip(Rule(threshold=OfTheWeights()))
    with graph(mode) as made:
        loss = paddle.mean(parameter("a", (6.0, 8.0)) * paddle.static.data("to a", [2], "float32")) * 2.0
        paddle.optimizer.SGD(1.0, grad_clip=clip).minimize(loss)
        steps(made, clip, [3.0, 4.0])
        np.testing.assert_allclose(held("a"), [6.0 - 0.6, 8.0 - 0.8], rtol=1e-6)


@dataclass(frozen=True)
class Wordy(OfTheWeights):
    """A threshold whose memory is a word."""

    def at(self, observed, state):
        return 1.0, {"mood": "calm"}


def test_a_memory_of_words_is_refused(mode):
    with graph(mode), pytest.raises(NotImplementedError, match="'mood' is 'calm'"):
        minimize(Clip(Rule(threshold=Wordy())))


def test_a_nan_is_kept_and_counted(mode):
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        minimize(clip, optimizer=paddle.optimizer.SGD)
        (result,) = steps(made, clip, [np.nan, 4.0])
        assert np.isnan(held("a")[0])
        assert held("a")[1] == -4.0
        assert (result.nonfinite, result.clipped) == (1, False)
        assert np.isnan(result.norm_before)


def test_on_nonfinite_zero_takes_the_gradient_out(mode):
    clip = ClipGradByGlobalNorm(1.0, on_nonfinite="zero")
    with graph(mode) as made:
        minimize(clip)
        steps(made, clip, [np.inf, 4.0])
        np.testing.assert_array_equal(held("a"), [0.0, 0.0])


def test_below_the_threshold_no_bit_changes(mode):
    """The gradient of the second run is 2^-24 below 1, which a rounding would lose; without a threshold too."""
    for limit in (1.0, None, float("inf")):
        clip = ClipGradByGlobalNorm(limit)
        with graph(mode) as made:
            minimize(clip)
            steps(made, clip, [1.0 - 2.0**-24, 0.0])
            np.testing.assert_array_equal(held("a"), np.array([-(1.0 - 2.0**-24), 0.0], "float32"))


def test_what_paddle_loses_is_kept(mode):
    """1e25 squared is no fp32 number, and 0/0 none at all."""
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        minimize(clip)
        (result,) = steps(made, clip, [3e25, 4e25])
        np.testing.assert_allclose(held("a"), [-0.6, -0.8], rtol=1e-6)
        assert result.norm_before == pytest.approx(5e25, 1e-6)
        steps(made, clip, [0.0, 0.0])
        np.testing.assert_allclose(held("a"), [-0.6, -0.8], rtol=1e-6)


def test_all_parameters_are_under_one_norm(mode):
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        minimize(clip, names=("a", "b"))
        made.run({"to a": np.array([3.0, 0.0], "float32"), "to b": np.array([0.0, 4.0], "float32")}, [])
        np.testing.assert_allclose([held("a"), held("b")], [[-0.6, 0.0], [0.0, -0.8]], rtol=1e-6)
        assert [segment.name for segment in clip.last.segments] == ["all"]


OPTIMIZERS = ["SGD", "Momentum", "Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "RMSProp", "Lamb", "NAdam", "RAdam"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_on_the_clipped_gradient(mode, name):
    """Clipping [30, 40] to a norm of 1 is the same as [0.6, 0.8]: three steps with momenta and decay."""
    ends = []
    for clip, gradient in ((None, [0.6, 0.8]), (ClipGradByNorm(1.0), [30.0, 40.0])):
        with graph(mode) as made:
            minimize(clip, optimizer=getattr(paddle.optimizer, name))
            for _ in range(3):
                made.run({"to a": np.array(gradient, "float32")}, [])
            ends.append(held("a"))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5)
    assert ends[0].all()


def test_gradients_may_be_made_before_they_are_applied(mode):
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        a = parameter("a")
        loss = paddle.mean(a * paddle.static.data("to a", [2], "float32")) * 2.0
        optimizer = paddle.optimizer.SGD(1.0, grad_clip=clip)
        pairs = paddle.static.append_backward(loss)
        optimizer.apply_gradients(pairs)
        steps(made, clip, [3.0, 4.0])
        np.testing.assert_allclose(held("a"), [-0.6, -0.8], rtol=1e-6)
        with pytest.raises(RuntimeError, match="part of a static program"):
            clip.rule = gradclip.ClipGradByNorm(1.0)


def test_a_parameter_without_a_gradient_is_left_out(mode):
    with graph(mode):
        a, b = parameter("a"), parameter("b")
        gradient = paddle.static.data("to a", [2], "float32")
        pairs = ClipGradByGlobalNorm(1.0)([(b, None), (a, gradient)])
        assert [pair[0].name for pair in pairs] == ["a"]


def test_what_needs_no_clip_stays_the_same_value_in_its_place(mode):
    with graph(mode):
        a, b = parameter("a", need_clip=False), parameter("b")
        to_a, to_b = (paddle.static.data(name, [2], "float32") for name in ("to a", "to b"))
        pairs = ClipGradByGlobalNorm(1.0)([(a, to_a), (b, to_b)])
        assert [pair[0].name for pair in pairs] == ["a", "b"]
        assert pairs[0][1] is to_a
        assert pairs[1][1] is not to_b


def test_a_pair_given_twice_counts_once(mode):
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        a, gradient = parameter("a"), paddle.static.data("to a", [2], "float32")
        block = made.main.global_block()
        again = gradient.get_defining_op().result(0) if mode == "pir" else block.var("to a")
        (_, first), (_, second) = clip([(a, gradient), (a, again)])
        fed = {"to a": np.array([3.0, 4.0], "float32")}
        found = made.run(fed, [first, second])
        np.testing.assert_allclose(found, [[0.6, 0.8]] * 2, rtol=1e-6)
        assert clip.last.norm_before == pytest.approx(5.0)


def test_nothing_to_clip_is_reported(mode):
    clip = ClipGradByGlobalNorm(1.0, need_clip=lambda parameter: False)
    with graph(mode), pytest.warns(GradclipWarning, match="nothing is clipped"):
        minimize(clip)


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embedding_with_a_row_used_twice_has_the_norm_of_the_sum(mode, sparse):
    """Row 1 is used twice, so its gradient is 2 in each of 3 columns: the norm is (3 (4 + 1 + 1))^(1/2)."""
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        rows = paddle.static.data("rows", [4], "int64")
        zero = paddle.nn.initializer.Constant(0.0)
        table = paddle.create_parameter([6, 3], "float32", attr=paddle.ParamAttr("table", initializer=zero))
        found = paddle.nn.functional.embedding(rows, table, sparse=sparse)
        paddle.optimizer.SGD(1.0, grad_clip=clip).minimize(paddle.mean(found) * 12.0)
        made.run({"rows": np.array([1, 1, 3, 5])}, [])
        assert clip.last.norm_before == pytest.approx(18**0.5, 1e-6)
        np.testing.assert_allclose(held("table")[:, 0], np.array([0, -2, 0, -1, 0, -1]) / 18**0.5, rtol=1e-6)


STOPS = [
    (Rule(response=SkipStep()), {}),
    (Rule(response=Raise()), {}),
    (Rule(), {"on_nonfinite": "skip"}),
    (Rule(), {"on_nonfinite": "raise"}),
    (Rule(), {"max_consecutive_skips": 3}),
]


@pytest.mark.parametrize(("rule", "options"), STOPS)
def test_what_operators_cannot_do_is_refused(mode, rule, options):
    with graph(mode), pytest.raises(NotImplementedError, match="neither leave out a step nor raise"):
        minimize(Clip(rule, **options))


def test_telemetry_is_refused(mode):
    with graph(mode), pytest.raises(NotImplementedError, match="telemetry hears of no step of a static graph"):
        minimize(Clip(Rule(), telemetry=Telemetry(print)))


def test_a_gradient_of_integers_is_refused_by_the_name_of_its_parameter(mode):
    with graph(mode), pytest.raises(TypeError, match="gradient of 'a' cannot be clipped: its dtype is int32"):
        ClipGradByNorm(1.0)([(parameter("a"), paddle.static.data("to a", [2], "int32"))])


def test_a_gradient_of_unknown_shape_is_refused_by_the_name_of_its_parameter(mode):
    with graph(mode), pytest.raises(TypeError, match=r"'a' cannot be clipped: its shape .*-1, 2.* is unknown"):
        Clip(Rule(Row()))([(parameter("a"), paddle.static.data("to a", [None, 2], "float32"))])


def test_the_result_of_a_program_that_did_not_run_is_refused(mode):
    clip = ClipGradByNorm(1.0)
    with graph(mode) as made:
        minimize(clip)
        with pytest.raises(RuntimeError, match="no variable 'gradclip_step"):
            clip.last  # noqa: B018
        assert not hasattr(clip, "last")
        made.start()
        assert not hasattr(clip, "last")
        with pytest.raises(RuntimeError, match="nothing was clipped yet"):
            clip.last  # noqa: B018


def test_a_result_is_that_of_the_scope_it_is_read_in(mode):
    clip = ClipGradByNorm(1.0)
    with graph(mode) as made:
        minimize(clip)
        steps(made, clip, [3.0, 4.0])
        with paddle.static.scope_guard(paddle.static.Scope()):
            made.executor.run(made.startup)
            made.run({"to a": np.array([6.0, 8.0], "float32")}, [])
            assert clip.last.norm_before == pytest.approx(10.0)
        assert clip.last.norm_before == pytest.approx(5.0)


def test_each_tensor_is_reported_by_the_name_of_its_parameter(mode):
    clip = Clip(Rule(Tensor(), L2()) >> Rule(Global(), L2()))
    with graph(mode) as made:
        minimize(clip, names=("a", "b"))
        made.run({f"to {name}": np.array([3.0, 4.0], "float32") for name in "ab"}, [])
        assert sorted(segment.name for segment in clip.last.segments) == ["a", "all", "b"]
        assert clip.last.norm_before == pytest.approx(50**0.5)
        assert clip.last.norm_after == pytest.approx(1.0)


def test_mixed_precision_clips_the_gradients_without_their_loss_scale(mode):
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        loss = paddle.mean(parameter("a") * paddle.static.data("to a", [2], "float32")) * 2.0
        optimizer = paddle.static.amp.decorate(paddle.optimizer.SGD(1.0, grad_clip=clip), init_loss_scaling=1024.0)
        if mode == "pir":
            scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0)
            scaler.minimize(optimizer, scaler.scale(loss), startup_program=made.startup)
        else:
            optimizer.minimize(loss)
        steps(made, clip, [3.0, 4.0])
        np.testing.assert_allclose(held("a"), [-0.6, -0.8], rtol=1e-6)
        assert clip.last.norm_before == pytest.approx(5.0)


def test_a_program_for_evaluation_does_not_clip(mode):
    """In legacy the operators go with those of the optimizer; in PIR such a program is cloned before `minimize`."""
    clip = ClipGradByGlobalNorm(1.0)
    with graph(mode) as made:
        gradient = paddle.static.data("to a", [2], "float32")
        loss = paddle.mean(parameter("a") * gradient) * 2.0
        evaluation = made.main.clone() if mode == "pir" else None
        paddle.optimizer.SGD(1.0, grad_clip=clip).minimize(loss)
        evaluation = evaluation or made.main.clone(for_test=True)
        steps(made, clip, [3.0, 4.0])
        made.executor.run(evaluation, feed={"to a": np.array([6.0, 8.0], "float32")})
        assert (clip.last.step, clip.last.norm_before) == (0, pytest.approx(5.0))
        assert not [op for op in evaluation.global_block().ops if "gradclip" in str(op)]


def test_the_clip_of_a_model_in_dynamic_mode_serves_a_program_too(mode):
    """Each has its own count of steps; `last` is that of whichever was built or stepped last."""
    clip = ClipGradByGlobalNorm(1.0)
    layer = paddle.nn.Linear(2, 1)
    layer(paddle.to_tensor([[3.0, 4.0]])).sum().backward()
    paddle.optimizer.SGD(1.0, parameters=layer.parameters(), grad_clip=clip).step()
    assert clip.last.norm_before == pytest.approx(26**0.5)
    with graph(mode) as made:
        minimize(clip)
        (result,) = steps(made, clip, [3.0, 4.0])
    assert (result.step, result.norm_before) == (0, pytest.approx(5.0))
