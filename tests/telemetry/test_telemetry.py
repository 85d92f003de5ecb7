"""Each step becomes one event, with the numbers of the result, when it is read and not before."""

import math
import subprocess
import sys

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

import gradclip
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, GradclipWarning, Raise, Rule
from gradclip.engines.torch import DEVICE
from gradclip.telemetry import Telemetry, memory
from gradclip.torch import Clipper, attach
from gradclip.torch.clipper import cpu_engine
from torch_tensors import unread
from training import RULE, backward, by_hand, make_model, parameters_after

ENGINES = ["torch"] + (["cpu"] if cpu_engine() is not None else [])
NAN = float("nan")


def weights(*gradients):
    """Parameters a, b, c ... with these gradients."""
    found = {}
    for name, gradient in zip("abcdef", gradients, strict=False):
        found[name] = torch.nn.Parameter(torch.zeros_like(torch.tensor(gradient)))
        found[name].grad = torch.tensor(gradient)
    return found


def recorded(rule, parameters, tensors=False, **options):
    """The events of one clip, and the error if it raised."""
    seen = memory()
    try:
        Clipper(rule, telemetry=Telemetry(seen, tensors=tensors), **options).clip_(parameters)
    except (gradclip.NonFiniteGradient, gradclip.GradientAboveThreshold) as error:
        return seen, error
    return seen, None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_event_has_the_numbers_of_the_step(engine):
    (event,), _ = recorded(ClipGradByGlobalNorm(2.5), weights([3.0], [4.0]), engine=engine)
    assert (event.step, event.norm_before, event.norm_after) == (0, 5.0, 2.5)
    assert (event.threshold, event.coefficient, event.clipped, event.skipped) == (2.5, 0.5, True, False)
    assert (event.nonfinite, event.offenders, event.tensors) == (0, (), None)
    assert event.engine == engine
    assert "an L2 norm above 2.5 is rescaled" in event.rule


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("rule", "norms"),
    [
        (ClipGradByGlobalNorm(1.0), {"a": 5.0, "b": 2.0}),
        (ClipGradByNorm(1.0), {"a": 5.0, "b": 2.0}),
        (ClipGradByNorm(1.0, norm_type=1.0), {"a": 7.0, "b": 2.0}),
        (ClipGradByValue(1.0), {"a": 4.0, "b": 2.0}),
        (Rule(gradclip.Row(), threshold=gradclip.Constant(1.0)), {"a": 5.0, "b": 2.0}),
        (Rule(gradclip.Group(), threshold=gradclip.Constant(1.0)), {"a": 5.0, "b": 2.0}),
        (Rule(norm=gradclip.RMS(), threshold=gradclip.Constant(1.0)), {"a": math.sqrt(12.5), "b": 2.0}),
        (ClipGradByNorm(1.0) >> ClipGradByGlobalNorm(0.5), {"a": 5.0, "b": 2.0}),
        (gradclip.Rules({"b": ClipGradByGlobalNorm(1.0)}), {"b": 2.0}),
    ],
    ids=repr,
)
def test_the_norm_of_each_tensor_is_told_if_asked_for(rule, norms, engine):
    (event,), _ = recorded(rule, weights([[3.0], [-4.0]], [2.0]), tensors=True, engine=engine)
    assert event.tensors == pytest.approx(norms, rel=1e-15)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("norm", [gradclip.L2(), gradclip.L1(), gradclip.Linf(), gradclip.Lp(3.0), gradclip.RMS()])
@pytest.mark.parametrize("engine", ENGINES)
def test_asked_for_tensors_or_not_the_norm_of_all_and_what_is_written_are_the_same(engine, norm, scale):
    rule, steps = Rule(norm=norm, threshold=gradclip.Constant(0.5 * scale)), {}
    for tensors in (False, True):
        parameters = weights([[3.0 * scale], [-4.0 * scale]], [2.0 * scale, 0.0, 1.0 * scale])
        (event,), _ = recorded(rule, parameters, tensors=tensors, engine=engine)
        steps[tensors] = [event.norm_before, event.norm_after, event.coefficient]
        steps[tensors] += [number for p in parameters.values() for number in p.grad.flatten().tolist()]
    # The sums are in float64, taken in another order; the gradients are in float32, which may round to a neighbour.
    assert steps[True][:3] == pytest.approx(steps[False][:3], rel=1e-14)
    assert steps[True][3:] == pytest.approx(steps[False][3:], rel=2**-23, abs=0.0)


