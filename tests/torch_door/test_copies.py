"""Copies of clippers go on by themselves, and a rule that is changed keeps what still fits."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from gradclip import (
    EMA,
    L1,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Global,
    History,
    Ratio,
    Rule,
    Rules,
    SkipStep,
    UClip,
    Window,
    ZClip,
    attach,
)
from gradclip.rules.estimators import QuantileTracker
from gradclip.telemetry import Telemetry, jsonl
from gradclip.torch import Clipper

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}
ADAPTIVE = ZClip(warmup=2)


def rule_of(threshold, norm=None):
    return Rule(Global(), threshold=threshold) if norm is None else Rule(Global(), norm, threshold)


def backward(model, step):
    model.zero_grad()
    scale = 100.0 if step % 3 == 2 else 1.0
    (scale * model(torch.full((4, 3), 1.0 + 0.1 * step))).square().sum().backward()


def trained(steps=4, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    clipper = attach(optimizer, options.pop("rule", ADAPTIVE), model=model, **options)
    train(model, optimizer, range(steps))
    return model, optimizer, clipper


def train(model, optimizer, steps):
    for step in steps:
        backward(model, step)
        optimizer.step()


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    "rule", [ADAPTIVE, UClip(ClipGradByNorm(0.1)), ClipGradByValue(0.1)], ids=["ema", "carry", "value"]
)
def test_a_copy_of_a_training_goes_on_as_the_training_does(copied, rule):
    model, optimizer, clipper = trained(rule=rule)
    other, twin, again = copied((model, optimizer, clipper))
    train(model, optimizer, range(4, 9))
    assert (clipper.step, again.step) == (9, 4), "the copy has learnt from what it was copied from"
    train(other, twin, range(4, 9))
    assert again.step == 9
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    one, two = clipper.state_dict(), again.state_dict()
    carried = one.pop("carried", {}), two.pop("carried", {})
    assert one == two
    assert all(torch.equal(tensor, carried[1][name]) for name, tensor in carried[0].items())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_attached_to_its_own_optimizer_once(copied):
    _, optimizer, clipper = trained()
    twin, again = copied((optimizer, clipper))
    assert attach(twin, ADAPTIVE) is again
    again.detach()
    assert not again.attached
    assert clipper.attached
    assert not twin._optimizer_step_pre_hooks


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_detached_clipper_is_detached(copied):
    model, optimizer, clipper = trained()
    clipper.detach()
    other, twin, again = copied((model, optimizer, clipper))
    train(other, twin, [4])
    assert (again.attached, again.step) == (False, 4)


def test_a_shallow_copy_does_not_clip_a_second_time():
    model, optimizer, clipper = trained()
    shallow = copy.copy(clipper)
    train(model, optimizer, [4])
    assert not shallow.attached
    assert (clipper.step, shallow.step) == (5, 4)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("attached", [True, False])
def test_a_copy_tells_nobody(copied, attached, tmp_path):
    telemetry = Telemetry(jsonl(tmp_path / "run"))
    if attached:
        model, optimizer, clipper = trained(telemetry=telemetry)
        _, twin, again = copied((model, optimizer, clipper))
        assert attach(twin, ADAPTIVE) is again
    else:
        model, clipper = torch.nn.Linear(3, 2), Clipper(ADAPTIVE, telemetry=telemetry)
        backward(model, 0)
        clipper.clip_(model)
        again = copied(clipper)
    assert again.telemetry is None
    assert clipper.telemetry is telemetry


def test_a_copy_with_skips_and_several_optimizers_steps_all_or_none():
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    clipper = attach(*optimizers, rule=ClipGradByGlobalNorm(1.0), on_nonfinite="skip")
    twins, again = copy.deepcopy((optimizers, clipper))
    parameters = [p for twin in twins for group in twin.param_groups for p in group["params"]]
    before = copy.deepcopy(parameters)
    for p in parameters:
        p.grad = torch.full_like(p, float("nan"))
    for twin in twins:
        twin.step()
    assert again.last.skipped
    assert all(map(torch.equal, parameters, before))


def test_another_threshold_keeps_what_was_learnt():
    model, optimizer, clipper = trained(rule=ZClip(z=2.5, warmup=2))
    learnt = clipper.state_dict()["thresholds"]
    clipper.rule = ZClip(z=3.0, warmup=2)
    assert clipper.rule == ZClip(z=3.0, warmup=2)
    assert clipper.state_dict()["thresholds"] == learnt
    twin, other, fresh = trained(rule=ZClip(z=3.0, warmup=2), steps=0)
    fresh.load_state_dict(clipper.state_dict())
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(4, 7))
    train(twin, other, range(4, 7))
    assert clipper.state_dict() == fresh.state_dict()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


MEMORY = History(EMA(0.9), Ratio(2.0))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (rule_of(MEMORY), rule_of(History(EMA(0.99), Ratio(1.5), warmup=3)), True),
        (rule_of(MEMORY), rule_of(History(QuantileTracker(0.5), Ratio(2.0))), False),
        (rule_of(MEMORY), rule_of(History(Window(8), Ratio(2.0))), False),
        (rule_of(History(Window(8), Ratio(2.0))), rule_of(History(Window(9), Ratio(2.0))), False),
        (rule_of(MEMORY), rule_of(MEMORY, L1()), False),
        (rule_of(MEMORY), ClipGradByGlobalNorm(1.0), False),
        (rule_of(MEMORY), Rules({"*": rule_of(MEMORY)}), False),
        (Rules({"*": rule_of(MEMORY)}), Rules({"b*": rule_of(MEMORY), "*": None}), False),
        (Rules({"*": rule_of(MEMORY)}), Rules({"*": rule_of(History(EMA(0.5), Ratio(3.0)))}), True),
        (ClipGradByNorm(1.0) >> rule_of(MEMORY), ClipGradByNorm(2.0) >> rule_of(MEMORY), True),
    ],
)
def test_a_memory_fits_where_the_same_is_remembered_of_the_same_norms(before, after, kept):
    model, clipper = torch.nn.Linear(3, 2), Clipper(before)
    backward(model, 0)
    clipper.clip_(model)
    learnt = clipper.memories.plain(clipper.last.to_host)
    clipper.rule = after
    assert clipper.memories.plain(clipper.last.to_host) == (learnt if kept else {})
    backward(model, 1)
    clipper.clip_(model)
    assert clipper.step == 2


def test_a_rule_that_begins_to_skip_skips_from_then_on():
    model, optimizer, clipper = trained(rule=ClipGradByGlobalNorm(1.0))
    before = [p.detach().clone() for p in model.parameters()]
    clipper.rule = Rule(Global(), threshold=ClipGradByGlobalNorm(1e-6).threshold, response=SkipStep())
    train(model, optimizer, [4])
    assert clipper.last.skipped
    assert all(map(torch.equal, model.parameters(), before))


def test_a_rule_that_an_optimizer_cannot_take_is_refused_and_the_former_stays():
    _, _, clipper = trained(rule=ClipGradByGlobalNorm(1.0), place="update")
    with pytest.raises(ValueError, match="skip or refuse the step"):
        clipper.rule = Rule(Global(), threshold=ClipGradByGlobalNorm(1.0).threshold, response=SkipStep())
    with pytest.raises(TypeError, match="rule"):
        clipper.rule = 1.0
    assert clipper.rule == ClipGradByGlobalNorm(1.0)
    assert clipper.attached


def test_the_loss_that_a_rule_carries_is_dropped_where_the_next_carries_nothing():
    _, _, clipper = trained(rule=UClip(ClipGradByNorm(0.1)))
    assert clipper.carried
    clipper.rule = UClip(ClipGradByNorm(0.2))
    assert clipper.carried
    clipper.rule = ClipGradByNorm(0.2)
    assert not clipper.carried


def test_events_after_a_change_tell_of_the_rule_that_is_applied():
    seen = []
    model, optimizer, clipper = trained(
        rule=ClipGradByGlobalNorm(1.0), steps=1, telemetry=Telemetry(seen.append, every=3)
    )
    clipper.rule = AutoClip()
    train(model, optimizer, [1])
    clipper.telemetry.drain()
    assert [event.rule for event in seen] == [repr(ClipGradByGlobalNorm(1.0)), repr(AutoClip())]
