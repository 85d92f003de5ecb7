"""Optimizers whose step does not run the hook once, on the gradients of the update: served rightly, or refused."""

from __future__ import annotations

import functools
import types
import warnings

import pytest
import pytorch_optimizer
import schedulefree
import torch
from pytorch_optimizer.optimizer import OPTIMIZERS

import gradclip
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.torch import attach

RULE = ClipGradByGlobalNorm(1e-3)
HUGE = 1e4


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def closure_of(net, optimizer):
    """Gradients of 1e4 and more."""
    x, y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.ones(16, 1)

    def closure():
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean() * HUGE
        loss.backward()
        return loss

    return closure


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


class SAM(torch.optim.Optimizer):
    """Two steps a batch (P. Foret et al. 2020, arXiv:2010.01412): up by rho g / |g|, back, then the inner step."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        every = [p for group in self.param_groups for p in group["params"]]
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in every]))
        for p in every:
            self.state[p]["ascent"] = p.grad * (0.05 / norm)
            p.add_(self.state[p]["ascent"])

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["ascent"])
        self.base_optimizer.step()

    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """As some write it: it shares what the inner optimizer has, and never calls `Optimizer.__init__`."""

    def __init__(self, base):
        self.base_optimizer = base
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self, closure=None):
        return self.base_optimizer.step(closure)


@pytest.mark.parametrize("by_hand", [False, True])
def test_sam_is_clipped_where_its_inner_step_uses_the_gradient(by_hand):
    """With SGD at a rate of 1 the weights move by the clipped norm, 1e-3 at most, and float32 steps back exactly."""
    net = model()
    sam = SAM(net.parameters(), torch.optim.SGD, lr=1.0)
    clipper = attach(sam, RULE)
    closure, before = closure_of(net, sam), flat(net)
    for _ in range(2):
        closure()
        if by_hand:
            sam.first_step()
            closure()
            sam.second_step()
        else:
            sam.step(closure)
    assert clipper.last.norm_before > 100
    assert clipper.optimizers == [sam.base_optimizer]
    assert clipper.step == 2
    assert torch.linalg.vector_norm(flat(net) - before) <= 2e-3 * (1 + 1e-3)


def test_lookahead_that_is_no_whole_optimizer_is_clipped_inside():
    net = model()
    optimizer = Lookahead(torch.optim.SGD(net.parameters(), lr=1.0))
    attach(optimizer, RULE)
    closure, before = closure_of(net, optimizer.base_optimizer), flat(net)
    closure()
    net_step = optimizer.step
    net_step()
    net.zero_grad()
    assert torch.linalg.vector_norm(flat(net) - before) <= 1e-3 * (1 + 1e-3)


class Uninitialised(torch.optim.Optimizer):
    """It has groups and steps, and no hooks."""

    def __init__(self, params):
        self.param_groups, self.state, self.defaults = [{"params": list(params)}], {}, {}

    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)


def test_an_optimizer_whose_hooks_never_run_is_refused_by_name():
    with pytest.raises(TypeError, match=r"Uninitialised never calls torch.optim.Optimizer.__init__.*clip by hand, "):
        attach(Uninitialised(model().parameters()), RULE)


def own_step(self, closure=None):
    """A step that has nothing of the class's."""


def test_a_step_that_was_replaced_on_the_instance_is_refused():
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    optimizer.step = types.MethodType(own_step, optimizer)
    with pytest.raises(TypeError, match=r"the step of this SGD was replaced by a function that does not .* by hand"):
        attach(optimizer, RULE)


def scheduled(optimizer):
    torch.optim.lr_scheduler.StepLR(optimizer, 10)


def wrapped(optimizer):
    step = optimizer.step
    optimizer.step = functools.wraps(step)(lambda *args, **kwargs: step(*args, **kwargs))


def enclosed(optimizer):
    step = optimizer.step
    optimizer.step = lambda closure=None: step(closure)


def partial(optimizer):
    optimizer.step = functools.partial(optimizer.step)


