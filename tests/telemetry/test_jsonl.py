"""A run on disk: it is read back whole, whatever killed the process that wrote it, and it goes on after that."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import gradclip
from gradclip import GradclipWarning
from gradclip.telemetry import Event, Telemetry, jsonl, read_run
from gradclip.torch import Clipper
from gradclip.verdict.numbers import normalises
from training import RULE

EVENT = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=1.0, tensors={"w": 5.0})
EVENTS = [replace(EVENT, step=step) for step in range(3)]

WRITER = """
import sys
from dataclasses import replace
from gradclip.telemetry import Event, jsonl, read_run
sink = jsonl(sys.argv[1])
first = int(sys.argv[2])
event = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, tensors={"w" * 100 + str(i): 1.0 for i in range(1000)})
while True:
    sink(replace(event, step=first))
    first += 1
    print("written", flush=True)
"""


def write(path, events=EVENTS):
    sink = jsonl(path)
    for event in events:
        sink(event)
    sink.close()


def weight(*gradient):
    made = torch.nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return {"w": made}


def check_a_run_of_training(path):
    telemetry = Telemetry(jsonl(path), tensors=True)
    clipper = Clipper(gradclip.ClipGradByGlobalNorm(2.5), telemetry=telemetry)
    clipper.clip_(weight(3.0, 4.0))
    with pytest.warns(GradclipWarning, match="non-finite"):
        clipper.clip_(weight(math.nan))
    telemetry.close()
    first, second = read_run(path)
    assert (first.norm_before, first.tensors) == (5.0, {"w": 5.0})
    assert math.isnan(second.norm_before)
    assert math.isnan(second.tensors["w"])
    for name in ("events.jsonl", "run.json"):
        assert "NaN" not in (path / name).read_text()
    return json.loads((path / "run.json").read_text())


def test_a_run_says_what_was_clipped_by_what(tmp_path):
    facts = check_a_run_of_training(tmp_path / "deep" / "run")
    assert gradclip.from_dict(facts["rule"]) == gradclip.ClipGradByGlobalNorm(2.5)
    assert facts["sentence"] == repr(gradclip.ClipGradByGlobalNorm(2.5))
    assert (facts["framework"], facts["framework_version"]) == ("torch", torch.__version__)
    assert facts["parameters"] == {"w": [2]}
    assert facts["gradclip"] == gradclip.__version__
    assert facts["python"] == sys.version.partition(" ")[0]
    assert abs(facts["starts"][0] - time.time()) < 60


def test_a_run_knows_its_optimizers(tmp_path):
    first, second = weight(3.0), weight(4.0)
    optimizers = torch.optim.SGD(first.values(), lr=0.1), torch.optim.AdamW(second.values())
    with Telemetry(jsonl(tmp_path)) as telemetry:
        gradclip.attach(*optimizers, rule=gradclip.ClipGradByGlobalNorm(1.0), telemetry=telemetry)
        optimizers[0].step()
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["optimizer"] == "SGD, AdamW"
    assert not normalises(facts)
    assert normalises({"optimizer": "AdamW, Lion"})
    assert not normalises({})


def test_a_rule_with_a_function_is_recorded_as_a_sentence(tmp_path):
    rule = gradclip.ClipGradByGlobalNorm(gradclip.Schedule(lambda step: 1.0))
    with Telemetry(jsonl(tmp_path)) as telemetry:
        Clipper(rule, telemetry=telemetry).clip_(weight(1.0))
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["rule"], facts["sentence"]) == (None, repr(rule))


def check_resumed_after_a_tear(path):
    write(path)
    file = path / "events.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        file.write_bytes(whole[:end])
        assert read_run(path) == EVENTS[:2]
        write(path, EVENTS[2:])
        assert read_run(path) == EVENTS
        assert file.read_bytes().startswith(whole[:end][: whole[:end].rfind(b"\n") + 1])


def test_a_run_that_was_torn_at_any_byte_of_its_last_line_goes_on(tmp_path):
    check_resumed_after_a_tear(tmp_path)


def test_a_torn_line_longer_than_a_block_is_cut_off(tmp_path):
    write(tmp_path, [replace(EVENT, tensors={"w" * 200_000: 1.0})])
    file = tmp_path / "events.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    write(tmp_path, EVENTS)
    assert read_run(tmp_path) == EVENTS


def test_a_process_killed_at_any_time_leaves_a_run_that_goes_on(tmp_path):
    last = -1
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, tmp_path, str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"written\n"
            time.sleep(0.0137 * attempt)
            process.send_signal(signal.SIGKILL)
        events = read_run(tmp_path)
        assert [event.step for event in events] == list(range(len(events)))
        assert len(events) > last + 1
        last = events[-1].step
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 6


def test_of_a_step_that_was_made_twice_the_later_event_counts(tmp_path):
    again = replace(EVENT, step=1, norm_before=9.0)
    write(tmp_path)
    write(tmp_path, [again])
    assert read_run(tmp_path) == [EVENTS[0], again, EVENTS[2]]


def check_full_disk(path):
    (path / "events.jsonl").symlink_to("/dev/full")
    with contextlib.closing(jsonl(path)) as sink:  # or the one device of all processes stays locked
        clipper = Clipper(RULE, telemetry=Telemetry(sink))
        words = r"nothing more is recorded by jsonl\(.*No space left.*training goes on"
        with pytest.warns(GradclipWarning, match=words):
            clipper.clip_(weight(1.0))
        assert clipper.clip_(weight(1.0)).clipped


def test_a_full_disk_is_said_once_and_training_goes_on(tmp_path):
    check_full_disk(tmp_path)


def test_a_line_that_fits_only_in_part_is_a_full_disk(tmp_path):
    limited = f"""
import resource, signal, sys
from gradclip.telemetry import Event, jsonl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = jsonl({str(tmp_path)!r})
sink.begin({{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sink(Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True))
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=60)
    assert "OSError: [Errno 28] No space left on device" in done.stderr
    assert (tmp_path / "events.jsonl").stat().st_size == 100
    assert read_run(tmp_path) == []


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run"):
        read_run(tmp_path)


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="give another path"):
        jsonl(tmp_path / "file")


def test_nothing_is_made_before_the_first_event(tmp_path):
    Telemetry(jsonl(tmp_path / "run")).close()
    assert not (tmp_path / "run").exists()


def test_a_closed_telemetry_goes_on_with_the_run(tmp_path):
    telemetry = Telemetry(jsonl(tmp_path))
    clipper = Clipper(RULE, telemetry=telemetry)
    for _ in range(2):
        clipper.clip_(weight(1.0))
        telemetry.close()
    assert [event.step for event in read_run(tmp_path)] == [0, 1]
