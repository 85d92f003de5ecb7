"""What a disk and a person do to a run: what is whole is read, what is damaged is counted and said, and it goes on."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace

import pytest

from effort import LONG
from gradclip import GradclipWarning
from gradclip.cli import main
from gradclip.doctor import diagnose
from gradclip.telemetry import Event, jsonl, read_run
from gradclip.telemetry.lines import LONGEST
from mutating import mutated

EVENT = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=1.0, tensors={"w": 5.0}, loss=2.0)
EVENTS = [replace(EVENT, step=step) for step in range(3)]
DATA = EVENT.to_dict()
ABOUT = {"rule": None, "sentence": "all", "framework": "torch", "optimizer": "SGD", "parameters": {"w": [1]}}
CALLS = {"step": 0, "calls": ["clip_grad_norm_(max_norm=1) at train.py:3"], "flaws": [["twice", "train.py:3", ""]]}
CALLS = {**CALLS, "missing": [], "measured": [], "unclipped": []}
SCRIPT = {"arguments": ["train.py"], "thresholds": [{"name": "max_norm", "value": 1.0, "where": "train.py"}]}


def line_of(**changes) -> bytes:
    return json.dumps({**DATA, **changes}).encode()


def write(path, events=EVENTS):
    sink = jsonl(path)
    sink.begin(ABOUT)
    for event in events:
        sink(event)
    sink.close()


DAMAGED = {
    "blank": b"",
    "spaces": b"  \t\r",
    "a hole of zeros": bytes(4096),
    "a hole in a line": line_of()[:40] + bytes(100) + line_of()[140:],
    "the end of a line": line_of()[40:],
    "a line twice in one": line_of() + line_of(),
    "nested without end": b"[" * 100_000,
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a step of 400 digits": line_of(step=10**400),
    "a step of 5000 digits": b'{"schema": 1, "step": ' + b"9" * 5000 + b"}",
    "a norm of 400 digits": line_of(norm_before=10**400),
    "a negative step": line_of(step=-1),
    "a step that is a word": line_of(step="3"),
    "a step that is true": line_of(step=True),
    "no norm": json.dumps({name: value for name, value in DATA.items() if name != "norm_before"}).encode(),
    "tensors that are a list": line_of(tensors=["w"]),
    "a norm that is a list": line_of(tensors={"w": [5.0]}),
    "offenders that are numbers": line_of(offenders=[1]),
    "odd words for what is not finite": line_of(not_finite=[["norm_before", "many"]]),
    "latin-1": line_of(rule="").replace(b'"rule": ""', b'"rule": "\xe9t\xe9"'),
    "no text": bytes(range(1, 10)) + b"\xff\xfe",
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "somebody's words": b"# looks fine to me",
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_left_out_and_said(tmp_path, damage, place):
    write(tmp_path)
    file = tmp_path / "events.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1]
    file.write_bytes(b"".join(line + b"\n" for line in [*lines[:place], DAMAGED[damage], *lines[place:]]))
    with pytest.warns(GradclipWarning, match=rf"a damaged line of .*events\.jsonl left out: it is line {place + 1}, "):
        assert read_run(tmp_path) == EVENTS


def test_many_damaged_lines_are_counted(tmp_path):
    write(tmp_path)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b"".join(line + b"\n" for line in DAMAGED.values()))
    with pytest.warns(GradclipWarning, match=f"^{len(DAMAGED)} damaged lines of .*: the first is line 5, it is empty"):
        assert read_run(tmp_path) == EVENTS


def test_a_file_in_which_no_line_is_an_event_is_no_run(tmp_path):
    (tmp_path / "events.jsonl").write_text("step,norm\n0,5.0\n")
    with pytest.raises(ValueError, match=r"events.jsonl has no event: line 1, it is no JSON"):
        read_run(tmp_path)


def test_a_run_of_a_later_gradclip_is_not_taken_for_a_damaged_one(tmp_path):
    write(tmp_path)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(line_of(schema=9) + b"\n")
    with pytest.raises(ValueError, match=r"events.jsonl: an event has schema 9, .*upgrade gradclip"):
        read_run(tmp_path)


def test_a_line_of_any_length_takes_bounded_memory(tmp_path):
    """A hole of 200 MB on the disk; what is kept of it are pieces as long as a line may be."""
    write(tmp_path, EVENTS[:2])
    with open(tmp_path / "events.jsonl", "r+b") as file:
        file.seek(200 << 20, os.SEEK_END)
        file.write(b"\n" + line_of(step=2) + b"\n")
    tracemalloc.start()
    with pytest.warns(GradclipWarning, match=r"it is line 4, it is longer than 16,777,216 bytes"):
        assert read_run(tmp_path) == EVENTS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * LONGEST


def test_text_that_is_no_unicode_is_shown_escaped(tmp_path, capsys):
    """Names of files and arguments may be any bytes; Python keeps those as halves of surrogate pairs."""
    odd = b"layer-\xff".decode("utf-8", "surrogateescape")
    sink = jsonl(tmp_path)
    sink.begin({**ABOUT, "sentence": odd, "parameters": {odd: [1]}})
    sink(replace(EVENT, rule=odd, offenders=(odd,), tensors={odd: 5.0}))
    sink.close()
    (event,) = read_run(tmp_path)
    assert (event.rule, event.offenders, event.tensors) == (r"layer-\udcff", (r"layer-\udcff",), {r"layer-\udcff": 5.0})
    for command in (["report", "--text"], ["report", "--json"], ["report"], ["doctor"], ["suggest"]):
        assert main([*command[:1], str(tmp_path), *command[1:]]) in (0, 1)
        capsys.readouterr()[0].encode()


def test_what_a_terminal_would_obey_is_shown_escaped(tmp_path, capsys):
    """A name may be anything that JSON holds: colours, a new line, the title of the window."""
    name = "w\x1b[31m\n\x9b2J\x7f\u0000"
    sink = jsonl(tmp_path)
    sink.begin({**ABOUT, "sentence": name, "optimizer": name, "parameters": {name: [2]}})
    for step in range(60):
        sink(replace(EVENT, step=step, rule=name, tensors={name: math.nan}, nonfinite=1, offenders=(name,)))
    sink.close()
    (tmp_path / "calls.jsonl").write_text(
        json.dumps({**CALLS, "calls": [name], "flaws": [["twice", name, name]]}) + "\n"
    )
    for command in (["report", "--text"], ["report", "--json"], ["doctor"], ["suggest"], ["export", "--json"]):
        main([command[0], str(tmp_path), *command[1:]])
        said = capsys.readouterr()
        assert not {"\x1b", "\x9b", "\x7f", "\0"} & {*said.out, *said.err}, command
    assert r"w\x1b[31m\x0a" in read_run(tmp_path)[0].rule


FACTS = {
    "empty": b"",
    "torn": json.dumps(ABOUT).encode()[:40],
    "a hole": bytes(512),
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "an object": b"{}",
    "no text": b"\xff\xfe{}",
    "starts that are a word": b'{"starts": "now"}',
    "starts of words": b'{"starts": ["now"]}',
    "an optimizer that is an object": b'{"optimizer": {}}',
    "parameters that are a list": b'{"parameters": ["w"]}',
    "a shape that is a word": b'{"parameters": {"w": "3"}}',
    "a shape beyond sense": json.dumps({"parameters": {"w": [10**400]}}).encode(),
    "a script that is a word": b'{"script": "train.py"}',
    "thresholds without a value": b'{"script": {"thresholds": [{"name": "c"}]}}',
    "a rule that is a number": b'{"rule": 3}',
}


@pytest.mark.parametrize("facts", FACTS)
def test_a_run_is_read_and_goes_on_beside_any_run_json(tmp_path, facts):
    write(tmp_path, EVENTS[:2])
    (tmp_path / "run.json").write_bytes(FACTS[facts])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert read_run(tmp_path) == EVENTS[:2]
        diagnose(tmp_path)
    assert all("run.json" in str(warning.message) for warning in said)
    assert bool(said) == (facts != "an object")
    write(tmp_path, EVENTS[2:])
    run = read_run(tmp_path)
    assert run == EVENTS
    assert run.about["optimizer"] == "SGD"


def test_a_damaged_line_of_the_calls_is_left_out_and_said(tmp_path):
    write(tmp_path)
    lines = [CALLS, {**CALLS, "step": "1"}, {**CALLS, "flaws": [["cosmic rays", "", ""]]}, {**CALLS, "calls": None}]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, 7]))
    with pytest.warns(GradclipWarning, match=r"4 damaged lines of .*calls\.jsonl left out: the first is line 2"):
        assert [finding.problem for finding in diagnose(tmp_path)] == ["twice"]


def test_events_that_are_removed_while_they_are_written_go_on_in_a_new_file(tmp_path):
    path = tmp_path / "run"
    sink = jsonl(path)
    sink.begin(ABOUT)
    sink(EVENTS[0])
    (path / "events.jsonl").unlink()
    with pytest.warns(GradclipWarning, match=r"events\.jsonl was removed while it was written: .* in a new file"):
        sink(EVENTS[1])
    shutil.rmtree(path)
    with pytest.warns(GradclipWarning, match="was removed"):
        sink(EVENTS[2])
    sink.close()
    run = read_run(path)
    assert (run, run.about["optimizer"]) == (EVENTS[2:], "SGD")


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    first, second = jsonl(tmp_path / "run"), jsonl(tmp_path / "run")
    first(EVENTS[0])
    with pytest.warns(GradclipWarning, match=r"another process writes the run .*, so this one is written to .*run-2"):
        second(EVENTS[1])
    first(EVENTS[2])
    first.close()
    third = jsonl(tmp_path / "run")
    third(EVENTS[1])
    for sink in (second, third):
        sink.close()
    assert read_run(tmp_path / "run") == EVENTS
    assert read_run(tmp_path / "run-2") == EVENTS[1:2]


WRITER = """
import os, sys
from dataclasses import replace
from gradclip.telemetry import Event, jsonl
sink, event = jsonl(sys.argv[1]), Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True)
for step in range(200):
    sink(replace(event, step=step, rule=sys.argv[2]))
