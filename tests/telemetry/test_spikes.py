"""The sink that hears of spikes only."""

from __future__ import annotations

import math
import random

import pytest

from gradclip.telemetry import Event, spikes


def event(step, norm=1.0, loss=None):
    return Event(step, "", "cpu", norm, norm, 1.0, 1.0, False, loss=loss)


def told_of(events):
    told = []
    sink = spikes(told.append)
    for one in events:
        sink(one)
    return [one.step for one in told]


def test_noise_is_none_and_a_falling_norm_neither():
    rng = random.Random(0)
    falling = [
        event(i, 100.0 * 0.99**i * rng.lognormvariate(0, 0.5), 3.0 * 0.999**i + rng.gauss(0, 0.1)) for i in range(1000)
    ]
    assert told_of(falling) == []


def test_a_norm_of_more_than_ten_usual_ones_is_one_and_is_learnt():
    assert told_of([event(i, {40: 10.1, 41: 9.9}.get(i, 1.0)) for i in range(60)]) == [40]
    assert len(told_of([event(i, 1.0 if i < 40 else 100.0) for i in range(300)])) < 60, "a lasting level becomes usual"


def test_a_loss_far_above_the_usual_one_is_one_also_where_losses_are_negative():
    rng = random.Random(0)
    losses = [-2.0 + rng.gauss(0, 0.1) for _ in range(100)]
    losses[70] = -0.5
    assert told_of([event(i, loss=loss) for i, loss in enumerate(losses)]) == [70]


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_what_is_not_finite_is_one_from_the_first_step_on(norm):
    assert told_of([event(0, norm), event(1), event(2, loss=norm)]) == [0, 2]


def test_thirty_steps_come_first():
    assert told_of([event(i, 1000.0 if i == 29 else 1.0) for i in range(31)]) == []
    assert told_of([event(i, 1000.0 if i == 30 else 1.0) for i in range(31)]) == [30]


def test_a_loss_that_never_moves_has_no_spikes_of_rounding():
    assert told_of([event(i, loss=1.0 + 1e-12 * (i == 50)) for i in range(60)]) == []


def test_it_takes_a_function():
    with pytest.raises(TypeError, match=r"spikes\(print\)"):
        spikes("print")
    assert repr(spikes(print)) == "spikes(print)"
