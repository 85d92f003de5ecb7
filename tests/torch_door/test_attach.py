"""Every way in which a hook in the optimizer's step goes wrong, each compared with clipping by hand."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn

import gradclip
from collecting import of_new_objects
from gradclip import ClipGradByValue, UClip
from gradclip.telemetry import Telemetry, memory
from gradclip.torch import Clipper, attach
from training import FUSED, OPTIMIZERS, RULE, backward, batch, by_hand, make_model, parameters_after


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_attached_equals_clipping_by_hand(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    attach(optimizer, RULE)
    assert torch.equal(parameters_after(model, optimizer), by_hand(kind, options))


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_the_norm_before_is_that_of_float64(engine):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, RULE, engine=engine)
    backward(model, 0)
    truth = torch.cat([p.grad.flatten().double() for p in model.parameters()]).norm().item()
    optimizer.step()
    assert clipper.last.norm_before == pytest.approx(truth, rel=1e-6)
    assert clipper.last.norm_after == pytest.approx(0.05, rel=1e-6)
    assert clipper.last.engine == engine


def test_schedulers_and_accumulation_clip_once_for_each_real_step():
    def train(make_clip):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=4)
        clip = make_clip(model, optimizer)
        for step in range(12):
            backward(model, step, 1 / 3)
            if step % 3 == 2:
                clip()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    counted = []

    def attached(model, optimizer):
        counted.append(attach(optimizer, RULE))
        return lambda: None

    by_hook = train(attached)
    explicit = train(lambda model, optimizer: lambda: Clipper(RULE).clip_(model.parameters()))
    assert torch.equal(by_hook, explicit)
    assert counted[0].step == 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.Adam, {"lr": 0.01, "fused": True}),
        (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 5}),
    ],
)
@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_is_clipped_after_it_made_the_gradients(kind, options, as_keyword):
    def train(clip_inside):
        model = make_model()
        optimizer = kind(model.parameters(), **options)
        clipper = None if clip_inside else attach(optimizer, RULE)
        evaluations = 0
        for step in range(3):

            def closure(step=step):
                nonlocal evaluations
                evaluations += 1
                optimizer.zero_grad()
                loss = backward(model, step)
                if clip_inside:
                    Clipper(RULE).clip_(model.parameters())
                return loss

            optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
        if clipper is not None:
            assert clipper.step == evaluations
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(clip_inside=False), train(clip_inside=True))


@pytest.mark.parametrize(
    ("kind", "options", "through"),
    [(torch.optim.SGD, {"lr": 0.1}, False)]
    + [(kind, options, through) for kind, options in FUSED for through in (False, True)],
)
@pytest.mark.parametrize("unscaled_by_user", [False, True])
def test_grad_scaler_is_divided_out_before_the_threshold_is_compared(kind, options, unscaled_by_user, through):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    clipper = attach(optimizer, RULE, through_grad_scale=through)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(5):
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(((model(x) - y) ** 2).mean()).backward()
        if unscaled_by_user:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert 0.1 < clipper.last.norm_before < 10
    assert clipper.last.norm_after == pytest.approx(0.05, rel=1e-6)
    got = torch.cat([p.detach().flatten() for p in model.parameters()])
    # a scale of 2^k is exact; the fused kernels divide where the others multiply: a few roundings of float32 a step
    torch.testing.assert_close(got, by_hand(kind, options), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_on_which_grad_scaler_overflows_is_left_to_it(fused):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    clipper = attach(optimizer, RULE, on_nonfinite="raise")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = batch(0)
    optimizer.zero_grad()
    scaler.scale(((model(x) - y) ** 2).mean() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 1024.0
    assert clipper.step == 0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("kind", "options"), FUSED)
def test_a_coefficient_through_grad_scale_equals_scaling_the_gradients(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    attach(optimizer, RULE, through_grad_scale=True)
    got = parameters_after(model, optimizer)
    torch.testing.assert_close(got, by_hand(kind, options), rtol=2e-6, atol=2e-7)
    assert not hasattr(optimizer, "grad_scale")


def test_through_grad_scale_leaves_the_gradient_clipped_for_who_reads_it_later():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    attach(optimizer, RULE, through_grad_scale=True)
    backward(model, 0)
    optimizer.step()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: attach(torch.optim.AdamW(m.parameters()), RULE, through_grad_scale=True),
        lambda m: attach(
            torch.optim.AdamW(m.parameters(), fused=True), RULE, through_grad_scale=True, on_nonfinite="zero"
        ),
        lambda m: attach(
            torch.optim.AdamW(m.parameters(), fused=True), gradclip.ClipGradByNorm(1.0), through_grad_scale=True
        ),
        lambda m: attach(
            torch.optim.AdamW(m.parameters(), fused=True),
            gradclip.Rule(response=gradclip.Zero()),
            through_grad_scale=True,
        ),
    ],
)
def test_through_grad_scale_is_refused_where_one_coefficient_is_not_enough(wrong):
    with pytest.raises(ValueError, match=r"through_grad_scale (needs|hands over|cannot write zeros)"):
        wrong(make_model())


def two_optimizers(model):
    return torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)


def test_two_optimizers_share_one_norm():
    def train(shared):
        model = make_model()
        a, b = two_optimizers(model)
        clipper = attach(a, b, rule=RULE) if shared else None
        for step in range(5):
            a.zero_grad()
            b.zero_grad()
            backward(model, step)
            if not shared:
                Clipper(RULE).clip_(model)
            a.step()
            b.step()
        assert clipper is None or clipper.step == 5
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(shared=True), train(shared=False))


def test_two_optimizers_under_grad_scaler_must_be_unscaled_first():
    model = make_model()
    a, b = two_optimizers(model)
    attach(a, b, rule=RULE)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = batch(0)
    scaler.scale(((model(x) - y) ** 2).mean()).backward()
    with pytest.raises(RuntimeError, match=r"call scaler\.unscale_\(optimizer\) for each"):
        scaler.step(a)


def test_two_optimizers_under_grad_scaler_clip_what_was_unscaled():
    def train(shared):
        model = make_model()
        a, b = two_optimizers(model)
        if shared:
            attach(a, b, rule=RULE)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(3):
            a.zero_grad()
            b.zero_grad()
            x, y = batch(step)
            scaler.scale(((model(x) - y) ** 2).mean()).backward()
            scaler.unscale_(a)
            scaler.unscale_(b)
            if not shared:
                Clipper(RULE).clip_(model)
            scaler.step(a)
            scaler.step(b)
            scaler.update()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(shared=True), train(shared=False))


def hundreds():
    """Two weights with optimizers of their own, under one norm of 1 and a learning rate of 1."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
    return weights, optimizers, attach(*optimizers, rule=gradclip.ClipGradByGlobalNorm(1.0))


