"""The norms that a watched run records, against float64, and what a clip of PyTorch did, against what it left."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradclip.watch.gradient_norms import SMALL, combined_norm, first_gradient, measure_gradients
from gradclip.watch.journal import NORM, OVERFLOW, VALUE, Applied, ClipCall, Examined
from gradclip.watch.step_events import UNCLIPPED, WatchedStep, event_of_step

# A sum of a million squares in float32, taken in parts of some thousand, is right to some 2^-24 * 1000 at worst.
TOLERANCE = 1e-4


def parameter(gradient: torch.Tensor) -> torch.nn.Parameter:
    one = torch.nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    one.grad = gradient
    return one


KINDS = {
    "float32": torch.linspace(-2.0, 3.0, 1000),
    "large": torch.linspace(-1.0, 1.0, SMALL + 1),
    "huge": torch.full((4,), 3e37),
    "tiny": torch.full((4,), 1e-30),
    "zeros": torch.zeros(5),
    "empty": torch.zeros(0),
    "float16": torch.full((100,), 60000.0, dtype=torch.float16),
    "bfloat16": torch.full((1000,), 1.01, dtype=torch.bfloat16),
    "float64": torch.full((4,), 1e100, dtype=torch.float64),
    "sparse": torch.sparse_coo_tensor([[1, 1]], [3.0, 4.0], (5,)),
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
    "complex": torch.tensor([3 + 4j]),
}


@pytest.mark.parametrize("order", [2.0, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_is_that_of_float64(kind: str, order: float) -> None:
    one = parameter(KINDS[kind])
    dense = KINDS[kind].to_dense() if KINDS[kind].is_sparse else KINDS[kind]
    values = [abs(complex(x)) for x in dense.reshape(-1).to(torch.complex128).tolist()]
    truth = math.hypot(*values) if order == 2.0 else max(values, default=0.0)
    ((norm, count),) = measure_gradients([one], order).read().values()
    assert norm == pytest.approx(truth, rel=TOLERANCE, abs=0.0)
    assert count == 0


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
@settings(deadline=None)
def test_any_float32_gradient_has_a_finite_norm(values: list[float]) -> None:
    ((norm, count),) = measure_gradients([parameter(torch.tensor(values, dtype=torch.float32))], 2.0).read().values()
    assert norm == pytest.approx(math.hypot(*values), rel=TOLERANCE, abs=0.0)
    assert count == 0


def test_non_finite_elements_are_counted_by_tensor() -> None:
    bad, good = parameter(torch.tensor([1.0, math.nan, math.inf])), parameter(torch.tensor([3.0, 4.0]))
    read = measure_gradients([bad, good], 2.0).read()
    assert read[id(bad)][1] == 2
    assert read[id(good)] == (5.0, 0)


def test_measuring_writes_nothing_and_asks_for_no_gradient() -> None:
    one = parameter(torch.tensor([3.0, 4.0]))
    version = one.grad._version
    measure_gradients([one, torch.nn.Parameter(torch.zeros(2))], 2.0)
    assert one.grad._version == version
    assert first_gradient([torch.nn.Parameter(torch.zeros(2)), one]) is one.grad
    assert first_gradient([]) is None


def stepped(parameters, kind: str, threshold: float, order: float, norm) -> tuple:
    """The event of a step in which these were clipped so, and `norm` was returned."""
    norms_before = measure_gradients(parameters, math.inf if order == math.inf else 2.0)
    clip = ClipCall("clip", kind, threshold, order, "train.py:1", norms_before=norms_before, norm=norm(parameters))
    step = WatchedStep(3, 0.0, Examined([Applied(clip)], []), measure_gradients([], 2.0), 1.0)
    return event_of_step(step, {id(p): f"p{i}" for i, p in enumerate(parameters)})


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("threshold", [0.5, 100.0])
def test_the_event_says_what_pytorch_left(order: float, threshold: float) -> None:
    ours = [parameter(torch.tensor([3.0, -4.0])), parameter(torch.tensor([12.0]))]
    event, _ = stepped(
        ours, NORM, threshold, order, lambda given: torch.nn.utils.clip_grad_norm_(given, threshold, order)
    )
    left = torch.cat([p.grad for p in ours])
    whole = torch.tensor([3.0, -4.0, 12.0])
    assert event.norm_before == pytest.approx(float(torch.linalg.vector_norm(whole, order)), rel=1e-6)
    assert event.norm_after == pytest.approx(float(torch.linalg.vector_norm(left, order)), rel=1e-6)
    assert (event.clipped, event.threshold) == (threshold == 0.5, threshold)
    assert event.norm == {1.0: "L1", 2.0: "L2", 3.0: "Lp", math.inf: "Linf"}[order]
    assert event.coefficient == pytest.approx(float(left[0]) / 3.0, rel=1e-6)


def test_clipping_by_value_is_told_by_the_largest_magnitude() -> None:
    ours = [parameter(torch.tensor([3.0, -4.0]))]
    event, _ = stepped(ours, VALUE, 2.0, math.inf, lambda given: torch.nn.utils.clip_grad_value_(given, 2.0))
    assert (event.norm_before, event.norm_after, event.clipped) == (4.0, 2.0, True)
    assert (event.tensors, event.norm) == ({"p0": 4.0}, "Linf")


def test_a_norm_that_overflows_in_pytorch_is_a_flaw_and_the_true_one_is_told() -> None:
    # 100 times 60000 squared is beyond float16, so PyTorch's norm is infinite and the gradient becomes 0
    ours = [parameter(torch.full((100,), 60000.0, dtype=torch.float16))]
    event, flaws = stepped(ours, NORM, 1.0, 2.0, lambda given: torch.nn.utils.clip_grad_norm_(given, 1.0))
    assert float(ours[0].grad.abs().max()) == 0.0
    assert event.norm_before == pytest.approx(600000.0, rel=1e-3)
    assert (event.norm_after, event.coefficient, event.nonfinite) == (0.0, 0.0, 0)
    assert [flaw.name for flaw in flaws] == [OVERFLOW]


def test_a_nan_is_no_overflow() -> None:
    ours = [parameter(torch.tensor([math.nan, 1.0]))]
    event, flaws = stepped(ours, NORM, 1.0, 2.0, lambda given: torch.nn.utils.clip_grad_norm_(given, 1.0))
    assert flaws == []
    assert math.isnan(event.norm_before)
    assert (event.clipped, event.nonfinite, event.offenders) == (False, 1, ("p0",))


def test_a_loss_scale_is_divided_out() -> None:
    scaled = [parameter(torch.tensor([3.0, 4.0]) * 8.0)]
    clip = ClipCall(
        "clip", NORM, 8.0, 2.0, "train.py:1", norms_before=measure_gradients(scaled, 2.0), norm=torch.tensor(40.0)
    )
    step = WatchedStep(0, 0.0, Examined([Applied(clip, torch.tensor(8.0))], []), measure_gradients([], 2.0), 1.0)
    event, _ = event_of_step(step, {})
    assert (event.norm_before, event.threshold) == (5.0, 1.0)
    rest = WatchedStep(0, 0.0, Examined([], []), measure_gradients(scaled, 2.0), torch.tensor(8.0))
    event, _ = event_of_step(rest, {})
    assert (event.rule, event.norm_before, event.norm_after, event.threshold) == (UNCLIPPED, 5.0, 5.0, math.inf)


def test_norms_join_by_their_order() -> None:
    assert combined_norm([3.0, 4.0], 2.0) == 5.0
    assert combined_norm([3.0, 4.0], math.inf) == 4.0
    assert combined_norm([], math.inf) == 0.0


def test_a_sparse_gradient_is_not_written() -> None:
    weight = torch.nn.Parameter(torch.zeros(5))
    weight.grad = torch.sparse_coo_tensor([[1, 1]], [3.0, 4.0], (5,), check_invariants=True)
    before = weight.grad
    assert measure_gradients([weight], 2.0).read()[id(weight)][0] == 7.0
    assert weight.grad is before
    assert not weight.grad.is_coalesced()