@pytest.mark.parametrize("put", [scheduled, wrapped, enclosed, partial])
def test_a_step_that_calls_what_was_there_is_served(put):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    put(optimizer)
    clipper = attach(optimizer, RULE)
    closure_of(net, optimizer)()
    optimizer.step()
    assert clipper.last.clipped


class Base(torch.optim.SGD):
    """A class of its own, for PyTorch puts hooks around the step of each class that an optimizer is made of."""

    def step(self, closure=None):
        return super().step(closure)


class Derived(Base):
    def step(self, closure=None):
        return super().step(closure)


def test_a_step_that_calls_that_of_its_base_is_clipped_once():
    """An adaptive rule would learn each step twice, and the second time what it has clipped itself."""
    net = model()
    torch.optim.SGD(net.parameters()), Base(net.parameters())
    optimizer = Derived(net.parameters(), lr=1e-6)
    clipper = attach(optimizer, gradclip.AutoClip(50))
    for _ in range(3):
        closure_of(net, optimizer)()
        optimizer.step()
    assert clipper.step == 3


class MakesGradients(torch.optim.SGD):
    def step(self, loss):
        loss.backward()
        return super().step()


class ChangesGradients(torch.optim.SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad.mul_(100)
        return torch.optim.SGD.step(self, closure)


class EvaluatesThenTakesAnother(torch.optim.SGD):
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        self.zero_grad()
        (loss * 3).backward()
        return super().step()


def deeper(function, calls):
    return function() if calls == 0 else deeper(function, calls - 1)


class StepsFarBelow(torch.optim.SGD):
    def step(self, closure=None):
        return deeper(lambda: super(StepsFarBelow, self).step(closure), 12)


@pytest.mark.parametrize("kind", [MakesGradients, ChangesGradients, EvaluatesThenTakesAnother, StepsFarBelow])
def test_what_is_clipped_is_what_the_step_of_the_base_uses(kind):
    """The gradient of |w - 30, w - 40| at 0 is 50 long, or 100 or 3 times that, and each step is 1 long."""
    weight = torch.nn.Parameter(torch.zeros(2))
    goal = torch.tensor([30.0, 40.0])
    optimizer = kind([weight], lr=1.0)
    clipper = attach(optimizer, ClipGradByGlobalNorm(1.0))
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        loss = -(weight * goal).sum()
        if kind is MakesGradients:
            optimizer.step(loss)
        elif kind is EvaluatesThenTakesAnother:
            optimizer.step(lambda loss=loss: loss)
        else:
            loss.backward()
            optimizer.step()
    assert weight.tolist() == pytest.approx([1.8, 2.4], rel=1e-6)
    assert clipper.step == 3


class Accumulates(torch.optim.SGD):
    """An update for each four steps."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps % 4 == 0:
            super().step(closure)
            super().zero_grad()


def test_a_step_that_waits_for_more_gradients_is_not_clipped():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = Accumulates([weight], lr=1.0)
    clipper = attach(optimizer, ClipGradByGlobalNorm(1.0))
    for x in range(8):
        (weight * torch.tensor([30.0, 40.0]) * (1 + x)).sum().backward()
        optimizer.step()
    assert clipper.step == 2
    assert weight.tolist() == pytest.approx([-1.2, -1.6], rel=1e-6)


class UpdatesByItself(torch.optim.SGD):
    """Its first step is its own, the others are those of its base."""

    first = True

    @torch.no_grad()
    def step(self, closure=None):
        if not self.first:
            return super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad)
        self.first = False


def test_an_update_that_no_base_makes_is_said_and_clipped_from_then_on():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = UpdatesByItself([weight], lr=1.0)
    attach(optimizer, ClipGradByGlobalNorm(1.0))
    weight.grad = torch.tensor([0.3, 0.4])
    with pytest.warns(gradclip.GradclipWarning, match="changed parameters in a step that did not call the step of SGD"):
        optimizer.step()
    for first in (True, False):
        optimizer.first, weight.grad, before = first, torch.tensor([30.0, 40.0]), weight.tolist()
        optimizer.step()
        assert weight.tolist() == pytest.approx([before[0] - 0.6, before[1] - 0.8], rel=1e-6)


class WarmsUp(torch.optim.SGD):
    """Two updates of another optimizer, then its own."""

    def __init__(self, params, lr):
        params = list(params)
        super().__init__(params, lr=lr)
        self.warm, self.steps = torch.optim.Adam(params), 0

    def step(self, closure=None):
        self.steps += 1
        return self.warm.step(closure) if self.steps <= 2 else super().step(closure)


def test_one_that_steps_by_itself_and_by_another_is_refused():
    with pytest.raises(ValueError, match=r"this WarmsUp steps by .* its base and by .* in \.warm.*by hand"):
        attach(WarmsUp(model().parameters(), 1.0), RULE)


class OnlyHolds(torch.optim.SGD):
    def __init__(self, params, reference, **options):
        super().__init__(params, **options)
        self.reference = reference


def test_one_that_only_holds_another_is_clipped_itself():
    net = model()
    optimizer = OnlyHolds(net.parameters(), torch.optim.SGD(net.parameters(), lr=1.0), lr=1.0)
    assert attach(optimizer, RULE).optimizers == [optimizer]


class GivesArguments(torch.optim.SGD):
    @torch.no_grad()
    def step(self, metric=None, closure=None):
        with torch.enable_grad():
            closure(scale=2.0)
        return torch.optim.SGD.step(self)


def test_a_closure_beside_another_function_is_given_its_arguments():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = GivesArguments([weight], lr=1.0)
    attach(optimizer, ClipGradByGlobalNorm(1.0))

    def closure(scale):
        weight.grad = torch.tensor([30.0, 40.0]) * scale

    optimizer.step(metric=abs, closure=closure)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], rel=1e-6)


class InContainer(torch.optim.Optimizer):
    """Its inner optimizers stand in a list or a dict, and it changes the gradients before they step."""

    def __init__(self, params, inner):
        super().__init__(params, {})
        self.inner = inner(self.param_groups[0]["params"])

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad.mul_(100)
        for one in self.inner.values() if isinstance(self.inner, dict) else self.inner:
            one.step()


@pytest.mark.parametrize(
    "inner", [lambda ps: [torch.optim.SGD(ps, lr=1.0)], lambda ps: {"sgd": torch.optim.SGD(ps, lr=1.0)}]
)
def test_an_inner_optimizer_in_a_list_or_a_dict_is_found(inner):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = InContainer([weight], inner)
    attach(optimizer, ClipGradByGlobalNorm(1.0))
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([-0.6, -0.8], rel=1e-6)
    several = InContainer([weight], lambda ps: [torch.optim.SGD(ps), torch.optim.Adam(ps)])
    with pytest.raises(ValueError, match=r"holds several optimizers \(\.inner\[0\] and \.inner\[1\]\)"):
        attach(several, ClipGradByGlobalNorm(1.0))


class OtherWord(torch.optim.SGD):
    def step(self, before=None, loss_fn=None):
        loss_fn()
        return super().step()


def test_a_closure_under_any_name_is_waited_for():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = OtherWord([weight], lr=1.0)
    attach(optimizer, ClipGradByGlobalNorm(1.0))

    def closure():
        weight.grad = torch.tensor([30.0, 40.0])

    optimizer.step(loss_fn=closure)
    optimizer.step(None, closure)
    assert weight.tolist() == pytest.approx([-1.2, -1.6], rel=1e-6)


class Two(torch.optim.Optimizer):
    """Two inner optimizers that have all parameters each."""

    def __init__(self, params):
        super().__init__(params, {})
        every = self.param_groups[0]["params"]
        self.fast, self.slow = torch.optim.SGD(every, lr=1.0), torch.optim.SGD(every, lr=0.1)


def test_of_two_inner_optimizers_the_user_says_which():
    with pytest.raises(ValueError, match=r"this Two holds several optimizers \(\.fast and \.slow\)"):
        attach(Two(model().parameters()), RULE)


class Parts(torch.optim.Optimizer):
    """An inner optimizer that has a part of the parameters, as with ZeroRedundancyOptimizer."""

    def __init__(self, params):
        super().__init__(params, {})
        self.optim = torch.optim.SGD(self.param_groups[0]["params"][:2], lr=1.0)

    def step(self, closure=None):
        self.optim.step()


def test_an_inner_optimizer_of_a_part_is_not_the_place_for_a_norm_of_all():
    net = model()
    optimizer = Parts(net.parameters())
    clipper = attach(optimizer, RULE)
    closure_of(net, optimizer)()
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()])).item()
    optimizer.step()
    assert clipper.optimizers == [optimizer]
    assert clipper.last.norm_before == pytest.approx(norm, rel=1e-6)


def test_lbfgs_that_evaluates_often_is_not_told_that_something_clips_before():
    """Near its minimum, and in steps that are no numbers."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.LBFGS([weight], lr=1e-7, max_iter=20, tolerance_change=0.0, tolerance_grad=0.0)
    attach(optimizer, ClipGradByGlobalNorm(100.0))
    broken = [False]

    def closure():
        optimizer.zero_grad()
        loss = (weight * weight).sum() * (torch.nan if broken[0] else 1.0)
        loss.backward()
        return loss

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(12):
            broken[0] = step % 3 == 2
            optimizer.step(closure)
            weight.data = torch.tensor([3.0 + step, 4.0])
    assert not [warning for warning in said if "non-finite" not in str(warning.message)]


def step_where_one_overflows(overflowing, **options):
    """Two optimizers under one norm and one scaler: a gradient of [3, 4] and one of infinities; the clipper, both."""
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    optimizers = [torch.optim.SGD([a], lr=1.0), torch.optim.SGD([b], lr=1.0)]
    clipper = attach(*optimizers, rule=ClipGradByGlobalNorm(1.0), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    bad, good = (a, b) if overflowing == "a" else (b, a)
    scaler.scale((good * torch.tensor([3.0, 4.0])).sum() + (bad * torch.inf).sum()).backward()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    return clipper, good.tolist(), bad.tolist()


@pytest.mark.parametrize("overflowing", ["a", "b"])
def test_what_a_grad_scaler_leaves_out_does_not_keep_the_other_optimizer_from_being_clipped(overflowing):
    """The norm is that of what is finite."""
    clipper, good, bad = step_where_one_overflows(overflowing)
    assert (good, bad) == (pytest.approx([-0.6, -0.8], rel=1e-6), [0.0, 0.0])
    assert (clipper.last.norm_before, clipper.last.nonfinite) == (5.0, 0)


@pytest.mark.parametrize("overflowing", ["a", "b"])
def test_a_policy_that_skips_skips_both_optimizers_under_a_grad_scaler(overflowing):
    _, good, bad = step_where_one_overflows(overflowing, on_nonfinite="skip")
    assert good == bad == [0.0, 0.0]


NEED_MORE = {"bsam", "demo", "distributedmuon", "ranger21", "spectralsphere"}
"""They need another package, the number of examples or steps, process groups, or matrices alone."""
OF_A_MODEL = {"adalomo", "adammini", "lomo"}
SECOND_ORDER = {"adahessian", "sophiah"}
OF_FLAGGED = {"adago", "adamuon", "muon", "muonclip", "normuon"}
WITH_CLOSURE = {"alig", "lbfgs"}
OWN_BACKWARD = {"adalomo", "lomo"}
"""They make the gradients and the update in one, layer by layer."""


def made(name, net):
    kind = OPTIMIZERS[name]
    if name in OF_A_MODEL:
        return kind(net, lr=1e-3)
    if name in OF_FLAGGED:
        return kind([{"params": list(net.parameters()), "use_muon": False}], lr=1e-3)
    return kind(net.parameters(), lr=1e-3)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - NEED_MORE - OWN_BACKWARD))