def test_two_optimizers_that_step_at_their_own_pace_are_both_clipped():
    (a, b), (slow, fast), _ = hundreds()
    for step in range(6):
        before = [a.item(), b.item()]
        a.grad, b.grad = torch.full((1,), 100.0), torch.full((1,), 100.0)
        if step % 2 == 0:
            slow.step()
        fast.step()
        moved = [abs(weight.item() - old) for weight, old in zip((a, b), before, strict=True)]
        assert moved == pytest.approx([0.5**0.5 if step % 2 == 0 else 0.0, 0.5**0.5], rel=1e-6)


def test_a_gradient_that_waits_for_its_optimizer_is_clipped_once():
    """As that of a generator, while the critic makes several steps."""
    (a, b), (slow, fast), clipper = hundreds()
    a.grad = torch.full((1,), 100.0)
    for _ in range(3):
        b.grad = torch.full((1,), 100.0)
        fast.step()
        assert a.grad.item() == pytest.approx(0.5**0.5, rel=1e-6)
    assert clipper.last.norm_before == 100.0
    slow.step()
    assert a.item() == pytest.approx(-(0.5**0.5), rel=1e-6)
    a.grad = torch.full((1,), 100.0)
    slow.step()
    assert a.item() == pytest.approx(-(0.5**0.5) - 1.0, rel=0.5)


def test_the_result_of_an_attached_clipper_is_saved_with_the_names():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, gradclip.ClipGradByNorm(1e-3), model=model)
    backward(model, 0)
    optimizer.step()
    assert pickle.loads(pickle.dumps(clipper.last)).segments == clipper.last.segments


