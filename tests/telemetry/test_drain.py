"""The numbers of all results that wait come from a device in one copy, and are those that one would read one by one."""

import gc
import weakref
from dataclasses import replace
from unittest import mock

import pytest
import torch

import gradclip
from collecting import of_new_objects
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, ZClip
from gradclip.engines.torch import CPU, DEVICE, TorchEngine
from gradclip.engines.torch_functions import uploaded
from gradclip.telemetry import Telemetry, memory
from gradclip.telemetry.observed import event_of
from gradclip.telemetry.pending import light, on_host
from gradclip.torch import Clipper

RULES = [
    ClipGradByGlobalNorm(1.0),
    ClipGradByNorm(1.0) >> ClipGradByGlobalNorm(0.5),
    ClipGradByValue(1.0),
    ClipGradByGlobalNorm(1.0, norm_type=3.0),
    ZClip(),
    gradclip.Rules({"a": ClipGradByNorm(0.1), "b": ClipGradByValue(2.0)}),
    gradclip.Rule(gradclip.Row(), norm=gradclip.RMS(), threshold=gradclip.Constant(1.0)),
    gradclip.Rule(threshold=gradclip.Constant(3.0), response=gradclip.SkipStep()),
]
STEPS = 4


def on_device(clipper):
    """The clipper with the engine of accelerators, on the tensors of the host."""
    clipper.engine_for = lambda gradients: DEVICE
    return clipper


def weights(step):
    generator = torch.Generator().manual_seed(step)
    found = {name: torch.nn.Parameter(torch.zeros(3, 2)) for name in "ab"}
    for parameter in found.values():
        parameter.grad = torch.randn(3, 2, generator=generator)
    return found


def results_of(rule, broken=None):
    """The results of four steps on a device that nobody has read; in the step `broken` there is a NaN."""
    clipper, found = on_device(Clipper(rule, on_nonfinite="skip")), []
    for step in range(STEPS):
        parameters = weights(step)
        if step == broken:
            parameters["b"].grad[0, 0] = float("nan")
        found.append(clipper.clip_gradients(gradients(parameters), DEVICE))
    return found


def gradients(parameters):
    names = list(parameters)
    tensors = [parameters[name].grad for name in names]
    return gradclip.step.gradients.Gradients(tensors, names.__getitem__, weights=lambda: list(parameters.values()))


def events(results):
    return [repr(event_of(result, "rule", 0.0, tensors=True)) for result in results]


def check_events_on_the_host(rule, broken):
    """The events of results that were moved together are those of results read one by one."""
    assert events(on_host(results_of(rule, broken))) == events(results_of(rule, broken))
    assert events(map(light, results_of(rule, broken))) == events(results_of(rule, broken))


@pytest.mark.parametrize("broken", [None, 2])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_events_are_those_of_results_read_one_by_one(rule, broken):
    check_events_on_the_host(rule, broken)


def check_a_drain_is_one_copy(every):
    """A drain of so many results moves arrays once: they can be destroyed on the device, and the events are right."""
    seen, truth, moves, together = memory(), memory(), [], TorchEngine.on_host

    def move_and_destroy(self, arrays):
        moved = together(self, arrays)
        moves.extend(array.fill_(7) for array in arrays)
        return moved

    clippers = [
        on_device(Clipper(RULES[1], telemetry=Telemetry(to, every=every + 1, tensors=True))) for to in (seen, truth)
    ]
    for clipper in clippers:
        for step in range(every):
            clipper.give(loss=torch.tensor(float(step)))
            clipper.clip_(weights(step))
    clippers[1].telemetry.drain()
    with mock.patch.object(TorchEngine, "on_host", move_and_destroy):
        clippers[0].telemetry.drain()
    uploaded.cache_clear()  # constants on the device were destroyed, too
    assert [replace(event, time=0.0) for event in seen] == [replace(event, time=0.0) for event in truth]
    assert len({id(array) for array in moves}) == len(moves) > every


@pytest.mark.parametrize("every", [1, 10])
def test_a_drain_is_one_copy(every):
    check_a_drain_is_one_copy(every)


def test_arrays_keep_their_type_and_their_bits():
    arrays = [
        torch.tensor([1e-300, float("nan"), float("inf")], dtype=torch.float64),
        torch.tensor([0.1, 1e-40]),
        torch.tensor([True, False]),
        torch.tensor(2**40 + 1),
        torch.tensor([], dtype=torch.float64),
    ]
    for before, after in zip(arrays, CPU.on_host(arrays), strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert torch.equal(torch.nan_to_num(after), torch.nan_to_num(before))


def test_results_on_the_host_are_not_copied():
    results = [Clipper(ClipGradByGlobalNorm(1.0), engine="torch").clip_(weights(0))]
    assert on_host(results)[0] is results[0]


def test_a_result_that_waits_keeps_neither_gradients_nor_the_memory_of_the_rule():
    with of_new_objects():
        clipper = on_device(Clipper(ZClip(), telemetry=Telemetry(memory(), every=10)))
        parameters = weights(0)
        gradient = weakref.ref(parameters["a"].grad)
        clipper.clip_(parameters)
        ((state, *_),) = [part.plan.decisions for part in clipper.last.parts]
        remembered = weakref.ref(next(iter(state.state.values())))
        del parameters, state
        clipper.clip_(weights(1))  # the memory is another one now, and this is the last result
        gc.collect()
    assert gradient() is None
    assert remembered() is None
    assert len(clipper.telemetry._pending) == 2


def test_results_of_the_host_may_wait_beside_those_of_a_device():
    results = [*results_of(RULES[0]), Clipper(RULES[0]).clip_(weights(STEPS))]
    assert events(on_host(results)) == events(results)


def test_the_last_result_stays_on_its_device():
    clipper = on_device(Clipper(ClipGradByGlobalNorm(1.0), telemetry=Telemetry(memory())))
    result = clipper.clip_(weights(0))
    assert result is clipper.last
    assert result.parts[0].plan.coefficient is not None


@pytest.mark.parametrize("every", [1, 2])
def test_the_host_hears_of_a_nan_on_a_device(every):
    seen = memory()
    clipper = on_device(Clipper(ClipGradByGlobalNorm(1.0), telemetry=Telemetry(seen, every=every)))
    for step in range(2):
        parameters = weights(step)
        parameters["b"].grad[0, 0] = float("nan")
        clipper.clip_(parameters)
    assert [event.nonfinite for event in seen] == [1, 1]
