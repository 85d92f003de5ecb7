"""The verdict on a run of each kind, planted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradclip.report import summarise
from gradclip.telemetry import Run
from gradclip.verdict import judge as verdict
from gradclip.verdict.judge import verdict_on
from report.example_runs import noise, run_of, with_losses

CALM, SPIKY = noise(400), noise(400, spikes={50, 250})
HUMP = [20.0 * norm if step < 40 and step % 3 else norm for step, norm in enumerate(CALM)]
"""Forty steps in which the training starts, and calm ones after them."""
UNSEEN = ["the optimizer itself (its setting max_grad_norm=1)", "what the script hooked to 2 of the parameters"]
KINDS = {
    "empty": run_of([]),
    "broken": run_of([math.nan] * 30),
    "non-finite": run_of([*CALM, math.nan, math.inf], threshold=5.0),
    "zero": run_of([0.0] * 30, threshold=1.0),
    "few": run_of([1.0] * 29, threshold=0.5),
    "measured, spiky": run_of(SPIKY),
    "measured, calm": run_of(CALM),
    "unseen": Run([*run_of(CALM)], {"script": {"unseen": UNSEEN}}, Path("runs/made")),
    "never": run_of(CALM, threshold=5.0),
    "never, spiky": run_of(SPIKY, threshold=60.0),
    "always": run_of(CALM, threshold=0.4),
    "often": run_of(CALM, threshold=0.9),
    "trims": run_of(CALM, threshold=1.5),
    "misses": run_of([*SPIKY, 100.0], threshold=60.0),
    "guard": run_of(SPIKY, threshold=5.0),
    "start": run_of(HUMP, threshold=3.0),
    "rising": with_losses(run_of(CALM, threshold=0.4), [1.0 + 0.01 * step for step in range(400)]),
    "diverged": with_losses(run_of(CALM), [1.0] * 380 + [math.nan] * 20),
}
SAID = {
    "empty": "No step was recorded",
    "broken": "Every one of the 30 steps has NaN or infinity",
    "non-finite": "2 steps of 402 took NaN or infinity into the optimizer",
    "zero": "Every gradient is zero",
    "few": "Only 29 steps with a finite norm: too few to judge the clipping by, 30 are needed",
    "measured, spiky": "Nothing was clipped in 400 steps, and 2 spikes, up to ",
    "measured, calm": "Nothing was clipped in 400 steps, and nothing stood out (at most ",
    "unseen": "Nothing was clipped in 400 steps as far as can be seen, but the optimizer itself (its",
    "never": "reached the threshold of 5, so training would have been the same without it; ",
    "never, spiky": "Clipping never acted in 400 steps, and 2 spikes, up to ",
    "always": "Clipping acted on 400 of 400 steps (100 %): the threshold of 0.4 is a hidden learning rate",
    "often": "it shortens ordinary steps, not only those that stand out",
    "trims": "none of which stood out",
    "misses": "on 1 of 3 spikes (up to ",
    "start": "Clipping acted on 26 of 400 steps (6.5 %), all of them in the first 40, where the training starts: it is",
    "guard": "Clipping acted on 2 of 400 steps (0.5 %), both spikes (up to ",
    "rising": "Clipping acted on 400 of 400 steps (100 %), and the loss rose from 1.19 to 4.79 all the same: the",
    "diverged": "Training diverged: from step 380 to the end the loss is not finite; nothing was clipped in 400 steps",
}


def check_verdict(kind):
    (summary,) = summarise([KINDS[kind]])
    assert summary.verdict.kind == kind
    assert SAID[kind] in summary.verdict.sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert summary.verdict.sentence.count(". ") == 0
    assert summary.verdict.sentence.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_run_gets_its_verdict_in_one_sentence(kind):
    check_verdict(kind)


def test_a_guard_and_nothing_to_clip_are_good_and_broken_runs_are_bad():
    levels = {kind: summarise([run])[0].verdict.level for kind, run in KINDS.items()}
    assert {kind for kind, level in levels.items() if level == verdict.GOOD} == {"guard", "start", "measured, calm"}
    assert {kind for kind, level in levels.items() if level == verdict.BAD} == {
        "empty",
        "broken",
        "non-finite",
        "zero",
        "diverged",
    }


def test_a_non_finite_step_that_was_skipped_spoils_no_verdict():
    (summary,) = summarise([run_of([*SPIKY, math.nan], threshold=5.0, skipped=True)])
    assert summary.verdict.kind == "guard"


def test_skipping_the_spikes_guards_as_well():
    run = run_of(SPIKY)
    for place in (50, 250):
        run[place] = replace(run[place], skipped=True, norm_after=0.0, threshold=5.0)
    assert summarise([run])[0].verdict.kind == "guard"


def test_an_only_spike_is_called_so():
    (summary,) = summarise([run_of(noise(200, {100}), threshold=5.0)])
    assert ", the only spike (up to " in summary.verdict.sentence


def test_a_threshold_that_moves_is_not_given_in_numbers():
    run = run_of(CALM, threshold=5.0)
    run[0] = replace(run[0], threshold=9.0)
    assert "reached the threshold, so" in summarise([run])[0].verdict.sentence


def test_to_adam_a_threshold_that_always_acts_is_no_learning_rate():
    run = run_of(CALM, threshold=0.4)
    run.about["optimizer"] = "Adam"
    (summary,) = summarise([run])
    assert "makes every batch count alike" in summary.verdict.sentence
    assert "a constant factor on all gradients does not change the length" in summary.verdict.sentence
    assert "hidden learning rate" not in summary.verdict.sentence


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (range(10), ", all in the first 10, "),
        (range(390, 400), ", all in the last 10, "),
        ([3, 399], "(0.5 %), none of which"),
        ([399], "(0.2 %), none of which"),
    ],
)
def test_where_the_clipped_steps_lie_is_said(steps, words):
    run = run_of(CALM)
    for step in steps:
        run[step] = replace(
            run[step], clipped=True, threshold=1.0, norm_after=run[step].norm_before / 2, coefficient=0.5
        )
    assert words in summarise([run])[0].verdict.sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_where_a_clipped_training_diverges_the_learning_rate_is_likelier():
    losses = [1.0] * 380 + [math.nan] * 20
    sentence = verdict_on(with_losses(run_of(CALM, threshold=0.4), losses)).sentence
    assert sentence.endswith("(100\N{NO-BREAK SPACE}%): the learning rate is a likelier cause than the threshold.")
    assert "learning rate" not in verdict_on(with_losses(run_of(CALM, threshold=5.0), losses)).sentence


def test_a_spike_that_went_through_comes_before_the_start():
    run = run_of([*HUMP, 50.0], threshold=3.0)
    run[-1] = replace(run[-1], clipped=False, norm_after=50.0, threshold=60.0, coefficient=1.0)
    assert verdict_on(run).kind == "misses"


def test_a_hump_at_the_start_is_no_spike():
    late = verdict_on(run_of([*HUMP, 4.0], threshold=3.0))
    assert (late.kind, "nearly all (26) of them in the first 40" in late.sentence) == ("start", True)
    assert verdict_on(run_of([*HUMP, 4.0, 4.0], threshold=3.0)).kind == "trims"
    assert verdict_on(run_of(HUMP)).kind == "measured, calm"
    assert verdict_on(run_of([*HUMP, 50.0])).kind == "measured, spiky"


def test_a_beginning_that_breaks_at_once_is_not_hidden_by_its_mean():
    losses = [8.6, 1e6, *[7e4] * 198, *[1e5, 4e4] * 100]
    sentence = verdict_on(with_losses(run_of(CALM, threshold=0.4), losses)).sentence
    assert "the loss rose from 8.6 to 70,000 all the same: the learning rate is a likelier cause" in sentence


def test_where_norms_explode_to_infinity_the_training_broke_and_no_single_step():
    """Of a NaN that came out of nothing the steps that took it are what is wrong."""
    losses = [1.0] * 75 + [math.nan] * 25
    for norms, kind in (([1.5**step for step in range(75)], "diverged"), ([1.0] * 75, "non-finite")):
        assert verdict_on(with_losses(run_of([*norms, *[math.nan] * 25]), losses)).kind == kind


def test_steps_that_a_scaler_left_out_are_not_counted_among_those_that_were_clipped():
    run = run_of([math.inf, math.inf, *[2.0] * 58], threshold=0.4, skipped=True)
    assert "on 58 of 58 finite steps (100\N{NO-BREAK SPACE}%)" in verdict_on(run).sentence


def test_clipping_by_value_is_no_learning_rate():
    run = run_of(CALM, threshold=0.4)
    run[0] = replace(run[0], rule="clip_grad_value_(clip_value=0.4) at train.py:9")
    assert "cuts elements of nearly every gradient, and so turns it (median of the largest" in verdict_on(run).sentence


def test_a_mistake_comes_before_every_number():
    assert verdict_on(KINDS["guard"], 1).sentence.startswith("The clipping has 1 mistake, which gradclip doctor names")
    assert verdict_on(KINDS["never"], 2).kind == "mistaken"
    assert verdict_on(run_of([]), 2).kind == "empty"


@pytest.mark.parametrize("losses", [[-1.0] * 200 + [5.0] * 200, [1.0] * 400, [0.0] * 200 + [5.0] * 200, [None] * 400])
def test_only_a_loss_above_zero_that_ends_at_twice_its_beginning_has_risen(losses):
    assert verdict_on(with_losses(run_of(CALM, threshold=0.4), losses)).kind == "always"
