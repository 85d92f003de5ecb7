"""The character RNN with very few steps: the text, the unit, the rules, the verdict."""

import math
from dataclasses import replace

import pytest
import torch

from gradclip.experiments.char_rnn import (
    BY_NORM,
    BY_VALUE,
    NORM,
    TRIALS,
    VALUE,
    WITHOUT,
    CharExperiment,
    CharRNN,
    Trial,
    english,
    run_char_rnn,
    validate,
)
from gradclip.experiments.demo import Demo
from gradclip.experiments.run import Run, Step


def test_the_text_is_split_by_position_nine_to_one() -> None:
    text = english()
    assert text.characters > 400_000
    assert len(text.train) / text.characters == pytest.approx(0.9, abs=1e-5)
    assert 60 < text.symbols < 200


def test_an_untrained_net_pays_about_what_guessing_costs(demo: Demo) -> None:
    start = demo.language.runs[0].start
    assert start == pytest.approx(demo.language.guessing, rel=0.1)


def test_bits_are_nats_over_log_two() -> None:
    text = english()
    model = CharRNN(text.symbols)
    window = text.validation[:201]
    with torch.no_grad():
        logits = model(window[None, :-1])[0]
        chances = logits.softmax(-1)[torch.arange(200), window[1:]]
    assert validate(model, window) == pytest.approx(-chances.log2().mean().item(), rel=1e-5)  # fp32 sums of 200


def test_all_trials_start_from_the_same_net_and_windows(demo: Demo) -> None:
    assert len({run.steps[0].loss for run in demo.language.runs}) == 1


def test_clipping_bounds_what_the_optimizer_sees(demo: Demo) -> None:
    by_norm = next(run for run in demo.language.runs if run.clipping == BY_NORM.clipping)
    by_value = next(run for run in demo.language.runs if run.clipping == BY_VALUE.clipping)
    parameters = sum(p.numel() for p in CharRNN(english().symbols).parameters())
    assert max(step.norm_after for step in by_norm.steps) <= NORM * (1 + 1e-6)
    assert max(step.norm_after for step in by_value.steps) <= VALUE * math.sqrt(parameters)
    assert by_norm.share_clipped > 0 < by_value.share_clipped


def test_nothing_is_clipped_without_a_rule(demo: Demo) -> None:
    without = next(run for run in demo.language.runs if run.clipping == WITHOUT.clipping)
    assert without.share_clipped == 0
    assert without.engine is None


def test_a_few_steps_learn_something() -> None:
    run = run_char_rnn(0, BY_NORM, steps=30)
    assert run.end < run.start - 1


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert run_char_rnn(1, BY_VALUE, steps=3) == run_char_rnn(1, BY_VALUE, steps=3)


def _language(without: float, clipped: float) -> CharExperiment:
    """What the verdict reads: the ends of three seeds for each trial."""

    def run(trial: Trial, seed: int) -> Run:
        end = without if trial == WITHOUT else clipped
        return Run(trial.clipping, seed, trial.learning_rate, (Step(1, 6.7, 1.0, 1.0),), end, None)

    return CharExperiment(tuple(run(trial, seed) for trial in TRIALS for seed in range(3)), 1000, 100)


@pytest.mark.parametrize("without", [3.5, math.inf, math.nan])
def test_worse_without_is_as_described(without: float) -> None:
    assert _language(without, 2.5).shortfalls() == []


@pytest.mark.parametrize(("without", "clipped"), [(2.55, 2.5), (2.5, 2.5), (2.5, math.nan), (math.nan, math.nan)])
def test_a_difference_within_noise_is_a_shortfall_of_each_rule(without: float, clipped: float) -> None:
    reasons = _language(without, clipped).shortfalls()
    assert [reason.split(" should")[0] for reason in reasons] == [
        f"character RNN: {trial.clipping}" for trial in (BY_NORM, BY_VALUE)
    ]


def test_one_lucky_seed_without_clipping_is_no_shortfall() -> None:
    described = _language(3.5, 2.5)
    lucky = replace(described.runs[0], end=2.5)
    assert CharExperiment((lucky, *described.runs[1:]), 1000, 100).shortfalls() == []
