"""The drop-ins against `torch.nn.utils` where PyTorch is right.

PyTorch calculates in the gradient's dtype and adds 1e-6 to the norm. Tolerances: fp64 and fp32 differ by the epsilon
and by fp32 sums, 1e-5 and less for these sizes; bf16 and fp16 by the rounding of norm, coefficient and product in the
dtype, three half steps each of 2^-8 and 2^-11, so 2^-6 and 2^-9.
"""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from torch.nn import utils

from doors import DOORS, exact, parameter

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
ORDERS = [2.0, 1.0, 3.0, 0.5, math.inf, "inf", 2]
drawn = settings(max_examples=60, deadline=None)


@st.composite
def gradients(draw, least=1):
    """One to four gradients of a dtype, with elements between 0.0078 and 100: far from every edge."""
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    shapes = draw(st.lists(st.sampled_from([(), (1,), (3,), (2, 3), (4, 1, 2), (9,)]), min_size=least, max_size=4))
    magnitude = st.floats(2.0**-7, 100.0, width=32)
    tensors = []
    for shape in shapes:
        count = math.prod(shape)
        values = draw(st.lists(st.tuples(magnitude, st.booleans()), min_size=count, max_size=count))
        flat = torch.tensor([x if positive else -x for x, positive in values], dtype=dtype)
        tensors.append(flat.reshape(shape))
    return tensors


def twins(tensors):
    return [parameter(grad=t.clone()) for t in tensors], [parameter(grad=t.clone()) for t in tensors]


def assert_alike(ours, theirs, dtype):
    np.testing.assert_allclose(exact(*ours), exact(*theirs), rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_clip_grad_norm_gives_the_same_numbers(door):
    @drawn
    @given(gradients(), st.sampled_from(ORDERS), st.floats(0.05, 1000.0), st.sampled_from([None, True, False]))
    def alike(tensors, order, limit, foreach):
        ours, theirs = twins(tensors)
        dtype = tensors[0].dtype
        expected = utils.clip_grad_norm_(theirs, limit, order, foreach=foreach)
        assume(torch.isfinite(expected))
        norm = door.clip_grad_norm_(ours, limit, order, foreach=foreach)
        assert norm.shape == expected.shape
        assert norm.dtype is torch.promote_types(expected.dtype, torch.float32)
        assert norm.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
        assert_alike(ours, theirs, dtype)
        assert [p.grad.dtype for p in ours] == [p.grad.dtype for p in theirs]

    alike()


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_clip_grad_value_gives_the_same_bits(door):
    @drawn
    @given(gradients(), st.floats(0.05, 1000.0), st.sampled_from([None, True, False]))
    def alike(tensors, limit, foreach):
        ours, theirs = twins(tensors)
        assert utils.clip_grad_value_(theirs, limit, foreach=foreach) is None
        assert door.clip_grad_value_(ours, limit, foreach=foreach) is None
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, theirs, strict=True))

    alike()


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_get_total_norm_and_clip_grads_with_norm_give_the_same_numbers(door):
    @drawn
    @given(gradients(), st.sampled_from(ORDERS), st.floats(0.05, 1000.0), st.sampled_from([None, True, False]))
    def alike(tensors, order, limit, foreach):
        ours, theirs = twins(tensors)
        dtype = tensors[0].dtype
        expected = utils.get_total_norm([p.grad for p in theirs], order, foreach=foreach)
        assume(torch.isfinite(expected))
        norm = door.get_total_norm([p.grad for p in ours], order, foreach=foreach)
        assert norm.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
        assert utils.clip_grads_with_norm_(theirs, limit, expected, foreach) is None
        assert door.clip_grads_with_norm_(ours, limit, expected, foreach) is None
        assert_alike(ours, theirs, dtype)

    alike()


def message_of(call):
    with pytest.raises(RuntimeError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("order", [2.0, 1.0, math.inf])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_error_if_nonfinite_raises_the_same_words_and_writes_nothing(door, order, value):
    ours, theirs = twins([torch.tensor([value, 1.0]), torch.tensor([3.0])])
    expected = message_of(lambda: utils.clip_grad_norm_(theirs, 1.0, order, error_if_nonfinite=True))
    assert message_of(lambda: door.clip_grad_norm_(ours, 1.0, order, error_if_nonfinite=True)) == expected
    assert ours[1].grad.item() == 3.0
    grads = [p.grad for p in ours]
    assert message_of(lambda: door.get_total_norm(grads, order, True)) == message_of(
        lambda: utils.get_total_norm(grads, order, True)
    )


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_an_exhausted_generator_warns_in_the_same_words(door):
    with pytest.warns(UserWarning, match="empty generator") as theirs:
        utils.clip_grad_norm_((p for p in ()), 1.0)
    with pytest.warns(UserWarning, match="empty generator") as ours:
        door.clip_grad_norm_((p for p in ()), 1.0)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_one_tensor_is_taken_for_a_list_of_one(door):
    (ours,), (theirs,) = twins([torch.tensor([3.0, 4.0])])
    assert door.clip_grad_norm_(ours, 1.0) == utils.clip_grad_norm_(theirs, 1.0)
    np.testing.assert_allclose(exact(ours), exact(theirs), rtol=1e-6)
    assert door.get_total_norm(ours.grad).item() == pytest.approx(utils.get_total_norm(theirs.grad).item(), rel=1e-6)


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_without_any_gradient_the_norm_is_0_in_fp32(door, recwarn):
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    for found in (door.clip_grad_norm_([p], 1.0), utils.clip_grad_norm_([p], 1.0)):
        assert found.dtype is torch.float32
        assert found.shape == ()
        assert found.item() == 0.0
    assert door.get_total_norm([]).dtype is utils.get_total_norm([]).dtype


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_complex_and_real_gradients_have_one_norm(door):
    ours, theirs = twins([torch.tensor([3 + 4j]), torch.tensor([12.0])])
    assert door.clip_grad_norm_(ours, 1.0).item() == utils.clip_grad_norm_(theirs, 1.0).item() == 13.0
    np.testing.assert_allclose(exact(*ours), exact(*theirs), rtol=1e-6)


@pytest.mark.parametrize("door", DOORS, ids=repr)
def test_by_value_nan_stays_and_infinity_becomes_the_bound(door):
    ours, theirs = twins([torch.tensor([math.nan, math.inf, -math.inf, 0.5])])
    door.clip_grad_value_(ours, 2.0)
    utils.clip_grad_value_(theirs, 2.0)
    assert torch.equal(torch.nan_to_num(ours[0].grad, 99.0), torch.nan_to_num(theirs[0].grad, 99.0))


def test_the_arguments_are_those_of_pytorch():
    import inspect

    from gradclip.torch import functional

    for name in ("clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (functional, utils))
        assert list(ours) == list(theirs)
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]
        assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]
