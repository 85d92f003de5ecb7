"""What Paddle asks of a clip, and what its own clips get wrong: pairs in, pairs out, on either engine."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import numpy as np
import paddle
import pytest

import gradclip
from gradclip import GradclipWarning, NonFiniteGradient
from gradclip.paddle import Clip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle_eager import ENGINES, embedding, gradients, numbers, pairs_of, parameter, without_gradient

CLIPS = {"value": ClipGradByValue, "norm": ClipGradByNorm, "global norm": ClipGradByGlobalNorm}
NORMS = {"norm": ClipGradByNorm, "global norm": ClipGradByGlobalNorm}
# Two roundings to float32 and, of the values that the tests compare with, one of the literal.
CLOSE = 3 * 2.0**-24


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_it_is_a_clip_of_paddle_and_takes_attributes(kind):
    clip = kind(1.0)
    assert isinstance(clip, paddle.nn.clip.ClipGradBase)
    clip.should_comm_on_shard_dim = True
    assert str(clip) == repr(clip.rule)
    assert kind.__name__ in repr(clip)


def test_the_attributes_that_users_read_are_those_of_paddle():
    assert (ClipGradByValue(2.0).max, ClipGradByValue(2.0).min) == (2.0, -2.0)
    assert (ClipGradByValue(2.0, -0.5).max, ClipGradByValue(2.0, -0.5).min) == (2.0, -0.5)
    assert ClipGradByNorm(3.0).clip_norm == 3.0
    clip = ClipGradByGlobalNorm(3, "mine", True)
    assert (clip.clip_norm, clip.group_name, clip.auto_skip_clip) == (3.0, "mine", True)
    assert ClipGradByGlobalNorm(None).clip_norm == float("inf")


def test_each_clip_does_what_its_name_says(engine):
    for clip, expected in [
        (ClipGradByValue(3.5, -1.0, engine=engine), [[3.0, 3.5], [-1.0]]),
        (ClipGradByNorm(1.0, engine=engine), [[0.6, 0.8], [-1.0]]),
        (ClipGradByGlobalNorm(6.5, engine=engine), [[1.5, 2.0], [-6.0]]),
        (Clip(gradclip.ClipGradByNorm(5.0) >> gradclip.ClipGradByGlobalNorm(1.0), engine=engine), None),
    ]:
        clipped = clip(pairs_of(parameter(3.0, 4.0), parameter(-12.0)))
        half = 0.5**0.5
        expected = expected or [[0.6 * half, 0.8 * half], [-half]]
        for found, wanted in zip(gradients(clipped), expected, strict=True):
            assert found == pytest.approx(wanted, rel=CLOSE)
        assert clip.last.engine == engine


def test_the_result_tells_the_norms(engine):
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    clip(pairs_of(parameter(3.0), parameter(4.0)))
    assert (float(clip.last), clip.last.clipped) == (5.0, True)
    assert clip.last.norm_after == pytest.approx(1.0, rel=1e-6)
    assert ClipGradByNorm(1.0).clipper.step == 0
    with pytest.raises(RuntimeError, match="nothing was clipped yet"):
        _ = ClipGradByNorm(1.0).last


def test_pairs_without_a_gradient_are_dropped_and_the_order_stays(engine):
    a, b, c = parameter(3.0), without_gradient(), parameter(4.0, need_clip=False)
    clipped = ClipGradByGlobalNorm(1.0, engine=engine)([(c, c.grad), (b, None), (a, a.grad)])
    assert [p.name for p, _ in clipped] == [c.name, a.name]
    assert gradients(clipped) == [[4.0], [1.0]]


@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_a_parameter_that_needs_no_clip_is_returned_as_it_is(kind, engine):
    weight, bias = parameter(3.0, 4.0), parameter(120.0)
    clip = kind(1.0, need_clip=lambda p: p.name != bias.name, engine=engine)
    own = bias.grad
    clipped = clip([(weight, weight.grad), (bias, own)])
    assert clipped[1][1] is own
    assert clip.last.norm_before == (4.0 if kind is ClipGradByValue else 5.0)
    flagged = parameter(120.0, need_clip=False)
    assert gradients(kind(1.0, engine=engine)(pairs_of(weight, flagged)))[1] == [120.0]


def test_below_the_threshold_nothing_is_written():
    p = parameter(3.0, 4.0)
    own, version = p.grad, p.grad.inplace_version
    ((_, same),) = ClipGradByGlobalNorm(5.0)([(p, own)])
    assert same is own
    assert own.inplace_version == version
    ClipGradByGlobalNorm(4.0)([(p, own)])
    assert own.inplace_version == version + 1


def test_a_pair_given_twice_is_counted_and_scaled_once(engine):
    p, q = parameter(3.0, 4.0), parameter(0.0, 0.0)
    q.grad = None
    clip = ClipGradByGlobalNorm(1.0, engine=engine)
    clipped = clip([(p, p.grad), (p, p.grad), (q, p.grad)])
    assert clip.last.norm_before == 5.0
    for found in gradients(clipped):
        assert found == pytest.approx([0.6, 0.8], rel=CLOSE)


def test_rows_of_a_sparse_gradient_are_merged_measured_and_clipped(engine):
    """Row 1 is looked up twice: [2, 2] and row 3 [1, 1], norm sqrt(10); of unmerged rows it would be sqrt(6)."""
    for kind, limit in [(ClipGradByGlobalNorm, 1.0), (ClipGradByNorm, 1.0), (ClipGradByValue, 1.5)]:
        weight = embedding(1, 1, 3)
        clip = kind(limit, engine=engine)
        ((_, clipped),) = clip(pairs_of(weight))
        assert clipped.is_selected_rows()
        factor = 10**-0.5 if kind is not ClipGradByValue else 1.0
        rows = [2 * factor, factor] if kind is not ClipGradByValue else [1.5, 1.0]
        np.testing.assert_allclose(numbers(clipped)[[1, 3], 0], rows, rtol=1e-6)
        assert np.count_nonzero(numbers(clipped)) == 4
        assert clip.last.norm_before == pytest.approx(2.0 if kind is ClipGradByValue else 10**0.5, rel=1e-6)


def test_a_sparse_gradient_updates_as_a_dense_one(engine):
    weight = embedding(1, 1, 3)
    before = numbers(weight)
    paddle.optimizer.SGD(1.0, parameters=[weight], grad_clip=ClipGradByGlobalNorm(1.0, engine=engine)).step()
    # The difference of two numbers below 2 in float32 has the rounding of the larger.
    np.testing.assert_allclose((before - numbers(weight))[[1, 3], 0], [2 * 10**-0.5, 10**-0.5], atol=4 * 2.0**-24)


def test_the_same_sparse_gradient_twice_is_scaled_once(engine):
    weight = embedding(1, 3, scale=2.0)
    clipped = ClipGradByGlobalNorm(1.0, engine=engine)([(weight, weight.grad), (weight, weight.grad)])
    assert [numbers(g)[1, 0] for _, g in clipped] == pytest.approx([0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_every_float_that_paddle_has_on_the_cpu_is_clipped(kind, dtype, engine):
    p = parameter(3.0, 4.0, dtype=dtype)
    ((_, clipped),) = kind(2.5, engine=engine)(pairs_of(p))
    assert clipped.dtype == p.grad.dtype
    assert numbers(clipped).tolist() == ([2.5, 2.5] if kind is ClipGradByValue else [1.5, 2.0])


def test_dtypes_may_be_mixed(engine):
    found = gradients(
        ClipGradByGlobalNorm(6.5, engine=engine)(
            pairs_of(parameter(3.0, dtype="float16"), parameter(4.0, dtype="float64"), parameter(12.0))
        )
    )
    assert found == [[1.5], [2.0], [6.0]]


def test_a_norm_that_leaves_float16_is_right(engine):
    clip = ClipGradByGlobalNorm(1.2, engine=engine)
    found = gradients(clip(pairs_of(parameter(*[6e4] * 4, dtype="float16"))))
    assert clip.last.norm_before == pytest.approx(1.2e5, rel=1e-6)
    assert found[0] == pytest.approx([0.6] * 4, rel=2.0**-11)


def test_complex_gradients_have_the_norm_of_their_magnitudes(engine):
    p = parameter(3 + 4j, 0.0, grad=paddle.to_tensor([3 + 4j, 12 + 0j], dtype="complex64"))
    ((_, clipped),) = ClipGradByGlobalNorm(6.5, engine=engine)(pairs_of(p))
    assert clipped.numpy().tolist() == [1.5 + 2j, 6 + 0j]
    with pytest.raises(TypeError, match="no order"):
        ClipGradByValue(1.0, engine=engine)(pairs_of(p))


@pytest.mark.parametrize("kind", NORMS.values(), ids=NORMS)
def test_a_gradient_without_axes_stays_one(kind, engine):
    (_, clipped), (_, empty) = kind(1.0, engine=engine)(
        pairs_of(parameter(grad=paddle.to_tensor(5.0)), parameter(grad=paddle.zeros([0, 3])))
    )
    assert (clipped.shape, float(clipped), empty.shape) == ([], 1.0, [0, 3])


def test_a_transposed_gradient_is_clipped_in_its_own_memory():
    whole = paddle.to_tensor([[3.0, 0.0], [4.0, 0.0]])
    own = whole.t()
    ClipGradByGlobalNorm(1.0)([(parameter(0.0), own)])
    assert whole.numpy()[:, 0].tolist() == pytest.approx([0.6, 0.8], rel=CLOSE)


@pytest.mark.parametrize("kind", NORMS.values(), ids=NORMS)
def test_large_finite_gradients_are_clipped_and_not_zeroed(kind, engine):
    clip = kind(1.0, engine=engine)
    found = gradients(clip(pairs_of(parameter(3e25, 4e25))))
    assert found[0] == pytest.approx([0.6, 0.8], rel=CLOSE)
    assert clip.last.norm_before == pytest.approx(5e25, rel=1e-6)


@pytest.mark.parametrize("limit", [None, float("inf")])
@pytest.mark.parametrize("kind", NORMS.values(), ids=NORMS)
def test_an_infinite_limit_measures_only(kind, limit, engine):
    clip = kind(limit, engine=engine)
    assert gradients(clip(pairs_of(parameter(3.0, 4.0)))) == [[3.0, 4.0]]
    assert clip.last.norm_before == 5.0


@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_zero_gradients_stay_zero(kind, engine):
    assert gradients(kind(1.0, engine=engine)(pairs_of(parameter(0.0, 0.0)))) == [[0.0, 0.0]]


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), True, "1.0"])
@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_limits_that_make_no_sense_are_refused(kind, limit):
    with pytest.raises((ValueError, TypeError), match=r"max|clip_norm"):
        kind(limit)


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(TypeError, match="need_clip is a function"):
        ClipGradByNorm(1.0, need_clip=False)
    with pytest.raises(ValueError, match="'cpu', 'paddle'"):
        ClipGradByNorm(1.0, engine="cuda")
    with pytest.raises(ValueError, match="on_nonfinite"):
        ClipGradByGlobalNorm(1.0, on_nonfinite="ignore")


def test_without_numba_plain_operations_of_paddle_serve():
    with mock.patch("gradclip.paddle.clipper.cpu_engine", return_value=None):
        clip = ClipGradByGlobalNorm(1.0)
        assert gradients(clip(pairs_of(parameter(3.0)))) == [[1.0]]
        assert clip.last.engine == "paddle"
        with pytest.raises(ModuleNotFoundError, match="needs numba"):
            ClipGradByGlobalNorm(1.0, engine="cpu")


def test_a_gradient_that_cannot_be_clipped_is_refused_by_the_name_of_its_parameter(engine):
    coo = paddle.sparse.sparse_coo_tensor([[0, 1]], [1.0, 2.0], [3])
    for gradient in (paddle.ones([2], dtype="int32"), coo):
        p = parameter(1.0)
        with pytest.raises(TypeError, match=f"'{p.name}' cannot be clipped"):
            ClipGradByGlobalNorm(1.0, engine=engine)([(parameter(3.0), parameter(3.0).grad), (p, gradient)])


def test_a_nan_is_kept_and_warned_of_once_by_name():
    p = parameter(float("nan"), 4.0)
    clip = ClipGradByGlobalNorm(1.0)
    with pytest.warns(GradclipWarning, match=f"'{p.name}'"):
        clipped = clip(pairs_of(p, parameter(3.0)))
    assert gradients(clipped)[1] == [3.0]
    assert clip.last.nonfinite == 1
    clip(pairs_of(p))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradients_get_what_the_policy_says(bad, engine):
    def pairs():
        return pairs_of(parameter(bad, 4.0), parameter(3.0))

    assert gradients(ClipGradByNorm(1.0, on_nonfinite="zero", engine=engine)(pairs())) == [[0.0, 0.0], [1.0]]
    skipping = ClipGradByNorm(1.0, on_nonfinite="skip", engine=engine)
    assert skipping(pairs()) == []
    assert skipping.last.skipped
    given = pairs()
    with pytest.raises(NonFiniteGradient, match=given[0][0].name):
        ClipGradByNorm(1.0, on_nonfinite="raise", engine=engine)(given)
    assert gradients(given)[1] == [3.0]


def test_too_many_skips_in_a_row_raise():
    clip = ClipGradByNorm(1.0, on_nonfinite="skip", max_consecutive_skips=1)
    clip(pairs_of(parameter(float("nan"))))
    with pytest.raises(gradclip.TooManySkips):
        clip(pairs_of(parameter(float("nan"))))


def test_nothing_to_clip_is_said_once():
    p = parameter(3.0, need_clip=False)
    clip = ClipGradByGlobalNorm(1.0)
    with pytest.warns(GradclipWarning, match="nothing is clipped"):
        assert clip([(without_gradient(), None)]) == []
    assert gradients(clip(pairs_of(p))) == [[3.0]]
    with pytest.raises(RuntimeError, match="nothing was clipped yet"):
        _ = clip.last


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda clip: pickle.loads(pickle.dumps(clip))])
def test_a_copy_goes_on_with_the_rule_and_the_memory(copied):
    clip = ClipGradByGlobalNorm(gradclip.Schedule((0, 10.0), (2, 1.0)), on_nonfinite="zero")
    clip(pairs_of(parameter(3.0)))
    again = copied(clip)
    assert (again.rule, again.clipper.on_nonfinite, again.clip_norm) == (clip.rule, "zero", clip.clip_norm)
    assert gradients(again(pairs_of(parameter(60.0)))) == gradients(clip(pairs_of(parameter(60.0)))) != [[60.0]]


def test_the_rule_may_be_changed_and_what_was_learnt_stays():
    clip = Clip(gradclip.ZClip(z=2.0, warmup=2))
    for norm in (3.0, 4.0):
        clip(pairs_of(parameter(norm)))
    learnt = clip.state_dict()["thresholds"]
    clip.rule = gradclip.ZClip(z=3.0, warmup=2)
    assert (clip.rule, clip.state_dict()["thresholds"]) == (gradclip.ZClip(z=3.0, warmup=2), learnt)
    clip.rule = gradclip.ClipGradByGlobalNorm(1.0)
    assert gradients(clip(pairs_of(parameter(3.0)))) == [[1.0]]
    with pytest.raises(TypeError, match="rule"):
        clip.rule = 1.0


def test_the_state_resumes_and_a_state_of_another_rule_is_refused():
    clip = ClipGradByGlobalNorm(gradclip.Schedule((0, 10.0), (1, 2.0)))
    clip(pairs_of(parameter(3.0)))
    resumed = ClipGradByGlobalNorm(gradclip.Schedule((0, 10.0), (1, 2.0)))
    resumed.load_state_dict(clip.state_dict())
    assert gradients(resumed(pairs_of(parameter(4.0)))) == [[2.0]]
    with pytest.raises(ValueError, match="belongs to the rule"):
        ClipGradByNorm(1.0).load_state_dict(clip.state_dict())


def test_rules_by_name_see_the_names_of_parameters(engine):
    w, b = parameter(3.0, 4.0, name=f"fc_{engine}.w_0"), parameter(12.0, name=f"fc_{engine}.b_0")
    rules = gradclip.Rules({"*.b_*": None, "*.w_*": gradclip.ClipGradByNorm(1.0)})
    found = gradients(Clip(rules, engine=engine)(pairs_of(w, b)))
    assert found[0] == pytest.approx([0.6, 0.8], rel=CLOSE)
    assert found[1] == [12.0]
