"""Telemetry of Paddle's own engine, as it serves a device: the numbers of many steps come to the host in one copy."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import paddle
import pytest

import gradclip
from gradclip.engines.paddle import ENGINE, PaddleEngine
from gradclip.engines.paddle_arrays import Wide
from gradclip.paddle import Clipper
from gradclip.telemetry import Telemetry, memory

RULES = {
    "global": gradclip.ClipGradByGlobalNorm(1.0),
    "each tensor, then all": gradclip.ClipGradByNorm(1.0) >> gradclip.ClipGradByGlobalNorm(0.5),
    "each element": gradclip.ClipGradByValue(1.0),
    "follows the norm": gradclip.ZClip(),
    "reads the loss": gradclip.SkipSpikes(),
}


def parameters(step: int) -> dict[str, paddle.Tensor]:
    random, found = np.random.default_rng(step), []
    for shape in ((3, 2), (4,)):
        found.append(paddle.create_parameter(shape, "float32"))
        found[-1].grad = paddle.to_tensor(random.standard_normal(shape).astype("float32"))
    return dict(zip("ab", found, strict=True))


def events_of(rule: gradclip.AnyRule, steps: int, on_host: object) -> list[object]:
    """The events of steps whose numbers come to the host so, in one drain."""
    seen = memory()
    clipper = Clipper(rule, engine="paddle", telemetry=Telemetry(seen, every=steps + 1, tensors=True))
    for step in range(steps):
        clipper.give(loss=paddle.to_tensor(float(step)))
        clipper.clip_(parameters(step))
    with mock.patch.object(PaddleEngine, "on_host", on_host):
        clipper.telemetry.drain()
    return [replace(event, time=0.0) for event in seen]


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_drain_is_one_copy(rule, steps):
    """What was moved can be destroyed on the device, and the events are those of numbers that were read one by one."""
    moves = []

    def move_and_destroy(engine, arrays, together=PaddleEngine.on_host):
        moved = together(engine, arrays)
        moves.append(len(arrays))
        for array in arrays:
            array.value.set_value(paddle.full_like(array.value, 7))
        return moved

    truth = events_of(rule, steps, lambda engine, arrays: list(arrays))
    assert events_of(rule, steps, move_and_destroy) == truth
    assert len(truth) == steps
    assert len(moves) == 1


def test_arrays_keep_their_type_and_their_bits():
    arrays = [
        paddle.to_tensor([1e-300, float("nan"), float("inf")], "float64"),
        paddle.to_tensor([True, False]),
        paddle.to_tensor([2**40 + 1], "int64"),
        paddle.zeros([0], "float64"),
    ]
    for before, after in zip(arrays, ENGINE.on_host([Wide(array) for array in arrays]), strict=True):
        assert (after.value.dtype, after.value.shape) == (before.dtype, before.shape)
        assert after.value.place.is_cpu_place()
        np.testing.assert_array_equal(after.value.numpy(), before.numpy())
