"""For the report: bugs planted, on which its tests are red."""

from __future__ import annotations

import json
import math
from statistics import stdev

import pytest
from markupsafe import Markup

import gradclip.report.downsampling
import gradclip.report.html
import gradclip.report.loss_chart
import gradclip.report.loss_ranking
import gradclip.report.norm_chart
import gradclip.report.summary
import gradclip.verdict.divergence
import gradclip.verdict.judge
import gradclip.verdict.numbers
from planting import RED, Plant
from report import test_downsampling, test_loss_chart, test_loss_ranking, test_page, test_summary
from verdict import test_divergence, test_numbers, test_verdict


def every_nth(values, most):
    return list(range(0, len(values), math.ceil(len(values) / most)))


def middle_of_each_bucket(values, most):
    return [bucket[len(bucket) // 2] for bucket in gradclip.report.downsampling.buckets(len(values), most)]


def without_autoescape(make=gradclip.report.html.environment.__wrapped__):
    found = make()
    found.autoescape = False
    return found


def as_it_is(data):
    return Markup(json.dumps(data))


def median_of_all(norms):
    return [sorted(norms)[len(norms) // 2]] * len(norms)


def error_of_one_loss(losses):
    return stdev(losses)


def error_without_blocks(losses):
    return stdev(losses) / len(losses)


def far_above_the_first(losses):
    return "diverged" if min(losses[-40:]) > 10 * losses[0] else None


def unchanged(data):
    return data


PLANTS = [
    Plant("every n-th step is drawn", test_downsampling.check_spikes_stay, (),
          gradclip.report.downsampling, "thin", every_nth),
    Plant("the middle of each bucket is drawn", test_downsampling.check_spikes_stay, (),
          gradclip.report.downsampling, "thin", middle_of_each_bucket),
    Plant("names are not escaped", test_page.check_names_are_escaped, (),
          gradclip.report.html, "environment", without_autoescape),
    Plant("the data end their script", test_page.check_data_cannot_end_its_script, (),
          gradclip.report.html, "in_script", as_it_is),
    Plant("a NaN is written as it is", test_summary.test_the_summary_is_json_without_nan, (),
          gradclip.report.summary, "without_nan", unchanged, (*RED, ValueError)),
    Plant("a spike is measured against all steps",
          test_numbers.test_a_spike_is_measured_against_the_steps_around_it, (),
          test_numbers, "usual_norms", median_of_all),
    Plant("a NaN that was zeroed has escaped", test_numbers.test_a_nan_escapes_where_the_step_is_taken_with_it, (),
          gradclip.verdict.numbers, "escaped", gradclip.verdict.numbers.broken),
    Plant("skipping is not acting", test_verdict.test_skipping_the_spikes_guards_as_well, (),
          gradclip.verdict.numbers, "acted", lambda event: event.clipped),
    Plant("always is never said", test_verdict.check_verdict, ("always",), gradclip.verdict.judge, "ALWAYS", 2.0),
    Plant("a median that is clipped is not often", test_verdict.check_verdict, ("often",),
          gradclip.verdict.judge, "OFTEN", 1.0),
    Plant("every n-th loss is drawn", test_loss_chart.check_spike_stays, (),
          gradclip.report.norm_chart, "thin", every_nth),
    Plant("a mean is no surer than a loss", test_loss_ranking.check_different_are_told_apart_mostly, (),
          gradclip.verdict.losses, "standard_error", error_of_one_loss),
    Plant("a mean is surer than it is", test_loss_ranking.check_alike_are_told_apart_rarely, (),
          gradclip.verdict.losses, "standard_error", error_without_blocks),
    Plant("one standard error is sure", test_loss_ranking.check_alike_are_told_apart_rarely, (),
          gradclip.verdict.losses, "SURE", 1.0),
    Plant("a rise of any size is a divergence", test_divergence.check_healthy,
          ("a term whose weight grows to eight times",), gradclip.verdict.divergence, "FAR", 1.0),
    Plant("a rise is none before a million times", test_divergence.check_diverged, ("blown up",),
          gradclip.verdict.divergence, "FAR", 1e6),
    Plant("one batch of NaN is a divergence", test_divergence.check_healthy, ("nine NaN at the end",),
          gradclip.verdict.divergence, "IN_A_ROW", 1),
    Plant("one low loss is the beginning", test_divergence.check_healthy, ("a low first batch",),
          gradclip.verdict.divergence, "rose", far_above_the_first),
    Plant("ten losses are an end", test_divergence.check_healthy, ("too short to say",),
          gradclip.verdict.divergence, "END", 10),
    Plant("a few steps are enough", test_verdict.check_verdict, ("few",), gradclip.verdict.judge, "FEW", 0),
    Plant("mistakes are passed over", test_verdict.test_a_mistake_comes_before_every_number, (),
          gradclip.verdict.judge, "mistaken", lambda mistakes: test_verdict.verdict.Verdict("guard", "good", "Well.")),
    Plant("a loss that rises is not seen", test_verdict.check_verdict, ("rising",),
          gradclip.verdict.judge, "ROSE", 10.0),
    Plant("it is not said where clipping acted", test_verdict.test_where_the_clipped_steps_lie_is_said,
          (range(10), ", all in the first 10, "), gradclip.verdict.judge, "when", lambda numbers: ""),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()
