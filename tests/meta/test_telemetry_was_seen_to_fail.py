"""For telemetry: bugs planted, on which its tests are red."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import gradclip.clipper
import gradclip.step.measure
import gradclip.step.nonfinite
import gradclip.step.result
import gradclip.telemetry.collector
import gradclip.telemetry.folder
import gradclip.telemetry.pending
import gradclip.torch.hook
import gradclip.torch.scaler
from gradclip import ClipGradByGlobalNorm
from gradclip.engines.torch import TorchEngine
from gradclip.step.result import Result
from gradclip.telemetry import Event, Telemetry, tensor_names
from planting import RED, Plant, nothing
from telemetry import test_drain, test_event, test_jsonl, test_left_out, test_loss, test_telemetry, test_tensor_names


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


def measured_as_one(engine, batch, sweep, tensors):
    return engine.measure(batch, sweep.leaf, sweep.norm), None


def flags_of_stages(self, flags=Result.skip_flags):
    return flags(self)[: len(self.parts)]


def uncounted(self, result, rule, gradients, left_out=False, note=Telemetry.note):
    note(self, result, rule, gradients)


PLANTS = [
    Plant("what a closure returns is not heard", test_loss.test_what_a_closure_returns_is_the_loss, (),
          gradclip.clipper.Clipper, "give_returned", nothing),
    Plant("whatever a closure returns is a loss", test_loss.test_a_closure_that_returns_no_number_tells_no_loss, (),
          gradclip.clipper, "is_one", lambda number: True, (*RED, TypeError)),
    Plant("the loss stays on the device", test_drain.check_a_drain_is_one_copy, (2,),
          Result, "with_arrays", lambda result, given: result),
    Plant("a NaN is written as it is", test_event.check_round_trip, (replace(test_event.EVENT, norm_before=math.nan),),
          Event, "to_dict", lambda self: {"schema": 1, **asdict(self)}),
    Plant("names are those of the last event", in_folder, (test_tensor_names.check_other_names,),
          tensor_names.NameReader, "event_in", lambda self, line: Event.from_dict(
              {**line, "tensors": {"w": 1.0}}) if "step" in line else None),
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
          (ClipGradByGlobalNorm(1.0), {"a": 5.0, "b": 2.0}, "torch"), gradclip.step.result, "norms_in", norms_of_all),
    Plant("by value all tensors are named", test_telemetry.test_by_value_only_the_tensor_with_an_infinity_is_named,
          (test_telemetry.ENGINES[-1],), gradclip.step.nonfinite, "offenders_in", lambda *arguments: []),
    Plant("tensors are measured as one", test_telemetry.test_the_norm_of_each_tensor_is_told_if_asked_for,
          (ClipGradByGlobalNorm(1.0), {"a": 5.0, "b": 2.0}, test_telemetry.ENGINES[-1]),
          gradclip.step.measure, "measured", measured_as_one),
    Plant("a device is read number by number", test_drain.check_a_drain_is_one_copy, (3,),
          gradclip.telemetry.collector, "on_host", list),
    Plant("what is moved to the host loses its type", test_drain.test_arrays_keep_their_type_and_their_bits, (),
          TorchEngine, "on_host", lambda self, arrays: [array.double() for array in arrays]),
    Plant("a result that waits keeps the memory", (test_drain
          .test_a_result_that_waits_keeps_neither_gradients_nor_the_memory_of_the_rule), (),
          gradclip.telemetry.collector, "light", lambda result: result),
    Plant("a GradScaler leaves steps out unheard", test_left_out.check_steps_left_out, ("plain",),
          gradclip.torch.hook.AttachedClipper, "left_out", nothing),
    Plant("what wraps an optimizer is asked for",
          test_left_out.test_a_step_that_a_compiled_function_leaves_out_is_heard, (test_left_out.Wrapper,),
          gradclip.torch.scaler, "inside", lambda optimizer: optimizer),
    Plant("a fused optimizer leaves steps out unheard", test_left_out.check_steps_left_out, ("fused",),
          gradclip.torch.hook.AttachedClipper, "tell_left_out", nothing),
    Plant("an overflow on a device is not a skip", test_left_out.check_steps_left_out, ("fused", False, True),
          Result, "skip_flags", flags_of_stages),
    Plant("a step left out is not counted", test_left_out.check_steps_left_out, ("plain",),
          Telemetry, "note", uncounted),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()
