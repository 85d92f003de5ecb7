"""Arguments and parameters: what may be handed over as PyTorch tensors, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from doors import exact, parameter, true_norm, written
from gradclip import (
    L1,
    L2,
    RMS,
    Bounds,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Global,
    GradclipWarning,
    Linf,
    Lp,
    Row,
    Rule,
    Smooth,
    Tensor,
)

SMOOTH_BY_VALUE = Rule(Element(), L2(), Bounds(0.5, -0.5), Smooth())
REFUSED = [(-1, ValueError), (0, ValueError), (math.nan, ValueError), (True, TypeError), ("1.0", TypeError)]


@pytest.mark.parametrize(("limit", "error"), REFUSED)
@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"])
def test_a_limit_that_makes_no_sense_is_refused_and_nothing_is_written(door, name, limit, error):
    p = parameter(3.0, 4.0)
    extra = (torch.tensor(5.0),) if name == "clip_grads_with_norm_" else ()
    with pytest.raises(error, match=r"(max_norm|clip_value) must be .*above 0, got"):
        getattr(door, name)([p], limit, *extra)
    assert p.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("order", [0, -1, -math.inf, math.nan, None, True, "2"])
def test_an_order_that_is_no_norm_is_refused(door, order):
    with pytest.raises((ValueError, TypeError), match=r"order of a norm"):
        door.clip_grad_norm_([parameter(3.0, 4.0)], 1.0, order)


def test_a_parameter_given_twice_counts_once_and_is_scaled_once(door):
    p = parameter(3.0, 4.0)
    assert door.clip_([p, p]).norm_before == 5.0
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])
    p = parameter(3.0, 4.0)
    assert door.clip_grad_norm_([p, p], 1.0).item() == 5.0
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])
    p = parameter(3.0, 4.0)
    door.clip_grads_with_norm_([p, p], 1.0, torch.tensor(5.0))
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])


def test_two_parameters_that_share_a_gradient_count_once_and_are_scaled_once(door):
    p, q = parameter(3.0, 4.0), parameter(0.0, 0.0)
    q.grad = p.grad
    assert door.clip_([p, q]).norm_before == 5.0
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])
    p.grad = q.grad = torch.tensor([3.0, 4.0])
    assert door.clip_grad_norm_([p, q], 1.0).item() == 5.0
    assert q.grad.tolist() == pytest.approx([0.6, 0.8])


TOGETHER = {
    "a part": lambda b: (b[:6], b[3:9]),
    "the beginning": lambda b: (b[:3], b[:6]),
    "all of a smaller one": lambda b: (b[:9], b[2:4]),
    "every sixth": lambda b: (b[::2], b[::3]),
    "one column of two": lambda b: (b.view(2, 5)[:, :3], b.view(2, 5)[:, 2:]),
    "behind another one": lambda b: (torch.ones(3), b[:2], b[1:5]),
}


@pytest.mark.parametrize("views", TOGETHER)
def test_gradients_that_have_a_part_of_their_memory_together_are_refused_by_name(door, views):
    """They would be scaled twice there. Nothing is written."""
    base = torch.ones(10)
    parameters = [parameter(grad=view) for view in TOGETHER[views](base)]
    for call in (lambda: door.clip_(parameters), lambda: door.clip_grad_norm_(parameters, 1.0)):
        with pytest.raises(TypeError, match=rf"parameters\[{len(parameters) - 1}\].*is that of another gradient"):
            call()
    assert base.tolist() == [1.0] * 10


APART = {
    "columns": lambda b: (b.view(2, 5)[:, :2], b.view(2, 5)[:, 2:]),
    "every second": lambda b: (b[1::2], b[::2]),
    "neighbours": lambda b: (b[5:], b[:5], b[5:5]),
}


@pytest.mark.parametrize("views", APART)
def test_gradients_side_by_side_in_one_memory_are_clipped(door, views):
    base = torch.ones(10)
    parameters = [parameter(grad=view) for view in APART[views](base)]
    assert door.clip_(parameters).norm_before == pytest.approx(10**0.5, rel=1e-6)
    assert base.tolist() == pytest.approx([10**-0.5] * 10, rel=1e-6)


def test_two_views_of_one_gradient_count_once(door):
    shared = torch.tensor([3.0, 4.0])
    p, q = parameter(grad=shared.view(2)), parameter(grad=shared.view(1, 2))
    assert door.clip_([p, q]).norm_before == 5.0
    assert shared.tolist() == pytest.approx([0.6, 0.8])


def sparse(coalesced):
    indices = torch.tensor([[1, 1, 3]])
    gradient = torch.sparse_coo_tensor(indices, torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 4.0]]), (5, 2))
    return gradient.coalesce() if coalesced else gradient


@pytest.mark.parametrize("coalesced", [True, False])
def test_a_sparse_gradient_is_clipped_by_the_norm_of_the_matrix(door, coalesced):
    p = parameter(grad=sparse(coalesced))
    other = parameter(12.0)
    assert door.clip_([p, other], ClipGradByGlobalNorm(1.3)).norm_before == pytest.approx(13.0)
    assert p.grad.is_sparse
    assert p.grad.to_dense()[1].tolist() == pytest.approx([0.3, 0.0])
    assert p.grad.to_dense()[3].tolist() == pytest.approx([0.0, 0.4])
    p.grad = sparse(coalesced)
    assert door.clip_grad_norm_([p], 1.0).item() == pytest.approx(5.0)
    assert p.grad.to_dense()[1].tolist() == pytest.approx([0.6, 0.0])


@pytest.mark.parametrize("coalesced", [True, False])
def test_a_sparse_gradient_is_clipped_by_value_as_the_matrix_is(door, coalesced):
    p = parameter(grad=sparse(coalesced))
    door.clip_([p], ClipGradByValue(2.5))
    assert p.grad.to_dense()[1].tolist() == [2.5, 0.0]
    assert p.grad.to_dense()[3].tolist() == [0.0, 2.5]


@pytest.mark.parametrize("norm", [L1(), L2(), Linf(), Lp(3.0), RMS()], ids=str)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_complex_gradient_is_measured_by_its_magnitudes(door, norm, dtype):
    p = parameter(3 + 4j, 0j, -12j, dtype=dtype)
    size = 3 if norm == RMS() else 1
    before = exact(p)
    expected = true_norm(before, norm.p) / size**0.5
    result = door.clip_([p], Rule(Global(), norm, Constant(1.0)))
    assert result.norm_before == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(exact(p), before / expected, rtol=1e-6)


def test_a_second_norm_of_a_complex_gradient_is_of_what_the_first_left(door):
    """|3 + 4i| and |6 + 8i| are 5 and 10: clipped to an L2 norm of 1, their L1 norm is 15 / sqrt(125)."""
    both = [parameter(3 + 4j, dtype=torch.complex64), parameter(6 + 8j, dtype=torch.complex64)]
    rule = ClipGradByGlobalNorm(1.0) >> ClipGradByGlobalNorm(0.5, 1)
    result = door.clip_(both, rule)
    assert result.segments[1].norm_before == pytest.approx(15 / 125**0.5, rel=1e-6)
    assert sum(float(p.grad.abs().sum()) for p in both) == pytest.approx(0.5, rel=1e-6)


def test_a_complex_gradient_has_rows(door):
    p = parameter(grad=torch.tensor([[3 + 4j, 0j], [0.3j, 0.4]]))
    door.clip_([p], Rule(Row(), L2(), Constant(1.0)))
    np.testing.assert_allclose(exact(p), [0.6 + 0.8j, 0, 0.3j, 0.4], rtol=1e-6)


def test_a_complex_gradient_is_refused_by_value_by_name_and_nothing_is_written(door):
    both = {"real": parameter(3.0), "spectrum": parameter(3 + 4j, dtype=torch.complex64)}
    with pytest.raises(TypeError, match=r"'spectrum'.*complex"):
        door.clip_(both, ClipGradByValue(1.0))
    assert both["real"].grad.item() == 3.0
    with pytest.raises(TypeError, match=r"parameters\[1\].*complex"):
        door.clip_grad_value_(list(both.values()), 1.0)
    assert both["real"].grad.item() == 3.0


def test_a_conjugated_gradient_is_clipped_as_its_copy_is(door):
    p = parameter(grad=torch.tensor([3 + 4j, 12j]).conj())
    before = exact(p)
    door.clip_([p])
    np.testing.assert_allclose(exact(p), before / 13.0, rtol=1e-6)


@pytest.mark.parametrize("scope", [Global(), Tensor(), Row()], ids=str)
def test_scalars_and_empty_gradients_work(door, scope):
    shapes = [torch.tensor(5.0), torch.zeros(0), torch.zeros(3, 0), torch.tensor([12.0, 0.0])]
    tensors = [parameter(grad=gradient) for gradient in shapes]
    result = door.clip_(tensors, Rule(scope, L2(), Constant(100.0)))
    assert result.norm_before == 13.0
    door.clip_(tensors, Rule(scope, L2(), Constant(1.0)))
    assert tensors[0].grad.item() == pytest.approx(5 / 13 if scope == Global() else 1.0)
    assert tensors[0].grad.shape == ()


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, math.inf])
def test_an_empty_gradient_alone_has_the_norm_0(door, p):
    empty = parameter(grad=torch.zeros(0, 3))
    assert door.clip_grad_norm_([empty], 1.0, p).item() == 0.0
    assert door.clip_([empty], ClipGradByGlobalNorm(1.0, p)).norm_before == 0.0
    door.clip_grad_value_([empty], 1.0)


@pytest.mark.parametrize("scope", [Global(), Tensor(), Row()], ids=str)
def test_the_root_mean_square_of_nothing_is_0_and_finite(door, scope):
    tensors = [parameter(grad=torch.zeros(0)), parameter(grad=torch.zeros(2, 0)), parameter(grad=torch.zeros(0, 2))]
    result = door.clip_(tensors, Rule(scope, RMS(), Constant(1.0)), on_nonfinite="raise")
    assert result.norm_before == 0.0
    assert result.nonfinite == 0


def strange():
    """Gradients that do not lie in memory as their elements are counted; by name, with 12 elements each."""
    values = torch.arange(12.0) + 1.0
    image = values.reshape(1, 3, 2, 2)
    return {
        "transposed": values.reshape(3, 4).t(),
        "strided": torch.cat([values.reshape(12, 1), torch.full((12, 1), 99.0)], 1)[:, 0],
        "channels last": image.contiguous(memory_format=torch.channels_last),
        "permuted": image.permute(2, 0, 3, 1),
    }


@pytest.mark.parametrize("name", strange())
@pytest.mark.parametrize(
    "rule",
    [ClipGradByGlobalNorm(1.0), ClipGradByNorm(1.0, 1.0), Rule(Row(), L2(), Constant(1.0)), ClipGradByValue(2.5)],
)
def test_a_gradient_that_is_not_contiguous_is_clipped_as_its_copy_is(door, name, rule):
    p, copy = (
        parameter(grad=strange()[name]),
        parameter(grad=strange()[name].clone(memory_format=torch.contiguous_format)),
    )
    gradient, strides = p.grad, p.grad.stride()
    door.clip_([p], rule)
    door.clip_([copy], rule)
    assert p.grad is gradient
    assert p.grad.stride() == strides
    np.testing.assert_allclose(exact(p), exact(copy), rtol=1e-6)


def test_writing_a_strided_gradient_leaves_its_neighbours_alone(door):
    memory = torch.full((4, 2), 99.0)
    p = parameter(grad=memory[:, 0])
    door.clip_([p])
    assert memory[:, 1].tolist() == [99.0] * 4
    assert memory[:, 0].tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("scope", [Global(), Tensor(), Row()], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_an_expanded_gradient_counts_each_element_and_is_scaled_once(door, scope, axis):
    """What `loss = x.sum()` gives: one number in memory that stands for many."""
    base = torch.tensor([[3.0, 4.0, 0.0]]) if axis == 0 else torch.tensor([[3.0], [4.0]])
    p = parameter(grad=base.expand(4, 3) if axis == 0 else base.expand(2, 4))
    before = exact(p).reshape(p.grad.shape)
    assert door.clip_([p], Rule(scope, L2(), Constant(1.0))).norm_before == pytest.approx(true_norm(before.ravel()))
    norm = np.linalg.norm(before, axis=1, keepdims=True) if scope == Row() else true_norm(before.ravel())
    np.testing.assert_allclose(exact(p).reshape(before.shape), before / norm, rtol=1e-6)


def test_a_sum_over_a_parameter_is_clipped(door):
    p = torch.nn.Parameter(torch.zeros(3, 4))
    p.sum().backward()
    door.clip_grad_norm_([p], 1.0)
    np.testing.assert_allclose(exact(p), [1 / 12**0.5] * 12, rtol=1e-6)


def test_a_gradient_whose_elements_overlap_is_refused_by_name(door):
    p = torch.nn.Parameter(torch.zeros(3, 2))
    p.grad = torch.arange(4.0).as_strided((3, 2), (1, 1))
    with pytest.raises(TypeError, match=r"'w'.*overlap in memory.*clone"):
        door.clip_({"w": p})
    assert p.grad[:, 0].tolist() == [0.0, 1.0, 2.0]


def test_a_gradient_that_carries_a_graph_is_clipped_in_place_and_keeps_it(door):
    for clip in (lambda q: door.clip_([q]), lambda q: door.clip_grad_norm_([q], 1.0)):
        p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        (p**3).sum().backward(create_graph=True)
        clip(p)
        assert p.grad.requires_grad
        assert true_norm(exact(p)) == pytest.approx(1.0)


def test_a_write_is_seen_by_autograd(door):
    p = parameter(3.0, 4.0)
    assert written(lambda: door.clip_([p]), p.grad)
    assert written(lambda: door.clip_grad_value_([p], 0.1), p.grad)


def fake_tensor():
    with FakeTensorMode():
        return torch.zeros(2)


UNCLIPPABLE = {
    "int64": lambda: torch.tensor([3, 4]),
    "bool": lambda: torch.tensor([True]),
    "float8_e4m3fn": lambda: torch.tensor([3.0, 4.0]).to(torch.float8_e4m3fn),
    "meta": lambda: torch.zeros(2, device="meta"),
    "FakeTensor": fake_tensor,
    "sparse_csr": lambda: torch.eye(2).to_sparse_csr(),
}


class Stub(torch.Tensor):
    """A tensor whose gradient may be anything, as a parameter's may not."""

    grad = None


