"""Whether training diverged, by its loss: planted divergences are seen, and what is none is let alone."""

import math
import random

import pytest

from gradclip.report import summarise
from gradclip.verdict.divergence import diverged, rose
from report.example_runs import falling, noise, run_of, with_losses

STEPS = 400


def drawn(seed=0):
    return random.Random(seed)


def run_with(losses):
    """A run whose norms alone would be a success of clipping."""
    return with_losses(run_of(noise(len(losses), {30}), 5.0), losses)


def blown_up():
    """From 4.6 to hundreds within ten steps, where it stays, with noise of a factor of 2 either way."""
    dice = drawn()
    return [4.6, 4.5, 4.8, *(4.6 * 1.7**i for i in range(10)), *(400 * 2 ** dice.uniform(-1, 1) for _ in range(387))]


def thrown_off():
    """A mean squared error under SGD with a rate of 5, clipped at 10: the first step throws it off, and it bounces."""
    dice = drawn()
    return [2.22, 672.0, 1e4, *(3e3 * math.exp(dice.uniform(-0.9, 0.9)) for _ in range(397))]


def exponential():
    return [0.5 * 1.05**i for i in range(STEPS)]


def of_a_gan():
    """The generator's loss: from 0.7 it rises to 5, within factors of 2 of noise."""
    dice = drawn()
    return [(5.0 - 4.3 * math.exp(-i / 40)) * 2 ** dice.uniform(-1, 1) for i in range(STEPS)]


def of_values():
    """The error of a Q function: tiny while no reward was found, then up, and very uneven."""
    dice = drawn()
    return [1e-3 + min(i / 200, 1.0) * dice.lognormvariate(0.0, 1.5) for i in range(STEPS)]


def of_a_critic():
    """A Wasserstein loss: from nearly zero to far below it."""
    dice = drawn()
    return [-40.0 * (1 - math.exp(-i / 100)) + dice.gauss(0, 1) for i in range(STEPS)]


def of_a_policy():
    """Nearly zero, of either sign, and ever noisier."""
    dice = drawn()
    return [dice.gauss(0, 1e-4 + 1e-3 * i) for i in range(STEPS)]


def wide(seed=0):
    """No change at all, in noise of a factor of 7 (a standard deviation of 2 in the logarithm)."""
    dice = drawn(seed)
    return [dice.lognormvariate(0.0, 2.0) for _ in range(STEPS)]


DIVERGED = {
    "blown up": blown_up(),
    "exponential": exponential(),
    "thrown off": thrown_off(),
    "NaN from the middle": [*falling(200), *[math.nan] * 200],
    "infinite for the last ten": [*falling(390), *[math.inf] * 10],
    "blown up, then NaN at times": [loss if i % 3 else math.nan for i, loss in enumerate(blown_up(), 1)],
}
HEALTHY = {
    "falling": falling(STEPS),
    "level": [1.0] * STEPS,
    "zero": [0.0] * STEPS,
    "zero, then noise around it": [0.0] * 3 + of_a_policy(),
    "wide noise": wide(),
    "a GAN's generator": of_a_gan(),
    "a GAN's critic": of_a_critic(),
    "a policy's": of_a_policy(),
    "of values": of_values(),
    "a term whose weight grows to eight times": [1.0 + 7.0 * min(i / 200, 1.0) for i in range(STEPS)],
    "a spike at the end": [*falling(STEPS - 1), 1e9],
    "a batch of NaN at times": [math.nan if i % 20 == 19 else loss for i, loss in enumerate(falling(STEPS))],
    "nine NaN at the end": [*falling(STEPS - 9), *[math.nan] * 9],
    "recovered": [4.6, *[1e6] * 20, *falling(STEPS - 21)],
    "a low first batch": [1e-6, *falling(STEPS - 1)],
    "too short to say": [1.0] * 3 + [100.0] * 30,
    "no loss": [None] * STEPS,
}


def check_diverged(name):
    (summary,) = summarise([run_with(DIVERGED[name])])
    assert (summary.verdict.kind, summary.verdict.level) == ("diverged", "bad")
    assert summary.verdict.sentence.count(". ") == 0
    assert summary.verdict.sentence.endswith(".")


def check_healthy(name):
    assert diverged(run_with(HEALTHY[name])) is None


@pytest.mark.parametrize("name", DIVERGED)
def test_a_planted_divergence_is_the_verdict(name):
    check_diverged(name)


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_no_divergence_is_let_alone(name):
    check_healthy(name)


def test_of_500_runs_whose_loss_does_not_change_none_diverged_however_wide_the_noise():
    # The smallest of 40 is expected 2.2 sigma below the middle, the largest as far above: the first would lie at -6.5.
    assert not [seed for seed in range(500) if rose(wide(seed))]


def test_the_sentence_says_from_which_step_on_the_loss_is_not_finite():
    run = run_with(DIVERGED["NaN from the middle"])
    assert diverged(run) == "Training diverged: from step 200 to the end the loss is not finite."


def test_the_sentence_says_where_the_loss_began_and_where_it_ended():
    run = run_with([2.0, 1.0] + [50.0, 70.0] * 50)
    assert diverged(run) == (
        "Unless this loss is meant to rise, training diverged: it began at 2 and ended at 60, over its last 20 steps "
        "never below 50."
    )


def test_gradients_that_are_not_finite_and_went_into_the_optimizer_say_more_than_the_loss():
    run = with_losses(run_of([*noise(200), *[math.nan] * 20], 5.0), [*falling(200), *[math.nan] * 20])
    assert summarise([run])[0].verdict.kind == "non-finite"


def test_a_loss_that_exploded_in_its_last_two_steps_has_diverged():
    assert "its last two are 30 and 56,000" in diverged(run_with([1.8, *[0.9] * 38, 30.0, 5.6e4]))
    assert diverged(run_with([1.8, *[0.9] * 38, 5.6e4, 30.0])) is None
    assert diverged(run_with([1.8, *[0.9] * 39, 5.6e4])) is None
    assert diverged(run_with([0.001, *[0.9] * 38, 0.1, 2.0])) is None