def test_the_optimizers_of_pytorch_optimizer_step_on_clipped_gradients(name):
    """What reaches the step is at most the threshold: it is looked at by a hook that comes after ours.

    Where a step calls that of its base the hook runs for both, and the last one is for the update.
    """
    net = model()
    optimizer = made(name, net)
    clipper = attach(optimizer, RULE, model=net)
    reached = []

    def look(served, args, kwargs):
        reached.append(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in net.parameters()])).item())

    if name not in WITH_CLOSURE:  # they make the gradients inside the step
        clipper.optimizers[0].register_step_pre_hook(look)
    closure = closure_of(net, optimizer)
    if name in SECOND_ORDER:
        optimizer.zero_grad()
        (net(torch.ones(2, 4)).square().sum() * HUGE).backward(create_graph=True)
        optimizer.step()
    elif name == "alig":
        loss = closure()
        optimizer.step(lambda: loss)
    elif name == "lbfgs":
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    assert name in WITH_CLOSURE or (clipper.last.clipped and clipper.step == 1)
    assert all(norm <= 1e-3 * (1 + 1e-6) for norm in reached[-1:])


WRAPPERS = {
    "Lookahead": lambda net: pytorch_optimizer.Lookahead(torch.optim.Adam(net.parameters())),
    "OrthoGrad": lambda net: pytorch_optimizer.OrthoGrad(torch.optim.Adam(net.parameters())),
    "TRAC": lambda net: pytorch_optimizer.TRAC(torch.optim.Adam(net.parameters())),
    "SAM": lambda net: pytorch_optimizer.SAM(net.parameters(), torch.optim.SGD, lr=0.1),
    "FriendlySAM": lambda net: pytorch_optimizer.FriendlySAM(net.parameters(), torch.optim.SGD, lr=0.1),
    "WSAM": lambda net: pytorch_optimizer.WSAM(net, net.parameters(), torch.optim.SGD, lr=0.1),
    "AdamWScheduleFree": lambda net: schedulefree.AdamWScheduleFree(net.parameters()),
    "SGDScheduleFree": lambda net: schedulefree.SGDScheduleFree(net.parameters(), lr=0.1),
    "ScheduleFreeWrapper": lambda net: schedulefree.ScheduleFreeWrapper(torch.optim.SGD(net.parameters(), lr=0.1)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_of_other_packages_are_clipped_where_the_update_is_made(name):
    net = model()
    optimizer = WRAPPERS[name](net)
    if hasattr(optimizer, "train"):
        optimizer.train()
    clipper = attach(optimizer, ClipGradByNorm(1e-3), model=net)
    closure = closure_of(net, optimizer)
    closure()
    if hasattr(optimizer, "first_step"):
        optimizer.first_step(zero_grad=True)
        closure()
        optimizer.second_step(zero_grad=False)
    else:
        optimizer.step()
    assert clipper.last.clipped
    assert clipper.step == 1


def test_there_are_many_of_them():
    assert len(set(OPTIMIZERS) - NEED_MORE) > 100


@pytest.mark.parametrize(
    ("module", "words"),
    [("deepspeed.runtime.zero.stage_1_and_2", '"gradient_clipping": 1.0'), ("megatron.core.optimizer", "--clip-grad")],
)
def test_an_optimizer_that_owns_its_clipping_is_refused_with_the_setting_to_use(module, words):
    """Inside is an optimizer of flat parts, to which a clip would be attached, and whose norm is that of a part."""
    inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    outer = type("Outer", (), {"__module__": module, "optimizer": inner})()
    with pytest.raises(TypeError, match=words):
        attach(outer, ClipGradByGlobalNorm(1.0))


def test_the_wrapper_that_accelerate_has_for_deepspeed_is_refused_with_the_setting():
    from accelerate import Accelerator
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

    Accelerator(cpu=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(TypeError, match=r'"gradient_clipping": 1\.0 in the DeepSpeed config'):
        attach(DeepSpeedOptimizerWrapper(optimizer), ClipGradByNorm(1.0))
