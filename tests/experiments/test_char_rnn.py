"""The character RNN with very few steps: the text, the unit, the rules, the verdict."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from gradclip.experiments.demo import Demo
from gradclip.experiments.training.char_rnn import (
    BY_NORM,
    BY_VALUE,
    NORM,
    SETUPS,
    VALUE,
    WITHOUT,
    CharRNNs,
    Setup,
    drawn_weights,
    english,
    run_char_rnn,
    validation_windows,
)
from gradclip.experiments.training.framework import Framework
from gradclip.experiments.training.training_run import TrainingRun, TrainingStep


def test_the_text_is_split_by_position_nine_to_one() -> None:
    text = english()
    assert text.characters > 400_000
    assert len(text.train) / text.characters == pytest.approx(0.9, abs=1e-5)
    assert 60 < text.symbols < 200


def test_an_untrained_net_pays_about_what_guessing_costs(demo: Demo) -> None:
    start = demo.language.runs[0].start
    assert start == pytest.approx(demo.language.guessing, rel=0.1)


def weights_of(seed: int) -> dict[str, np.ndarray]:
    return drawn_weights(np.random.default_rng(seed), english().symbols)


def test_the_loss_is_the_cross_entropy_of_a_tanh_rnn_in_every_framework(framework: Framework) -> None:
    window, w = english().validation[:201], {name: array.astype(float) for name, array in weights_of(0).items()}
    state, nats = np.zeros(len(w["bias_hh"])), []
    for now, following in pairwise(window):
        state = np.tanh(w["weight_ih"] @ w["embedding"][now] + w["bias_ih"] + w["weight_hh"] @ state + w["bias_hh"])
        logits = w["readout_weight"] @ state + w["readout_bias"]
        nats.append(np.log(np.exp(logits).sum()) - logits[following])
    learner = framework.char_rnn(weights_of(0), None, 1.0)
    assert learner.loss(window[None]) == pytest.approx(np.mean(nats), rel=1e-5)  # fp32, 200 steps of a recurrence


def test_validation_windows_overlap_by_one_character() -> None:
    windows = validation_windows(np.arange(1000))
    assert windows.shape == (4, 201)
    assert windows[:, 0].tolist() == [0, 200, 400, 600]
    assert windows[0, -1] == windows[1, 0]


def test_all_trials_start_from_the_same_net_and_windows(demo: Demo) -> None:
    assert len({run.steps[0].loss for run in demo.language.runs}) == 1


def test_clipping_bounds_what_the_optimizer_sees(demo: Demo) -> None:
    by_norm = next(run for run in demo.language.runs if run.clipping == BY_NORM.clipping)
    by_value = next(run for run in demo.language.runs if run.clipping == BY_VALUE.clipping)
    parameters = sum(array.size for array in weights_of(0).values())
    assert max(step.norm_after for step in by_norm.steps) <= NORM * (1 + 1e-6)
    assert max(step.norm_after for step in by_value.steps) <= VALUE * math.sqrt(parameters)
    assert by_norm.share_clipped > 0 < by_value.share_clipped


def test_nothing_is_clipped_without_a_rule(demo: Demo) -> None:
    without = next(run for run in demo.language.runs if run.clipping == WITHOUT.clipping)
    assert without.share_clipped == 0
    assert without.engine is None


def test_a_few_steps_learn_something(framework: Framework) -> None:
    run = run_char_rnn(framework, 0, BY_NORM, steps=30)
    assert run.end < run.start - 1
    assert run.engine is not None


def test_frameworks_start_alike_and_stay_close(torch_nets: Framework, framework: Framework) -> None:
    ours, theirs = (run_char_rnn(one, 0, BY_NORM, steps=10).steps for one in (framework, torch_nets))
    assert [a.loss for a in ours] == pytest.approx([b.loss for b in theirs], rel=1e-3)  # rounding grows from 1e-6


def test_the_same_seed_gives_the_same_numbers(torch_nets: Framework) -> None:
    assert run_char_rnn(torch_nets, 1, BY_VALUE, steps=3) == run_char_rnn(torch_nets, 1, BY_VALUE, steps=3)


def _language(without: float, clipped: float) -> CharRNNs:
    """What the verdict reads: the ends of three seeds for each trial."""

    def run(setup: Setup, seed: int) -> TrainingRun:
        end = without if setup == WITHOUT else clipped
        return TrainingRun(setup.clipping, seed, setup.learning_rate, (TrainingStep(1, 6.7, 1.0, 1.0),), end, None)

    return CharRNNs(tuple(run(setup, seed) for setup in SETUPS for seed in range(3)), 1000, 100)


@pytest.mark.parametrize("without", [3.5, math.inf, math.nan])
def test_worse_without_is_as_described(without: float) -> None:
    assert _language(without, 2.5).shortfalls() == []


@pytest.mark.parametrize(("without", "clipped"), [(2.55, 2.5), (2.5, 2.5), (2.5, math.nan), (math.nan, math.nan)])
def test_a_difference_within_noise_is_a_shortfall_of_each_rule(without: float, clipped: float) -> None:
    reasons = _language(without, clipped).shortfalls()
    assert [reason.split(" should")[0] for reason in reasons] == [
        f"character RNN: {setup.clipping}" for setup in (BY_NORM, BY_VALUE)
    ]


def test_one_lucky_seed_without_clipping_is_no_shortfall() -> None:
    described = _language(3.5, 2.5)
    lucky = replace(described.runs[0], end=2.5)
    assert CharRNNs((lucky, *described.runs[1:]), 1000, 100).shortfalls() == []