def test_a_layer_that_the_model_gains_is_told_by_its_name():
    model, seen = make_model(), memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, RULE, model=model, telemetry=Telemetry(seen, tensors=True))
    train(model, optimizer, 1)
    model.append(torch.nn.Linear(4, 4))
    optimizer.add_param_group({"params": list(model[3].parameters())})
    train(model, optimizer, 1)
    assert seen[0].tensors.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert seen[1].tensors.keys() == seen[0].tensors.keys() | {"3.weight", "3.bias"}


def test_a_parameter_that_the_model_has_not_is_told_by_its_place():
    model, seen, other = make_model(), memory(), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([*model.parameters(), other], lr=0.1)
    attach(optimizer, RULE, model=model, telemetry=Telemetry(seen, tensors=True))
    other.grad = torch.ones(1)
    optimizer.step()
    assert seen[0].tensors == {"group 0, parameter 4": 1.0}


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_tensors_that_are_not_finite_are_named_at_every_step(engine, tensors):
    seen = memory()
    clipper = Clipper(ClipGradByGlobalNorm(1.0), telemetry=Telemetry(seen, tensors=tensors), engine=engine)
    with pytest.warns(GradclipWarning, match="'b'"):
        clipper.clip_(weights([1.0], [NAN, math.inf]))
    clipper.clip_(weights([NAN], [1.0], [math.inf], [NAN], [NAN]))
    assert [event.offenders for event in seen] == [("b",), ("a", "c", "d")]
    assert all(math.isnan(event.norm_before) for event in seen)
    assert seen[0].nonfinite >= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_by_value_only_the_tensor_with_an_infinity_is_named(engine):
    with pytest.warns(GradclipWarning, match="the gradient of 'b' is non-finite"):
        (event,), _ = recorded(ClipGradByValue(1.0), weights([1.0], [math.inf]), engine=engine)
    assert event.offenders == ("b",)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (ClipGradByGlobalNorm(1.0), "L2"),
        (ClipGradByGlobalNorm(1.0, norm_type=3), "Lp"),
        (ClipGradByValue(1.0), "Linf"),
        (ClipGradByValue(1.0) >> ClipGradByGlobalNorm(1.0), "Linf"),
    ],
)
def test_an_event_names_the_norm_of_its_first_stage(rule, name):
    (event,), _ = recorded(rule, weights([3.0], [4.0]))
    assert event.norm == name


def test_a_skipped_step_is_an_event():
    (event,), _ = recorded(ClipGradByGlobalNorm(1.0), weights([1.0], [NAN]), on_nonfinite="skip")
    assert (event.skipped, event.clipped, event.norm_after, event.offenders) == (True, False, 0.0, ("b",))


@pytest.mark.parametrize("rule", [ClipGradByGlobalNorm(1.0), ClipGradByNorm(1.0) >> ClipGradByValue(1.0)], ids=repr)
def test_a_step_that_raises_for_a_nan_is_an_event(rule):
    (event,), error = recorded(rule, weights([1.0], [NAN]), on_nonfinite="raise")
    assert error.parameters == event.offenders == ("b",)
    assert (event.skipped, event.clipped, event.nonfinite) == (True, False, 1)
    assert math.isnan(event.norm_before)


def test_a_step_that_raises_for_its_norm_is_an_event():
    rule = Rule(threshold=gradclip.Constant(1.0), response=Raise())
    (event,), error = recorded(rule, weights([3.0], [4.0]))
    assert isinstance(error, gradclip.GradientAboveThreshold)
    assert (event.norm_before, event.threshold, event.skipped, event.clipped) == (5.0, 1.0, True, False)


def test_the_step_that_is_one_skip_too_many_is_an_event():
    seen = memory()
    clipper = Clipper(RULE, on_nonfinite="skip", max_consecutive_skips=0, telemetry=Telemetry(seen))
    with pytest.raises(gradclip.TooManySkips):
        clipper.clip_(weights([NAN]))
    assert [event.skipped for event in seen] == [True]


