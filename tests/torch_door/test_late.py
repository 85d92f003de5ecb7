"""Clippers for optimizers that come later: the memory waits for them, and nothing of a state is half loaded."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import gradclip
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, NothingClipped, UClip, ZClip
from gradclip.telemetry import Telemetry
from gradclip.torch.late import LateClippers, numbered

RULE = ZClip(warmup=2)


def models(number=2):
    torch.manual_seed(0)
    return [torch.nn.Linear(3, 2) for _ in range(number)]


def optimizers(made):
    return {
        name: torch.optim.SGD(model.parameters(), 0.1) for name, model in zip(("actor", "critic"), made, strict=False)
    }


def train(made, found, steps=3):
    for step in range(steps):
        for model in made:
            model.zero_grad()
            ((1 + step) * model(torch.ones(4, 3))).square().sum().backward()
        for optimizer in found.values():
            optimizer.step()


def trained(late=None, number=2):
    late, made = late or LateClippers(RULE), models(number)
    found = optimizers(made)
    late.attach_to(found)
    train(made, found)
    return late, made, found


def test_each_optimizer_has_a_norm_and_a_memory_of_its_own():
    late, _, _ = trained()
    assert late.clippers.keys() == {"actor", "critic"}
    assert [clipper.step for clipper in late.clippers.values()] == [3, 3]
    for model, (name, clipper) in zip(models(), late.clippers.items(), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        apart = gradclip.attach(optimizer, RULE)
        train([model], {name: optimizer})
        assert {**apart.state_dict(), "left_out": 0} == clipper.state_dict()
    assert late.clippers["actor"].state_dict() != late.clippers["critic"].state_dict()


def test_together_is_one_norm_over_all():
    late, _, _ = trained(LateClippers(ClipGradByGlobalNorm(1.0), together=True))
    assert list(late.clippers) == ["all"]
    assert late.last.step == 2
    assert len(late.clippers["all"].optimizers) == 2


def test_a_state_that_is_loaded_before_there_are_optimizers_is_that_of_the_first_step():
    late, made, found = trained()
    state, weights = copy.deepcopy(late.state_dict()), copy.deepcopy([model.state_dict() for model in made])
    other, twins = LateClippers(RULE), models()
    other.load_state_dict(state)
    assert other.state_dict() == state
    for twin, of_one in zip(twins, weights, strict=True):
        twin.load_state_dict(of_one)
    again = optimizers(twins)
    other.attach_to(again)
    train(made, found)
    train(twins, again)
    assert other.state_dict() == late.state_dict()
    assert other.clippers["actor"].step == 6


def test_attaching_to_the_same_optimizers_is_nothing_and_to_others_goes_on():
    late, made, found = trained()
    before = late.clippers
    late.attach_to(found)
    assert all(clipper is before[name] for name, clipper in late.clippers.items())
    again = optimizers(made)
    late.attach_to(again)
    with pytest.raises(RuntimeError, match="would not be clipped: the Clip of its training was given to another"):
        train(made, found, steps=1)
    assert late.clippers["actor"].step == 3
    train(made, again, steps=1)
    assert late.last.step == 3
    late.attach_to(found)
    train(made, found, steps=1)
    assert late.last.step == 4


def test_what_another_model_taught_is_forgotten_and_what_was_loaded_stays():
    late, made, found = trained()
    late.detach()
    late.attach_to(optimizers(models()))
    assert late.clippers["actor"].step == 0
    late.detach()
    late.load_state_dict(trained()[0].state_dict())
    late.attach_to(optimizers(models()))
    assert late.clippers["actor"].step == 3
    train(made, found, steps=1)  # its training has ended


def test_numbers_are_those_of_the_last_step_and_told_once():
    late, _, _ = trained(LateClippers(ClipGradByGlobalNorm(1.0), layers=1))
    numbers = late.numbers("train/")
    assert {"train/actor/grad_norm", "train/critic/clip/rate"} <= numbers.keys()
    assert numbers["train/actor/grad_norm"] == pytest.approx(late.clippers["actor"].last.norm_before)
    each = [name for name in numbers if "/grad_norm/" in name]
    assert len(each) == 2
    assert late.numbers() == {}


def test_the_names_of_one_optimizer_have_nothing_in_front():
    late, _, _ = trained(number=1)
    assert {"grad_norm", "grad_norm_clipped", "clip/threshold", "clip/rate"} <= late.numbers().keys()


def test_the_rule_is_changed_for_all_and_refused_for_all():
    late, made, found = trained()
    learnt = {name: state["thresholds"] for name, state in late.state_dict()["clippers"].items()}
    late.rule = ZClip(z=1.0, warmup=2)
    assert {name: state["thresholds"] for name, state in late.state_dict()["clippers"].items()} == learnt
    with pytest.raises(TypeError):
        late.rule = 1.0
    assert late.rule == ZClip(z=1.0, warmup=2)
    late.detach()
    late.attach_to(optimizers(made))
    assert all(clipper.rule == late.rule for clipper in late.clippers.values())
    assert found


def test_a_telemetry_hears_of_one_clipper_and_is_refused_for_two():
    seen = []
    late, _, _ = trained(LateClippers(RULE, telemetry=Telemetry(seen.append)), number=1)
    assert len(seen) == 3
    assert late.numbers()["grad_norm"] == seen[-1].norm_before
    two = LateClippers(RULE, telemetry=Telemetry(seen.append))
    found = optimizers(models())
    with pytest.raises(ValueError, match="together=True"):
        two.attach_to(found)
    assert not found["actor"]._optimizer_step_pre_hooks


def test_a_telemetry_hears_of_the_next_training_too():
    seen = []
    late, made, _ = trained(LateClippers(RULE, telemetry=Telemetry(seen.append)), number=1)
    late.detach()
    assert late.numbers()["grad_norm"] == seen[-1].norm_before
    again = optimizers(made)
    late.attach_to(again)
    train(made, again)
    assert [event.step for event in seen] == list(range(6))
    assert late.numbers()["grad_norm"] == seen[-1].norm_before


def test_layers_are_told_of_a_telemetry_that_has_tensors():
    with pytest.raises(ValueError, match="tensors=True"):
        LateClippers(RULE, layers=1, telemetry=Telemetry(print))


def test_without_an_optimizer_there_is_nothing_to_clip():
    with pytest.raises(ValueError, match="no optimizer"):
        LateClippers(RULE).attach_to({})


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (None, TypeError, "state_dict"),
        ({"step": 3}, ValueError, "'clippers'"),
        ({"clippers": {"0": {}}}, ValueError, r"\['0'\], and there are \['actor', 'critic'\]"),
    ],
)
def test_a_state_of_something_else_is_refused(state, error, words):
    late, _, _ = trained()
    before = late.state_dict()
    with pytest.raises(error, match=words):
        late.load_state_dict(state)
    assert late.state_dict() == before


def test_a_state_of_which_one_part_is_wrong_changes_nothing():
    late, _, _ = trained()
    other = trained()[0].state_dict()
    other["clippers"]["actor"]["step"] = 99
    other["clippers"]["critic"]["step"] = "many"
    before = late.state_dict()
    with pytest.raises(ValueError, match="step"):
        late.load_state_dict(other)
    assert late.state_dict() == before


def test_a_state_that_the_optimizers_cannot_take_leaves_no_hooks_and_stays():
    state = trained()[0].state_dict()
    late, found = LateClippers(ClipGradByNorm(1.0)), optimizers(models())
    late.load_state_dict(state)
    for _ in range(2):
        with pytest.raises(ValueError, match="belongs to the rule"):
            late.attach_to(found)
        assert not found["actor"]._optimizer_step_pre_hooks
        assert late.state_dict() == state


def test_an_optimizer_that_is_clipped_already_is_refused_and_none_keeps_hooks():
    found = optimizers(models())
    kept = gradclip.attach(found["critic"], ClipGradByNorm(1.0))
    late = LateClippers(RULE)
    with pytest.raises(ValueError, match="attached to this SGD already"):
        late.attach_to(found)
    assert not found["actor"]._optimizer_step_pre_hooks
    assert kept.attached


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("rule", [RULE, UClip(ClipGradByNorm(0.1))])
def test_a_copy_has_the_memory_for_optimizers_of_its_own(copied, rule):
    late, made, _ = trained(LateClippers(rule))
    other = copied(late)
    assert other.clippers == {}
    one, two = late.state_dict()["clippers"], other.state_dict()["clippers"]
    assert one["actor"]["thresholds"] == two["actor"]["thresholds"]
    other.attach_to(optimizers(made))
    assert other.clippers["actor"].step == 3


def test_before_the_first_training_nothing_was_clipped():
    late = LateClippers(RULE)
    assert late.state_dict() == {}
    assert late.numbers() == {}
    with pytest.raises(NothingClipped):
        _ = late.last


def test_numbers_in_front_are_the_names():
    assert numbered("ab") == {"0": "a", "1": "b"}
