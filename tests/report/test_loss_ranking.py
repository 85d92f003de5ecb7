"""Which run ended with the lowest loss, against numbers worked out by hand and noise that is known."""

import math
import random

import pytest

from gradclip.report import summarise
from gradclip.report.loss_ranking import compare_losses
from gradclip.telemetry import Run
from gradclip.verdict.losses import differ, standard_error
from report.example_runs import noise, run_of, with_losses


def run_named(name, losses):
    return with_losses(run_of(noise(len(losses)), path=f"runs/{name}"), losses)


def comparison(**losses):
    found = compare_losses(summarise([run_named(name, own) for name, own in losses.items()]))
    return found and (found.kind, found.sentence)


def ending(mean, spread=0.0, steps=100, seed=0):
    """Losses that are 9 and in the last tenth `mean`, with normal noise of this standard deviation."""
    drawn, part = random.Random(seed), steps // 10
    return [9.0] * (steps - part) + [mean + drawn.gauss(0, spread) for _ in range(part)]


def test_the_standard_error_is_that_of_the_means_of_five_blocks():
    # Blocks of two with the means 1 2 3 4 5: their variance is 2.5, and that of their mean a fifth of it.
    assert standard_error([0.0, 2.0, 1.0, 3.0, 2.0, 4.0, 3.0, 5.0, 4.0, 6.0]) == pytest.approx(math.sqrt(0.5))


def test_the_lowest_is_named_with_its_distance_to_the_others():
    kind, sentence = comparison(mine=ending(1.5), small=ending(2.25), none=ending(5.0))
    assert kind == "lowest"
    assert sentence == (
        "By the training loss, of one seed each, mine ended lowest: at 1.5 over its last tenth, 0.75 below small and "
        "3.5 below none."
    )


def test_runs_within_the_noise_are_no_different():
    kind, sentence = comparison(a=ending(2.0, 0.5, 400, seed=1), b=ending(2.0, 0.5, 400, seed=2))
    assert kind == "no difference"
    assert "there is no difference to speak of at the end: " in sentence


def test_runs_with_the_same_losses_are_no_different():
    assert comparison(a=ending(1.0), b=ending(1.0)) == (
        "no difference",
        "By the training loss, of one seed each, there is no difference to speak of at the end: a 1 and b 1 over the "
        "last tenth.",
    )


def test_two_that_are_alike_can_be_lower_than_a_third():
    kind, sentence = comparison(c=ending(4.0), a=ending(1.0), b=ending(1.0))
    assert kind == "lowest"
    assert "a (1) and b (1) ended lowest over the last tenth, with no difference to speak of, 3 below c." in sentence


def told_apart(mean, other):
    """How many of 400 pairs of ends of 40 steps with these means, and a standard deviation of 0.5, are told apart."""
    return sum(
        differ(ending(mean, 0.5, 400, 2 * seed)[-40:], ending(other, 0.5, 400, 2 * seed + 1)[-40:])
        for seed in range(400)
    )


def check_alike_are_told_apart_rarely():
    # By the t distribution with 4 to 8 degrees of freedom 1.7 % to 4 % are; of 400 at 4 %, 28 are 3 sigma away.
    assert told_apart(2.0, 2.0) <= 28


def check_different_are_told_apart_mostly():
    # The means of 40 differ by 9 standard errors, of which 3 are asked for.
    assert told_apart(2.0, 3.0) >= 390


def test_runs_that_are_alike_are_rarely_told_apart():
    check_alike_are_told_apart_rarely()


def test_runs_that_differ_by_more_than_their_noise_are_told_apart():
    check_different_are_told_apart_mostly()


def test_a_run_whose_loss_is_not_finite_at_the_end_is_never_the_lowest():
    kind, sentence = comparison(bad=[*ending(0.1)[:-1], math.nan], good=ending(2.0))
    assert kind == "lowest"
    assert "good ended lowest: at 2 over its last tenth, where the loss of bad is not finite." in sentence


def test_a_run_that_diverged_is_told_from_noise_at_once():
    """So is one of few steps: a loss that ends 1e8 times above where it began is no noise."""
    bad = [9.0, 9.0, *[3e8] * 58]
    kind, sentence = comparison(bad=bad, good=ending(2.0, steps=60))
    assert (kind, sentence) == (
        "broken",
        "By the training loss, bad diverged to 3e+08; ended at a finite loss: good 2.",
    )
    kind, sentence = comparison(bad=[9.0, 9.0, *[3e8] * 98], good=ending(2.0))
    assert kind == "lowest"
    assert "good ended lowest: at 2 over its last tenth, where bad diverged to 3e+08." in sentence
    assert comparison(bad=bad, worse=bad)[0] == "none trained"


def scripted(name, script, version, losses=None):
    run = run_named(name, losses or ending(1.0))
    return Run(run, {**run.about, "script": {"arguments": [script], "hash": version}}, run.path)


def test_runs_of_other_scripts_or_of_other_versions_of_one_are_not_compared():
    of = {"a": scripted("a", "x/train.py", "1"), "b": scripted("b", "train.py", "2"), "c": scripted("c", "gan.py", "3")}
    same = scripted("d", "train.py", "2", ending(2.0))
    assert compare_losses(summarise([of["b"], same])).kind == "lowest"
    assert compare_losses(summarise([of["b"], run_named("e", ending(3.0))])).kind == "lowest"
    found = compare_losses(summarise([of["a"], of["b"]]))
    assert found.sentence == "The losses are not compared, for these are runs of different versions of train.py."
    found = compare_losses(summarise([of["b"], of["c"]]))
    assert found.sentence.endswith("these are runs of different scripts (train.py and gan.py).")


def test_where_no_loss_is_finite_at_the_end_no_run_is_the_lowest():
    assert comparison(a=[1.0] * 99 + [math.inf], b=[math.nan] * 100) == (
        "none finite",
        "No run has a finite loss over its last tenth, so none of them trained better.",
    )


def test_different_numbers_of_steps_are_said():
    _, sentence = comparison(a=ending(1.0, steps=100), b=ending(2.0, steps=1200))
    assert "of one seed each and after 100 and 1,200 steps, a ended lowest" in sentence


def test_a_tenth_of_fewer_than_ten_steps_tells_nothing_from_noise():
    kind, sentence = comparison(a=ending(1.0, steps=60), b=ending(2.0, steps=60))
    assert kind == "few"
    assert sentence == (
        "The runs are too short to tell a difference in the training loss from noise: over the last tenth it is "
        "1 (a) and 2 (b)."
    )


def test_of_many_runs_the_nearest_three_are_named():
    runs = {f"r{i}": ending(float(i)) for i in range(1, 8)}
    assert comparison(**runs)[1].endswith("r1 ended lowest: at 1 over its last tenth, 1 below r2, 2 below r3, "
                                          "3 below r4 and lower than 3 others.")  # fmt: skip


def test_the_two_nets_of_one_training_are_not_compared():
    runs = {"gan": ending(1.0), "gan/run-2": ending(2.0)}
    assert comparison(**runs) is None
    assert comparison(**runs, other=ending(3.0)) is None


def test_one_run_and_runs_without_losses_are_not_compared():
    assert comparison(a=ending(1.0)) is None
    assert comparison(a=ending(1.0), b=[None] * 100) is None
