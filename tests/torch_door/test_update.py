"""`attach(..., place="update")`: the rule on what the step has moved."""

import pytest
import torch

from gradclip import (
    BlockRMS,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    NormGrowth,
    Raise,
    Rule,
    Rules,
    SkipSpikes,
    SkipStep,
    UClip,
)
from gradclip.torch import attach


def weights(*values, dtype=torch.float32):
    return [torch.nn.Parameter(torch.tensor(each, dtype=dtype)) for each in values]


def step(optimizer, parameters, *gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
    optimizer.step()


def test_the_update_is_clipped_and_not_the_gradient(door):
    """With momentum 1 the second update is 3 + 4 = 7, of which 5 is left; the gradient is left alone."""
    (weight,) = parameters = weights([0.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=1.0)
    clipper = attach(optimizer, ClipGradByGlobalNorm(5.0), place="update", engine=door.engine)
    step(optimizer, parameters, [3.0])
    assert (weight.tolist(), clipper.last.clipped) == ([-3.0], False)
    step(optimizer, parameters, [4.0])
    assert weight.tolist() == [-8.0]
    assert weight.grad.tolist() == [4.0]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [7.0]
    assert (clipper.last.norm_before, clipper.last.norm_after) == (7.0, 5.0)


def test_the_norm_is_over_all_parameters_of_the_optimizer(door):
    parameters = weights([0.0], [1.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    attach(optimizer, ClipGradByGlobalNorm(1.0), place="update", engine=door.engine)
    step(optimizer, parameters, [3.0], [4.0])
    assert [p.item() for p in parameters] == pytest.approx([-0.6, 0.2], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_is_clipped_the_parameters_keep_their_bits(door, dtype):
    """Every update of Adam here is 0.001 or below; p_old + (p - p_old) would round a bit of some away."""
    start = torch.randn(500, generator=torch.Generator().manual_seed(0)).tolist()
    (plain,), (clipped,) = weights(start, dtype=dtype), weights(start, dtype=dtype)
    one, other = torch.optim.Adam([plain]), torch.optim.Adam([clipped])
    attach(other, ClipGradByValue(1.0), place="update", engine=door.engine)
    for seed in range(3):
        gradient = torch.randn(500, generator=torch.Generator().manual_seed(seed)).tolist()
        step(one, [plain], gradient)
        step(other, [clipped], gradient)
    assert torch.equal(plain, clipped)


def test_what_needs_no_clipping_moves_as_it_would(door):
    parameters = weights([0.0], [0.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    attach(optimizer, BlockRMS(1.0), place="update", engine=door.engine, need_clip=lambda p: p is parameters[0])
    step(optimizer, parameters, [3.0], [3.0])
    assert [p.item() for p in parameters] == [-1.0, -3.0]


def test_a_threshold_follows_the_updates(door):
    """Fira's limiter: 1 may grow to 2, and 2 to 4."""
    (weight,) = parameters = weights([0.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    attach(optimizer, NormGrowth(2.0), place="update", engine=door.engine)
    seen = []
    for gradient in (1.0, 9.0, 9.0):
        step(optimizer, parameters, [gradient])
        seen.append(weight.item())
    assert seen == [-1.0, -3.0, -7.0]


def test_what_is_carried_over_moves_the_parameter_later(door):
    (weight,) = parameters = weights([0.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    attach(optimizer, UClip(ClipGradByValue(1.0)), place="update", engine=door.engine)
    for gradient in (3.0, 0.0, 0.0, 0.0):
        step(optimizer, parameters, [gradient])
    assert weight.item() == -3.0


def test_a_non_finite_update_is_left_out_by_zero(door):
    parameters = weights([1.0], [1.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    attach(optimizer, ClipGradByNorm(1.0), on_nonfinite="zero", place="update", engine=door.engine)
    step(optimizer, parameters, [float("nan")], [0.5])
    assert [p.item() for p in parameters] == [1.0, 0.5]


def test_a_closure_runs_as_it_is(door):
    (weight,) = weights([0.0])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    attach(optimizer, ClipGradByNorm(1.0), place="update", engine=door.engine)

    def closure():
        weight.grad = torch.tensor([3.0])
        return torch.tensor(7.0)

    assert optimizer.step(closure).item() == 7.0
    assert weight.item() == -1.0


def test_names_are_those_of_the_model(door):
    model = torch.nn.Linear(1, 1)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rule = Rules({"weight": ClipGradByNorm(1.0)})
    attach(optimizer, rule, model=model, place="update", engine=door.engine)
    step(optimizer, list(model.parameters()), [[3.0]], [3.0])
    moved = [(p - old).item() for p, old in zip(model.parameters(), before, strict=True)]
    assert moved == pytest.approx([-1.0, -3.0], abs=1e-6)


def test_detached_it_does_nothing(door):
    (weight,) = parameters = weights([0.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    with attach(optimizer, ClipGradByNorm(1.0), place="update", engine=door.engine):
        step(optimizer, parameters, [3.0])
    step(optimizer, parameters, [3.0])
    assert weight.item() == -4.0


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (Rule(threshold=Constant(1.0), response=SkipStep()), {}, "may skip or refuse the step"),
        (Rule(threshold=Constant(1.0), response=Raise()), {}, "may skip or refuse the step"),
        (ClipGradByNorm(1.0), {"on_nonfinite": "skip"}, "may skip or refuse the step"),
        (SkipSpikes(), {}, "may skip or refuse the step"),
        (ClipGradByNorm(1.0), {"place": "momentum"}, "place is one of 'gradient', 'update', got 'momentum'"),
        (ClipGradByGlobalNorm(1.0), {"through_grad_scale": True}, 'is for place="gradient"'),
    ],
)
def test_what_cannot_be_done_after_the_step_is_refused(rule, options, message):
    optimizer = torch.optim.AdamW(weights([0.0]), fused=True)
    with pytest.raises(ValueError, match=message):
        attach(optimizer, rule, **{"place": "update", **options})


def test_lbfgs_and_several_optimizers_are_refused():
    a, b = (torch.optim.SGD(weights([0.0]), lr=0.1) for _ in range(2))
    for optimizers in ((torch.optim.LBFGS(weights([0.0])),), (a, b)):
        with pytest.raises(ValueError, match="what one step of one optimizer has moved: not LBFGS"):
            attach(*optimizers, rule=ClipGradByNorm(1.0), place="update")