print(sink.path)
"""


def test_two_processes_that_are_told_the_same_folder_write_two_runs(tmp_path):
    path, started = tmp_path / "run", []
    for name in ("a", "b", "c"):
        command = [sys.executable, "-W", "ignore", "-c", WRITER + "input()", path, name]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    places = [process.stdout.readline().strip() for process in started]
    for process in started:
        process.communicate("\n", timeout=30)
    assert len(set(places)) == 3
    for name, place in zip("abc", places, strict=True):
        run = read_run(place)
        assert [event.step for event in run] == list(range(200))
        assert {event.rule for event in run} == {name}


FORKED = """
import os, sys, warnings
from dataclasses import replace
from gradclip.telemetry import Event, jsonl
sink, event = jsonl(sys.argv[1]), Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True)
sink(event)
child = os.fork()
sink(replace(event, step=2 if child else 1))
if child:
    os.waitpid(child, 0)
    sink(replace(event, step=3))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked here")
def test_a_forked_process_does_not_write_into_the_run_of_the_first(tmp_path):
    command = [sys.executable, "-c", FORKED, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "so this one is written to" in done.stderr
    assert [event.step for event in read_run(tmp_path / "run")] == [0, 2, 3]
    assert [event.step for event in read_run(tmp_path / "run-2")] == [1]


KILLER = """
import os, random, signal, sys, time, warnings
from dataclasses import replace
from gradclip.telemetry import Event, jsonl, read_run
warnings.simplefilter("error")
draw, path, last = random.Random(5), sys.argv[1], -1
event = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, tensors={"w" * 100 + str(i): 1.0 for i in range(5)})
for attempt in range(60):
    child = os.fork()
    if not child:
        sink, step = jsonl(path), last + 1
        while True:
            sink(replace(event, step=step))
            step += 1
    time.sleep(draw.uniform(0.0005, 0.006))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.path.exists(path + "/events.jsonl"):
        run = read_run(path)
        assert [event.step for event in run] == list(range(len(run))), attempt
        assert len(run) > last, attempt
        last = len(run) - 1
print(last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_sixty_kills_at_random_moments_lose_no_line_that_was_written(tmp_path):
    """Also in the middle of the beginning: of making the folder, its `run.json` and the file."""
    command = [sys.executable, "-c", KILLER, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr
    assert int(done.stdout) > 60


def damaged_run(path, draw):
    """A run with a part of one of its files changed, in what it means or in its bytes."""
    path.mkdir()
    script = {"script": SCRIPT, "schema": 1, "starts": [1.0], "python": "3.11", "gradclip": "1"}
    files = {
        "events.jsonl": [{**DATA, "step": step, "norm_before": 10.0 ** draw.randint(-3, 3)} for step in range(40)],
        "run.json": [{**ABOUT, **script}],
        "calls.jsonl": [CALLS, {**CALLS, "step": 20}],
    }
    chosen = draw.choice(list(files))
    if draw.random() < 0.7:
        lines = files[chosen]
        place = draw.randrange(len(lines))
        lines[place] = mutated(lines[place], draw)
    for name, lines in files.items():
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if name == chosen and draw.random() < 0.5:
            at = draw.randrange(len(text))
            text = draw.choice([
                text[:at], text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :], text[:at] + text[at + 9 :],
                text[:at] + bytes(16) + text[at + 16 :], text[:at] + b"\n" + text[at:],
            ])  # fmt: skip
        (path / name).write_bytes(text)


COMMANDS = (["report", "--text"], ["report", "--json"], ["doctor"], ["suggest"], ["export", "--json"])


def test_no_damage_ends_a_command_in_an_internal_error(tmp_path, capsys):
    """Each run is read by every command: it answers, or says in a line what is wrong, and numbers stay numbers."""
    draw = random.Random(11)
    for number in range(400 if LONG else 60):
        run = tmp_path / str(number)
        damaged_run(run, draw)
        for command, *options in COMMANDS:
            code = main([command, str(run), *options])
            out, err = capsys.readouterr()
            assert code in (0, 1, 2), (number, command)
            assert out if code < 2 else err.startswith(f"gradclip {command}: "), (number, command, err)
            if "--json" in options and code < 2:
                json.loads(out, parse_constant=pytest.fail)
        shutil.rmtree(run)


@pytest.mark.parametrize("norm", [1.7e308, 5e-324, 0.0, math.inf, math.nan])
def test_norms_at_the_ends_of_floats_are_reported(tmp_path, norm, capsys):
    """Of 250 steps, so that everything is said that is said at all."""
    events = [replace(EVENT, step=step, norm_before=norm, tensors={"w": norm, "v": norm}) for step in range(250)]
    write(tmp_path, events)
    assert read_run(tmp_path)[0].tensors.keys() == {"w", "v"}
    for command, *options in (*COMMANDS, ["report", "--out", str(tmp_path / "page.html")]):
        assert main([command, str(tmp_path), *options]) in (0, 1)
        capsys.readouterr()