def test_events_wait_until_there_are_as_many_as_every():
    seen, lengths = memory(), []
    clipper = Clipper(RULE, telemetry=Telemetry(seen, every=3))
    for _ in range(7):
        clipper.clip_(weights([1.0]))
        lengths.append(len(seen))
    assert lengths == [0, 0, 3, 3, 3, 6, 6]
    clipper.telemetry.close()
    assert [event.step for event in seen] == list(range(7))
    assert [event.time for event in seen] == sorted(event.time for event in seen)


def train(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def test_leaving_the_clipper_or_the_telemetry_reads_what_is_left():
    model, seen = make_model(), memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(optimizer, RULE, telemetry=Telemetry(seen, every=10)):
        train(model, optimizer, 3)
    assert len(seen) == 3
    with Telemetry(seen, every=10) as telemetry:
        Clipper(RULE, telemetry=telemetry).clip_(weights([1.0]))
    assert len(seen) == 4


def test_the_end_of_the_interpreter_reads_what_is_left():
    code = """
import torch, gradclip.torch
from gradclip.telemetry import Telemetry
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.tensor([3.0, 4.0])
telemetry = Telemetry(lambda event: print(event.norm_before), every=10)
gradclip.torch.Clipper(gradclip.ClipGradByGlobalNorm(1.0), telemetry=telemetry).clip_([weight])
print("the end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "the end\n5.0\n"


def test_a_device_is_not_read_before_the_drain():
    model, seen = make_model(), memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    clipper = attach(optimizer, RULE, model=model, telemetry=Telemetry(seen, every=3, tensors=True))
    clipper.engine_for = lambda gradients: DEVICE
    backward(model, 0)
    clipper._clip_for(optimizer)  # constants are copied to the device once
    with unread():
        clipper._clip_for(optimizer)
    clipper._clip_for(optimizer)
    assert [event.step for event in seen] == [0, 1, 2]
    assert seen[0].norm_before > 0.05
    assert math.hypot(*seen[0].tensors.values()) == pytest.approx(seen[0].norm_before, rel=1e-6)


def test_a_sink_that_raises_is_dropped_and_said_once_and_training_goes_on():
    def broken(event):
        raise OSError("no such luck")

    seen = memory()
    clipper = Clipper(RULE, telemetry=Telemetry(broken, seen))
    with pytest.warns(GradclipWarning, match="by broken, which raised OSError: no such luck; training goes on"):
        clipper.clip_(weights([1.0]))
    clipper.clip_(weights([1.0]))
    assert len(seen) == 2


def test_telemetry_changes_no_bit_of_the_training():
    model, seen = make_model(), memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, RULE, telemetry=Telemetry(seen))
    expected = by_hand(torch.optim.SGD, {"lr": 0.1})
    assert torch.equal(parameters_after(model, optimizer), expected)
    assert len(seen) == 5


def events_of_rank(rank):
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
    try:
        return recorded(RULE, weights([1.0]))[0]
    finally:
        torch.distributed.destroy_process_group()


def test_only_rank_0_tells():
    assert len(events_of_rank(0)) == 1
    assert events_of_rank(1) == []


def test_one_telemetry_has_one_clipper():
    telemetry = Telemetry(print)
    first = Clipper(RULE, telemetry=telemetry)
    with pytest.raises(ValueError, match="make one for each"):
        Clipper(RULE, telemetry=telemetry)
    del first
    Clipper(RULE, telemetry=telemetry)


@pytest.mark.parametrize(("sinks", "every"), [((), 1), ((3,), 1), ((print,), 0), ((print,), True), ((print,), 1.0)])
def test_what_is_no_sink_and_no_number_of_steps_is_refused(sinks, every):
    with pytest.raises((TypeError, ValueError), match=r"sinks|every"):
        Telemetry(*sinks, every=every)


@pytest.mark.parametrize("through", [False, True])
def test_norms_of_tensors_and_one_coefficient_through_grad_scale_go_together(through):
    model, seen = make_model(), memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    attach(optimizer, RULE, model=model, through_grad_scale=through, telemetry=Telemetry(seen, tensors=True))
    train(model, optimizer, 2)
    assert seen[1].tensors.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert math.hypot(*seen[1].tensors.values()) == pytest.approx(seen[1].norm_before, rel=1e-15)
    assert seen[1].norm_after == pytest.approx(0.05, rel=1e-15)
