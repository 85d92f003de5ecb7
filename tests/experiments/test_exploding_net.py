"""The seed experiment in full: it explodes without clipping and trains with it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradclip.experiments.demo import Demo
from gradclip.experiments.training.exploding_net import (
    ARRIVED,
    BATCH,
    STEPS,
    WITH,
    WITHOUT,
    ExplodingNets,
    batches,
    exploding_layers,
    run_exploding_net,
)
from gradclip.experiments.training.framework import Framework


def test_without_clipping_every_seed_is_infinite_or_nan_within_five_steps(demo: Demo) -> None:
    assert [run.broke_at in (2, 3, 4, 5) for run in demo.exploding.without] == [True] * 5


def test_with_clipping_most_seeds_train_from_a_large_loss(demo: Demo) -> None:
    assert demo.exploding.typical_start() > 300
    assert len(demo.exploding.arrived) >= 3
    assert all(len(run.steps) == STEPS for run in demo.exploding.clipped)


def test_both_runs_start_from_the_same_net_and_batch(demo: Demo) -> None:
    for without, clipped in zip(demo.exploding.without, demo.exploding.clipped, strict=True):
        assert without.steps[0].loss == clipped.steps[0].loss
        assert without.steps[0].norm_before == clipped.steps[0].norm_before


def test_each_of_six_tensors_is_clipped_to_one(demo: Demo) -> None:
    largest = max(step.norm_after for run in demo.exploding.clipped for step in run.steps)
    assert largest <= math.sqrt(6) * (1 + 1e-6)  # the coefficient is rounded to fp32: 6e-8 each


def test_without_only_the_biases_are_clipped(demo: Demo) -> None:
    first = demo.exploding.without[0].steps[0]
    assert 100 < first.norm_after < first.norm_before


@pytest.mark.parametrize("clipping", [WITHOUT, WITH])
def test_the_same_seed_gives_the_same_numbers(torch_nets: Framework, clipping: str) -> None:
    # Rows end in NaN, which is not equal to itself: their text is.
    assert repr(run_exploding_net(torch_nets, 3, clipping)) == repr(run_exploding_net(torch_nets, 3, clipping))


def test_every_framework_tells_the_same_story(framework: Framework, demo: Demo) -> None:
    without, clipped = run_exploding_net(framework, 0, WITHOUT), run_exploding_net(framework, 0, WITH)
    assert without.broke_at == demo.exploding.without[0].broke_at
    # 100 steps amplify the rounding of fp32, 6e-8 each, by far less than this.
    assert clipped.end == pytest.approx(demo.exploding.clipped[0].end, rel=1e-2)
    assert clipped.steps[0].norm_after == pytest.approx(demo.exploding.clipped[0].steps[0].norm_after, rel=1e-5)


def test_threads_of_pytorch_are_left_as_they_were(torch_nets: Framework) -> None:
    threads = torch.get_num_threads()
    run_exploding_net(torch_nets, 0, WITHOUT)
    assert torch.get_num_threads() == threads


def test_the_net_has_biases_and_a_shifted_first_weight() -> None:
    layers = exploding_layers(np.random.default_rng(0))
    assert [(weight.shape, bias.shape) for weight, bias in layers] == [
        ((1, 32), (32,)),
        ((32, 32), (32,)),
        ((32, 1), (1,)),
    ]
    assert layers[0][0].mean() == pytest.approx(2.0, abs=1.0)  # 2 + N(0, 1) / sqrt(32): 5.6 deviations


def test_each_pass_shows_every_point_at_most_once_in_an_order_of_its_own() -> None:
    points = np.arange(40.0)
    drawn = batches(points, points + 3, np.random.default_rng(0))
    first, second = ([next(drawn) for _ in range(40 // BATCH)] for _ in range(2))
    orders = [np.concatenate([x for x, _ in one]).tolist() for one in (first, second)]
    assert [len(set(order)) for order in orders] == [2 * BATCH, 2 * BATCH]
    assert orders[0] != orders[1]
    assert all((y == x + 3).all() for x, y in first)


def test_a_bad_seed_is_reported_and_one_bad_seed_is_no_shortfall(torch_nets: Framework) -> None:
    bad = run_exploding_net(torch_nets, 86, WITH)
    assert bad.end > ARRIVED
    good = [run_exploding_net(torch_nets, seed, WITH) for seed in (0, 1)]
    assert ExplodingNets((bad, *good)).shortfalls() == []
    (reason,) = ExplodingNets((bad, bad, good[0])).shortfalls()
    assert f"{bad.end:.3g}" in reason


def test_a_run_without_clipping_that_survives_is_a_shortfall(demo: Demo) -> None:
    survivor = replace(demo.exploding.clipped[0], clipping=WITHOUT)
    (reason,) = ExplodingNets((survivor, *demo.exploding.clipped)).shortfalls()
    assert "still finite after 5 steps" in reason