@pytest.mark.parametrize("kind", UNCLIPPABLE)
def test_a_gradient_that_cannot_be_clipped_is_refused_by_name_and_nothing_is_written(door, kind):
    good, bad = parameter(3.0, 4.0), torch.zeros(2).as_subclass(Stub)
    bad.grad = UNCLIPPABLE[kind]()
    for rule in (ClipGradByGlobalNorm(1.0), ClipGradByNorm(1.0), ClipGradByValue(1.0)):
        with pytest.raises(TypeError, match=rf"'odd' cannot be clipped.*{kind.removesuffix('_e4m3fn')}"):
            door.clip_({"good": good, "odd": bad}, rule)
        assert good.grad.tolist() == [3.0, 4.0]
    with pytest.raises(TypeError, match=r"parameters\[1\] cannot be clipped"):
        door.clip_grad_norm_([good, bad], 1.0)
    assert good.grad.tolist() == [3.0, 4.0]


def test_an_exhausted_iterator_is_reported(door):
    parameters = iter([parameter(3.0)])
    list(parameters)
    with pytest.warns(GradclipWarning, match="exhausted iterator"):
        door.clip_(parameters)


def test_an_empty_list_is_reported(door):
    with pytest.warns(GradclipWarning, match="no parameters at all"):
        door.clip_([])
    with pytest.warns(GradclipWarning, match="no parameters at all"):
        door.clip_grad_norm_([], 1.0)


