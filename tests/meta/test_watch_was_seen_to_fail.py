"""For what watches and judges a script: bugs planted, on which its tests are red."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

import gradclip.doctor.diagnosis as diagnosis
import gradclip.watch.backward_pass as backward_pass
import gradclip.watch.call_site as call_site
import gradclip.watch.gradient_norms as gradient_norms
import gradclip.watch.journal as journal
import gradclip.watch.script_thresholds as script_thresholds
import gradclip.watch.step_events as step_events
from doctor import test_diagnosis
from planting import RED, Plant
from watch import test_backward_pass, test_gradient_norms, test_journal, test_loss, test_own_code, test_start


def in_folder(test, *arguments, **named):
    """A test that wants a folder, given one of its own at each call."""

    def run():
        with TemporaryDirectory() as folder:
            test(*arguments, **named, tmp_path=Path(folder))

    return run


def healthy(name):
    return partial(test_journal.test_what_is_right_has_no_flaw, test_journal.HEALTHY[name])


def sick(name):
    return partial(test_journal.test_what_is_wrong_has_its_name, name)


def repeated_whatever_came_between(clip, before):
    return [journal.Flaw(journal.TWICE, clip.where)] if [*before] else []


def never_stale(clip, made, zeroed, scale):
    return None


def whose_a_file_is():
    call_site.package_of.cache_clear()
    test_start.test_whose_a_file_is()


value_test = test_gradient_norms.test_clipping_by_value_is_told_by_the_largest_magnitude
PLANTS = [
    Plant("a second clip is always the same one", healthy("two halves"), (), journal, "repeated",
          repeated_whatever_came_between),
    Plant("gradients that were given up are clipped again", healthy("given up by hand"), (), journal, "repeated",
          repeated_whatever_came_between),
    Plant("a clip is never in the wrong place", sick(journal.AFTER_STEP), (), journal, "flaw_of", never_stale),
    Plant("a clip always finds its gradients", sick(journal.BEFORE_BACKWARD), (), journal, "flaw_of", never_stale),
    Plant("what was written is as it was", test_backward_pass.test_gradients_that_were_zeroed_or_replaced_are_not,
          ("written anew",), backward_pass, "version_of", lambda gradient: 0),
    Plant("one that was zeroed is the same", test_backward_pass.test_gradients_that_were_zeroed_or_replaced_are_not,
          ("zeroed unseen",), torch.Tensor, "any", lambda gradient: torch.tensor(True)),
    Plant("own code is never seen", test_own_code.test_what_became_smaller_was_clipped_by_own_code,
          ("one tensor of two",), step_events, "made_before", lambda step, rest: {}),
    Plant("a mean is a clip", test_own_code.test_what_nobody_clipped_is_not_said_to_be, ("a mean over three",),
          step_events, "round", lambda parts: 2.0),
    Plant("a scale is never on them", sick(journal.BEFORE_UNSCALE), (), journal, "flaw_of", never_stale),
    Plant("a sum that became zero is believed", test_gradient_norms.test_a_norm_is_that_of_float64, ("tiny", 2.0),
          gradient_norms, "LEAST", -1.0),
    Plant("the largest magnitude is taken for a norm", value_test, (),
          step_events, "combined_norm", lambda norms, order: 7.0),
    Plant("nothing is left of what was clipped", test_gradient_norms.test_the_event_says_what_pytorch_left, (2.0, 0.5),
          step_events, "norm_after", lambda effect: effect.norm),
    Plant("a loss scale stays on the loss", test_loss.test_each_loss_has_the_scale_that_was_on_it, (),
          test_loss, "loss_of", lambda losses: sum(loss.value for loss in losses)),
    Plant("the losses of another step count", test_loss.test_losses_whose_gradients_were_given_up_do_not_count, (),
          test_loss, "Zeroed", journal.Unscaled),
    Plant("every number is a threshold", test_start.test_a_name_that_says_something_else, ("grad_norm",),
          script_thresholds, "NAMED", script_thresholds.re.compile(".*")),
    Plant("a library is the user's", whose_a_file_is, (), call_site, "PACKAGES", ()),
    Plant("a line holds for one step", in_folder(test_diagnosis.test_a_flaw_counts_as_long_as_its_line_holds), (),
          diagnosis, "recorded_run", lambda run: diagnosis.RecordedRun(run, [
              (json.loads(line), 1) for line in (run.path / "calls.jsonl").read_text().splitlines()])),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant._replace(red=(*RED, KeyError)).check()
    call_site.package_of.cache_clear()