def test_gradients_that_one_optimizer_gets_after_the_other_stepped_are_clipped_as_well():
    (a, b), (first, second), _ = hundreds()
    for _ in range(3):
        before = b.item()
        a.grad, b.grad = torch.full((1,), 100.0), None
        first.step()
        a.grad, b.grad = None, torch.full((1,), 100.0)
        second.step()
        assert abs(b.item() - before) == pytest.approx(1.0, rel=1e-6)


def test_one_optimizer_given_twice_is_clipped_once():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    clipper = attach(optimizer, optimizer, rule=gradclip.ClipGradByGlobalNorm(1.0))
    weight.grad = torch.full((1,), 4.0)
    optimizer.step()
    assert clipper.step == 1


def lent(gradient, limit, weights=1):
    """A fused optimizer after the hook has run, and its clipper."""
    shared = torch.full((4,), gradient)
    parameters = [nn.Parameter(torch.zeros(4)) for _ in range(weights)]
    for parameter in parameters:
        parameter.grad = shared
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=True)
    return parameters, optimizer, attach(optimizer, gradclip.ClipGradByGlobalNorm(limit), through_grad_scale=True)


def test_a_coefficient_that_float32_cannot_divide_by_is_written_instead():
    (weight,), optimizer, _ = lent(gradient=1e37, limit=1e-3)
    optimizer.step()
    assert weight.detach().norm().item() == pytest.approx(1e-3, rel=1e-6)


def test_a_gradient_that_two_parameters_share_is_not_divided_twice():
    weights, optimizer, _ = lent(gradient=10.0, limit=1.0, weights=2)
    optimizer.step()
    assert all(weight.detach().norm().item() == pytest.approx(1.0, rel=1e-6) for weight in weights)


def test_what_was_lent_is_taken_back_when_another_hook_raises():
    _, optimizer, clipper = lent(gradient=10.0, limit=1.0)
    handle = optimizer.register_step_pre_hook(lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError), clipper:
        optimizer.step()
    handle.remove()
    assert not hasattr(optimizer, "grad_scale")


def test_what_grad_scaler_sets_after_a_failed_step_is_left_alone():
    _, optimizer, clipper = lent(gradient=10.0, limit=1.0)
    clipper._clip_for(optimizer)
    optimizer.grad_scale = torch.tensor(65536.0)
    clipper._step_attributes.restore()
    assert optimizer.grad_scale == 65536.0


def test_attaching_twice_is_attaching_once():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = attach(optimizer, RULE)
    assert attach(optimizer, gradclip.ClipGradByGlobalNorm(0.05)) is first
    backward(model, 0)
    optimizer.step()
    assert first.step == 1


def test_another_rule_on_an_attached_optimizer_is_refused_until_detached():
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    clipper = attach(optimizer, RULE)
    with pytest.raises(ValueError, match=r"call its detach\(\) first"):
        attach(optimizer, gradclip.ClipGradByNorm(1.0))
    clipper.detach()
    attach(optimizer, gradclip.ClipGradByNorm(1.0))


def test_an_optimizer_and_its_clipper_go_when_nobody_holds_them():
    with of_new_objects():
        optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
        gone = weakref.ref(optimizer), weakref.ref(attach(optimizer, RULE))
        del optimizer
        gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_detach_and_the_context_manager_take_the_hooks_away():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(optimizer, RULE) as clipper:
        backward(model, 0)
        optimizer.step()
    optimizer.step()
    assert clipper.step == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_of_an_optimizer_has_no_hooks_and_can_be_attached_again(duplicate):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, RULE)
    twin = duplicate(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    twin.step()
    assert clipper.step == 0
    again = attach(twin, RULE)
    twin.step()
    assert again.last.clipped


def test_loading_a_state_dict_keeps_the_hooks():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, RULE)
    optimizer.load_state_dict(optimizer.state_dict())
    backward(model, 0)
    optimizer.step()
    assert clipper.last.clipped