def test_parameters_that_all_lack_a_gradient_are_reported(door):
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.warns(GradclipWarning, match="no parameter has a gradient"):
        assert door.clip_([p]).norm_before == 0.0
    with pytest.warns(GradclipWarning, match="no parameter has a gradient"):
        assert door.clip_grad_norm_([p], 1.0).item() == 0.0


def test_a_parameter_without_a_gradient_among_others_is_passed_over(door):
    p, none = parameter(3.0, 4.0), torch.nn.Parameter(torch.zeros(2))
    assert door.clip_([none, p]).norm_before == 5.0
    assert none.grad is None


@pytest.mark.parametrize("how", ["attribute", "function", "drop-in"])
def test_need_clip_takes_a_parameter_out_of_the_measure_and_of_the_scaling(door, how):
    p, bias = parameter(3.0, 4.0), parameter(12.0)
    if how != "function":
        bias.need_clip = False
    if how == "drop-in":
        norm = door.clip_grad_norm_([p, bias], 1.0).item()
    else:
        options = {"need_clip": lambda q: q is not bias} if how == "function" else {}
        norm = door.clip_([p, bias], **options).norm_before
    assert norm == 5.0
    assert bias.grad.item() == 12.0
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("answer", [torch.ones(2), np.array([True, False]), None, "yes", [], 2], ids=repr)
def test_need_clip_that_answers_neither_yes_nor_no_is_refused(door, answer):
    p = parameter(3.0, 4.0)
    with pytest.raises(TypeError, match="what need_clip answers for a parameter is True or False, got"):
        door.clip_([p], need_clip=lambda q: answer)
    assert p.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("function", [lambda: True, lambda a, b: True, 3], ids=["none", "two", "number"])
