"""For telemetry: bugs planted, on which its tests are red."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import gradclip.result
import gradclip.telemetry.folder
import gradclip.torch
import gradclip.verdict
from gradclip import ClipGradByGlobalNorm
from gradclip.telemetry import Event, Telemetry
from planting import RED, Plant, nothing
from telemetry import test_event, test_jsonl, test_telemetry


def in_folder(check):
    """An oracle that is given a folder."""
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


def read_at_once(self, result, rule, gradients, note=Telemetry.note):
    note(self, result, rule, gradients)
    self.drain()


def called(self, sink, function, *arguments):
    function(*arguments)


def told_if_taken(self, result, gradients, tell=gradclip.torch.Clipper._tell):
    if not result.skipped:
        tell(self, result, gradients)


def norms_of_all(part, to_host):
    return [("all", norm) for norm in to_host(part.plan.decisions[0].norm)]


PLANTS = [
    Plant("a NaN is written as it is", test_event.check_round_trip, (replace(test_event.EVENT, norm_before=math.nan),),
          Event, "to_dict", lambda self: {"schema": 1, **asdict(self)}),
    Plant("a torn line is kept", in_folder, (test_jsonl.check_resumed_after_a_tear,),
          gradclip.telemetry.folder, "cut_torn_line", nothing, (*RED, ValueError)),
    Plant("a full disk stops the training", in_folder, (test_jsonl.check_full_disk,),
          Telemetry, "_call", called),
    Plant("every rank tells", test_telemetry.test_only_rank_0_tells, (),
          gradclip.torch.Clipper, "tells", lambda self: True),
    Plant("a result is read at once", test_telemetry.test_a_device_is_not_read_before_the_drain, (),
          Telemetry, "note", read_at_once),
    Plant("a skipped step is not told", test_telemetry.test_a_skipped_step_is_an_event, (),
          gradclip.torch.Clipper, "_tell", told_if_taken, ValueError),
    Plant("a step that raises is not told", test_telemetry.test_a_step_that_raises_for_its_norm_is_an_event, (),
          gradclip.torch.Clipper, "_tell", told_if_taken, ValueError),
    Plant("the norm of all is that of a tensor", test_telemetry.test_the_norm_of_each_tensor_is_told_if_asked_for,
          (ClipGradByGlobalNorm(1.0), {"a": 5.0, "b": 2.0}, "torch"), gradclip.result, "_norms_in", norms_of_all),
    Plant("by value all tensors are named", test_telemetry.test_by_value_only_the_tensor_with_an_infinity_is_named,
          (test_telemetry.ENGINES[-1],), gradclip.verdict, "offenders_in", lambda *arguments: []),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()