class Wrapper(torch.optim.Optimizer):
    """A wrapper as accelerate's: an Optimizer whose own __init__ never ran, so it has no hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups):
        self.optimizer.param_groups = groups

    def step(self, closure=None):
        self.optimizer.step(closure)


def test_a_wrapper_is_unwrapped():
    model = make_model()
    wrapped = Wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    clipper = attach(wrapped, RULE)
    backward(model, 0)
    wrapped.step()
    assert clipper.last.clipped


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer or a wrapper"):
        attach(make_model(), RULE)
    with pytest.raises(TypeError, match="attach needs an optimizer and a rule"):
        attach(torch.optim.SGD(make_model().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="expected a clipping rule"):
        attach(torch.optim.SGD(make_model().parameters(), lr=0.1), 1.0)
    with pytest.raises(TypeError, match="attach needs an optimizer"):
        attach(rule=RULE)


def test_an_optimizer_in_backward_takes_a_rule_for_each_tensor_and_refuses_a_global_one():
    from torch.distributed.optim import _apply_optimizer_in_backward, _get_in_backward_optimizers

    model = make_model()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    optimizers = _get_in_backward_optimizers(model)
    with pytest.raises(ValueError, match=r"steps inside backward\(\)"):
        attach(*optimizers, rule=RULE)
    clippers = [attach(optimizer, gradclip.ClipGradByNorm(0.01)) for optimizer in optimizers]
    backward(model, 0)
    assert all(clipper.last.norm_after == pytest.approx(0.01, rel=1e-6) for clipper in clippers)


def test_a_step_inside_a_backward_hook_of_ones_own_is_found_out():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, RULE)
    model[2].weight.register_post_accumulate_grad_hook(lambda parameter: optimizer.step())
    with pytest.raises(RuntimeError, match=r"steps inside backward\(\)"):
        backward(model, 0)


def train_with_own_clip(clip, steps=10, lr=0.01):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    attach(optimizer, gradclip.ClipGradByGlobalNorm(10.0))
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step)
        clip(model)
        optimizer.step()


def test_ones_own_clip_left_on_is_warned_of():
    with pytest.warns(gradclip.GradclipWarning, match="something clips before gradclip"):
        train_with_own_clip(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.05))


def test_training_without_a_clip_of_ones_own_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_with_own_clip(lambda model: None, steps=40)


def test_a_norm_that_never_changes_is_not_taken_for_a_clip():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    attach(optimizer, gradclip.ClipGradByGlobalNorm(10.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            optimizer.zero_grad()
            weight.sum().backward()
            optimizer.step()


def test_a_compiled_step_clips():
    def train(compiled):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        clipper = attach(optimizer, RULE)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for number in range(5):
            optimizer.zero_grad()
            backward(model, number)
            step()
        assert clipper.step == 5
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(train(compiled=True), train(compiled=False), rtol=1e-6, atol=1e-7)


def test_sparse_gradients_are_clipped_in_the_step():
    def train(hook):
        torch.manual_seed(0)
        table = nn.Embedding(20, 4, sparse=True)
        optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
        if hook:
            attach(optimizer, RULE)
        for step in range(3):
            optimizer.zero_grad()
            rows = torch.tensor([1, 1, 7, step])
            (table(rows) ** 2).sum().backward()
            if not hook:
                dense = table.weight.grad.to_dense().double()
                table.weight.grad = (table.weight.grad.coalesce() * min(1.0, 0.05 / dense.norm().item())).coalesce()
            optimizer.step()
        return table.weight.detach()

    torch.testing.assert_close(train(hook=True), train(hook=False), rtol=1e-6, atol=1e-7)


def test_an_all_zero_step_is_a_step_like_any_other_and_is_not_clipped():
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    clipper = attach(optimizer, RULE)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert clipper.last.norm_before == 0.0
    assert not clipper.last.clipped


def test_a_step_without_gradients_is_reported_once():
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    attach(optimizer, RULE)
    with pytest.warns(gradclip.GradclipWarning, match="the optimizer stepped and no parameter") as caught:
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert len(caught) == 1


@pytest.mark.parametrize(("kind", "options"), [*FUSED, (torch.optim.AdamW, {"lr": 0.01})])
def test_a_skipped_step_moves_nothing_at_all(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    clipper = attach(optimizer, RULE, on_nonfinite="skip")
    parameters_after(model, optimizer, steps=2)
    optimizer.zero_grad()
    backward(model, 2)
    model[0].weight.grad[0, 0] = float("nan")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.step()
    assert clipper.last.skipped
    assert clipper.last.norm_after == 0.0
    after = (model.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_too_many_skips_in_a_row_raise():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    attach(optimizer, RULE, on_nonfinite="skip", max_consecutive_skips=2)
    for _ in range(2):
        weight.grad = torch.tensor([1.0, float("inf")])
        optimizer.step()
    weight.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(gradclip.TooManySkips, match="3 steps in a row"):
        optimizer.step()


def test_raising_names_the_parameter_and_takes_no_step():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, RULE, model=model, on_nonfinite="raise")
    backward(model, 0)
    model[2].bias.grad[1] = float("inf")
    grads = [p.grad.clone() for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(gradclip.NonFiniteGradient, match=r"'2\.bias' is non-finite at step 0"):
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def test_names_come_from_the_optimizer_if_it_was_given_named_parameters():
    model = make_model()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    clipper = attach(optimizer, gradclip.ClipGradByNorm(0.01))
    backward(model, 0)
    optimizer.step()
    assert [segment.name for segment in clipper.last.segments] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def exclusions():
    def attribute(model, optimizer):
        model[0].bias.need_clip = False
        return {}

    def function(model, optimizer):
        return {"need_clip": lambda p: p is not model[0].bias}

    def by_name(model, optimizer):
        return {"rule": gradclip.Rules({"0.bias": None, "*": RULE}), "model": model}

    return [attribute, function, by_name]


@pytest.mark.parametrize("exclude", exclusions())
def test_an_excluded_parameter_is_neither_measured_nor_scaled(exclude):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, **{"rule": RULE, **exclude(model, optimizer)})
    backward(model, 0)
    left = model[0].bias.grad.clone()
    others = [p.grad.flatten().double() for name, p in model.named_parameters() if name != "0.bias"]
    truth = torch.cat(others).norm().item()
    optimizer.step()
    assert torch.equal(model[0].bias.grad, left)
    assert clipper.last.norm_before == pytest.approx(truth, rel=1e-6)


def test_a_parameter_group_can_be_excluded_by_its_key():
    model = make_model()
    groups = [{"params": model[0].parameters(), "need_clip": False}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    clipper = attach(optimizer, RULE)
    backward(model, 0)
    left = model[0].weight.grad.clone()
    truth = torch.cat([p.grad.flatten().double() for p in model[2].parameters()]).norm().item()
    optimizer.step()
    assert torch.equal(model[0].weight.grad, left)
    assert clipper.last.norm_before == pytest.approx(truth, rel=1e-6)


def test_a_global_norm_spans_the_groups_and_a_group_norm_does_not():
    def norms(rule):
        model = make_model()
        optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1)
        clipper = attach(optimizer, rule)
        backward(model, 0)
        each = [torch.cat([p.grad.flatten().double() for p in model[i].parameters()]).norm().item() for i in (0, 2)]
        optimizer.step()
        return [segment.norm_before for segment in clipper.last.segments], each

    (together,), each = norms(RULE)
    assert together == pytest.approx((each[0] ** 2 + each[1] ** 2) ** 0.5, rel=1e-6)
    apart, each = norms(gradclip.Rule(gradclip.Group(), threshold=gradclip.Constant(0.05)))
    assert apart == pytest.approx(each, rel=1e-6)


def test_the_state_resumes_and_loads_with_weights_only(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, gradclip.ClipGradByGlobalNorm(gradclip.Schedule((0, 1.0), (10, 0.1))))
    parameters_after(model, optimizer, steps=4)
    torch.save(clipper.state_dict(), tmp_path / "clipper.pt")
    clipper.detach()
    again = attach(optimizer, clipper.rule)
    again.load_state_dict(torch.load(tmp_path / "clipper.pt", weights_only=True))
    backward(model, 4)
    optimizer.step()
    assert again.last.step == 4
    assert again.last.threshold == pytest.approx(1.0 - 0.9 * 0.4)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize(
    "rule",
    [RULE, gradclip.ClipGradByValue(0.01), gradclip.Rules({"*bias": None, "*": gradclip.ClipGradByNorm(0.01)}) >> RULE],
)
def test_the_last_result_keeps_no_gradient_alive(engine, rule):
    model = make_model()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    clipper = attach(optimizer, rule, engine=engine)
    backward(model, 0)
    gradients = [weakref.ref(p.grad) for p in model.parameters()]
    optimizer.step()
    optimizer.zero_grad()
    assert not any(gradient() is not None for gradient in gradients)
    assert clipper.last.norm_before > 0


def test_the_last_result_is_missing_before_the_first_step_and_says_so():
    clipper = attach(torch.optim.SGD(make_model().parameters(), lr=0.1), RULE)
    with pytest.raises(RuntimeError, match="nothing was clipped yet"):
        clipper.last  # noqa: B018
    assert not hasattr(clipper, "last")


def test_the_names_are_those_of_the_users_own_module():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, gradclip.ClipGradByNorm(0.01), model=torch.compile(model, backend="eager"))
    backward(model, 0)
    optimizer.step()
    assert clipper.last.segments[0].name == "0.weight"


def test_a_clip_inside_a_compiled_function_stays_out_of_its_graph():
    weight = nn.Parameter(torch.ones(3))
    clipper = gradclip.torch.Clipper(gradclip.ClipGradByGlobalNorm(1.0))

    @torch.compile(backend="eager")
    def clipped(x):
        doubled = x * 2
        clipper.clip_([weight])
        return doubled + gradclip.torch.clip_grad_norm_([weight], 0.5)

    weight.grad = torch.full((3,), 4.0)
    assert clipped(torch.ones(1)).item() == pytest.approx(3.0)
    assert weight.grad.norm().item() == pytest.approx(0.5)
    assert clipper.last.norm_before == pytest.approx(48**0.5)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_what_is_remembered_of_parameters_of_one_name_is_told_apart(engine):
    """Two models call a parameter alike, and that of the second has a gradient in every other step only."""
    rule = gradclip.Rule(gradclip.Tensor(), threshold=gradclip.History(gradclip.EMA(0.0), gradclip.Ratio(2.0)))
    first, second = (nn.Linear(1, 1, bias=False) for _ in range(2))
    optimizers = [torch.optim.SGD(net.named_parameters(), lr=0.0) for net in (first, second)]
    clipper = attach(*optimizers, rule=rule, engine=engine)
    thresholds = []
    for step in range(5):
        first.weight.grad = torch.full((1, 1), 1.0)
        second.weight.grad = None if step % 2 else torch.full((1, 1), 100.0)
        optimizers[0].step()
        thresholds.append({row.name: row.threshold for row in clipper.last.segments})
    assert thresholds[1:] == [{"weight": 2.0}, {"weight": 2.0, "weight (2)": 200.0}] * 2


def test_a_count_of_steps_that_was_tampered_with_is_refused_before_anything_is_loaded():
    clipper = attach(torch.optim.SGD(make_model().parameters(), lr=0.1), RULE, telemetry=Telemetry(memory()))
    with pytest.raises(ValueError, match="left_out of this clipper state is 'many', expected a whole number from 0"):
        clipper.load_state_dict(clipper.state_dict() | {"left_out": "many", "step": 7})
    assert clipper.step == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"telemetry": "runs/x"}, r"telemetry is a Telemetry, got 'runs/x': write Telemetry\(jsonl\('runs/x'\)\)"),
        ({"telemetry": print}, "telemetry is a Telemetry, got <built-in function print>: write Telemetry"),
        ({"telemetry": 5}, "telemetry is a Telemetry, got 5: write Telemetry"),
        ({"model": "net"}, "model is the torch.nn.Module whose parameters have names, got 'net'"),
        ({"need_clip": 5}, "need_clip is a function of one parameter of the model, got 5"),
        ({"on_nonfinite": ["skip"]}, r"on_nonfinite is one of 'keep', .*, got \['skip'\]"),
        ({"max_consecutive_skips": "3"}, "max_consecutive_skips is a whole number from 0 or None, got '3'"),
        ({"engine": 3}, "PyTorch has the engines 'cpu', 'triton', 'torch' and None to choose, got 3"),
        ({"place": None}, "place is one of"),
    ],
)
def test_a_wrong_argument_is_answered_at_the_call(options, words):
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    with pytest.raises((TypeError, ValueError), match=words):
        attach(optimizer, RULE, **options)
    attach(optimizer, RULE)  # nothing is left of the call


def test_what_is_carried_has_the_shape_of_its_parameter():
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, UClip(ClipGradByValue(0.5)), model=model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = clipper.state_dict()
    tampered = before | {"carried": before["carried"] | {"bias": torch.ones(4)}}
    with pytest.raises(ValueError, match=r"the shape of carried\['bias'\] .* is \(4,\), expected \(3,\)"):
        clipper.load_state_dict(tampered)
    assert clipper.state_dict()["carried"].keys() == {"weight", "bias"}
    clipper.load_state_dict(before)
