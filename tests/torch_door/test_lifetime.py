"""What a training had is freed with the last name for it, as without a clipper: nobody waits for the collector."""

import gc
import weakref

import pytest
import torch

from gradclip import (
    AGC,
    SPAM,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    Rule,
    Rules,
    StepLength,
    UClip,
    ZClip,
)
from gradclip.telemetry import Telemetry, memory
from gradclip.torch import attach

GLOBAL = ClipGradByGlobalNorm(1.0)
RULES = {
    "global": GLOBAL,
    "adapting": ZClip(),
    "carrying": UClip(ClipGradByNorm(0.1)),
    "by name": Rules({"weight": ClipGradByNorm(1.0), "*": None}),
    "weights": AGC(),
    "rate": Rule(threshold=StepLength(1.0)),
}
OPTIONS = {
    "skip": {"on_nonfinite": "skip"},
    "telemetry": {"telemetry": Telemetry(memory())},
    "update": {"place": "update"},
    "torch": {"engine": "torch"},
    "need_clip": {"need_clip": lambda parameter: True},
}


@pytest.fixture(autouse=True)
def no_collector():
    """After a first training: what PyTorch imports in it late keeps its frame, and so what is in that."""
    freed(None)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def freed(rule, kind=torch.optim.SGD, way="plain", settings=None, **options):
    """Whether a parameter, its gradient, and the optimizer of a training of two steps are gone when it has ended."""
    model = torch.nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, **(settings or {}))
    if rule is not None:
        attach(optimizer, rule, model=model, **options)
    scaler = torch.amp.GradScaler("cpu", enabled=way == "scaler")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def loss(model=model, optimizer=optimizer):
        optimizer.zero_grad()
        scaled = scaler.scale(model(torch.ones(2, 3)).sum())
        scaled.backward()
        return scaled

    for _ in range(2):
        if way == "closure":
            optimizer.step(loss)
        else:
            loss()
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
    known = [weakref.ref(model.weight), weakref.ref(model.weight.grad), weakref.ref(optimizer)]
    del model, optimizer, schedule, loss
    return [one() is None for one in known] == [True] * 3


def test_without_a_clipper_all_is_freed():
    assert freed(None)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_under_every_kind_of_rule(rule):
    assert freed(rule)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_every_option(options):
    assert freed(GLOBAL, **options)


@pytest.mark.parametrize("way", ["closure", "scaler"])
def test_in_every_way_to_step(way):
    assert freed(GLOBAL, way=way)


def test_with_an_optimizer_that_remembers():
    assert freed(SPAM(), torch.optim.AdamW)
    assert freed(GLOBAL, torch.optim.AdamW, settings={"fused": True}, through_grad_scale=True)


def test_of_several_optimizers_each_is_freed_by_itself():
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for model in models)
    clipper, gone = attach(first, second, rule=GLOBAL), weakref.ref(second)
    for model in models:
        model.weight.grad = torch.full((2, 3), 10.0)
    first.step()
    second.step()
    del second
    assert gone() is None
    assert clipper.optimizers == [first]
    models[0].weight.grad = torch.full((2, 3), 10.0)
    first.step()
    assert clipper.last.norm_before == pytest.approx(600**0.5)  # of one model alone: six elements of 10


def test_a_clipper_that_is_kept_tells_of_its_last_step_and_keeps_no_optimizer():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper, gone = attach(optimizer, ZClip(), model=model), weakref.ref(optimizer)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = clipper.state_dict()
    del optimizer
    assert gone() is None
    assert clipper.last.step == 0
    assert clipper.state_dict() == state
    clipper.detach()
    assert not clipper.attached