def test_need_clip_is_a_function_of_one_parameter(door, function):
    with pytest.raises(TypeError, match="need_clip is a function of one parameter of the model, got"):
        door.clip_([parameter(3.0)], need_clip=function)


def test_need_clip_may_answer_with_an_array_of_one(door):
    p, q = parameter(3.0, 4.0), parameter(12.0)
    assert door.clip_([p, q], need_clip=lambda r: (r.grad < 10.0).all()).norm_before == 5.0


@pytest.mark.parametrize(
    "rule",
    [
        ClipGradByGlobalNorm(1.0),
        ClipGradByNorm(1.0),
        ClipGradByValue(0.5),
        Rule(Element(), L2(), Bounds(0.5, -0.5), Smooth()),
    ],
    ids=repr,
)
def test_gradients_that_were_made_in_inference_mode_are_clipped_as_others(door, rule):
    expected = [parameter(3.0, 4.0), parameter(12.0, math.inf)]
    found = [torch.nn.Parameter(torch.zeros(2)) for _ in expected]
    for p, made in zip(found, expected, strict=True):
        with torch.inference_mode():
            p.grad = made.grad.clone()
    for parameters in (expected, found):
        door.clip_(parameters, rule, on_nonfinite="zero")
    assert [p.grad.tolist() for p in found] == [p.grad.tolist() for p in expected]


def test_a_global_norm_is_over_all_parameter_groups(door):
    p, q = parameter(3.0, 4.0), parameter(12.0)
    optimizer = torch.optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.1)
    assert door.clip_(optimizer).norm_before == pytest.approx(13.0)
    np.testing.assert_allclose(exact(p, q), np.array([3.0, 4.0, 12.0]) / 13.0, rtol=1e-6)


def test_the_result_names_the_engine(door):
    assert door.clip_([parameter(3.0)]).engine == door.engine
