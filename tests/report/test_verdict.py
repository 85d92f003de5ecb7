"""The verdict on a run of each kind, planted."""

import math
from dataclasses import replace

import pytest

from gradclip.report import summarise, verdict
from report.example_runs import noise, run_of

CALM, SPIKY = noise(400), noise(400, spikes={50, 250})
KINDS = {
    "empty": run_of([]),
    "broken": run_of([math.nan] * 30),
    "non-finite": run_of([*CALM, math.nan, math.inf], threshold=5.0),
    "zero": run_of([0.0] * 30, threshold=1.0),
    "few": run_of([1.0] * 19, threshold=0.5),
    "measured, spiky": run_of(SPIKY),
    "measured, calm": run_of(CALM),
    "never": run_of(CALM, threshold=5.0),
    "never, spiky": run_of(SPIKY, threshold=60.0),
    "always": run_of(CALM, threshold=0.4),
    "often": run_of(CALM, threshold=0.9),
    "trims": run_of(CALM, threshold=1.5),
    "misses": run_of([*SPIKY, 100.0], threshold=60.0),
    "helps": run_of(SPIKY, threshold=5.0),
}
SAID = {
    "empty": "No step was recorded",
    "broken": "Every one of the 30 steps has NaN or infinity",
    "non-finite": "2 steps of 402 took NaN or infinity into the optimizer",
    "zero": "Every gradient is zero",
    "few": "Only 19 steps with a finite norm",
    "measured, spiky": "Nothing was clipped, and 2 spikes, up to ",
    "measured, calm": "Nothing was clipped and nothing stood out (at most ",
    "never": "reached the threshold of 5, so training would be the same without it",
    "never, spiky": "Clipping never acted, and 2 spikes, up to ",
    "always": "Clipping acted on 100 % of the steps: the threshold of 0.4 is a hidden learning rate",
    "often": "it shortens ordinary steps, not only those that stand out",
    "trims": "none of which stood out",
    "misses": "on 1 of 3 spikes (up to ",
    "helps": "Clipping helps: it acted on both spikes (up to ",
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


def test_clipping_helps_and_nothing_to_clip_are_good_and_broken_runs_are_bad():
    levels = {kind: summarise([run])[0].verdict.level for kind, run in KINDS.items()}
    assert {kind for kind, level in levels.items() if level == verdict.GOOD} == {"helps", "measured, calm"}
    assert {kind for kind, level in levels.items() if level == verdict.BAD} == {"empty", "broken", "non-finite", "zero"}


def test_a_non_finite_step_that_was_skipped_spoils_no_verdict():
    (summary,) = summarise([run_of([*SPIKY, math.nan], threshold=5.0, skipped=True)])
    assert summary.verdict.kind == "helps"


def test_skipping_the_spikes_helps_as_well():
    run = run_of(SPIKY)
    for place in (50, 250):
        run[place] = replace(run[place], skipped=True, norm_after=0.0, threshold=5.0)
    assert summarise([run])[0].verdict.kind == "helps"


def test_an_only_spike_is_called_so():
    (summary,) = summarise([run_of(noise(200, {100}), threshold=5.0)])
    assert "it acted on its only spike" in summary.verdict.sentence


def test_a_threshold_that_moves_is_not_given_in_numbers():
    run = run_of(CALM, threshold=5.0)
    run[0] = replace(run[0], threshold=9.0)
    assert "reached the threshold, so" in summarise([run])[0].verdict.sentence


def test_to_adam_a_threshold_that_always_acts_is_no_learning_rate():
    run = run_of(CALM, threshold=0.4)
    run.about["optimizer"] = "Adam"
    (summary,) = summarise([run])
    assert "makes every batch count alike" in summary.verdict.sentence
    assert "learning rate" not in summary.verdict.sentence
