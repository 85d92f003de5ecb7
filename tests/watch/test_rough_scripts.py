"""`gradclip watch` beside scripts that do what nobody should: the exit code is theirs, and it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradclip.telemetry import read_run
from watching import SCRIPTS, SOURCE, watch

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}

TRAINING = """
import os, shutil, sys, time, torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
parameters = list(model.parameters())
clip, clip_value = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_
for step in range(40):
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().mean().backward()
    clip(parameters, 1.0)
    optimizer.step()
    if step == 20:
        {once}
sys.exit(5)
"""
WRONG = """
        for wrong in (
            lambda: clip(3, 1.0), lambda: clip(parameters, "x"), lambda: clip(["a"], 1.0), lambda: clip(parameters),
            lambda: clip(p for p in ["a"]), lambda: clip(parameters, 1.0, norm_type="two"), lambda: clip(None, 1.0),
            lambda: clip_value(parameters, None), lambda: clip(parameters, 1.0, 2.0, False, None, 7),
            lambda: torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, None),
            lambda: torch.nn.utils.get_total_norm([3.0]), lambda: clip(parameters, torch.ones(2)),
        ):
            try:
                wrong()
            except Exception as error:
                print(type(error).__name__)
"""


def test_a_script_that_catches_the_error_of_a_wrong_call_is_recorded_on(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINING.format(once=WRONG))
    answer = watch("--out", "run", "train.py", folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert answer.stdout.count("Error") == 12
    assert "nothing more is recorded" not in answer.stderr
    assert [event.step for event in read_run(tmp_path / "run")] == list(range(40))


def test_a_script_that_takes_a_norm_that_is_none_is_recorded_on(tmp_path: Path) -> None:
    """Of order 0, -1 and 0.05, as PyTorch lets it."""
    script = TRAINING.format(once="pass").replace(
        "clip(parameters, 1.0)", "clip(parameters, 1.0, (0, -1, 0.05)[step % 3])"
    )
    (tmp_path / "train.py").write_text(script)
    answer = watch("--out", "run", "train.py", folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert {event.norm for event in read_run(tmp_path / "run")} == {"Lp"}
    assert len(read_run(tmp_path / "run")) == 40


@pytest.mark.parametrize("once", ['shutil.rmtree("run")', 'os.remove("run/events.jsonl")'])
def test_a_script_that_removes_its_run_is_recorded_on_and_told(tmp_path: Path, once: str) -> None:
    (tmp_path / "train.py").write_text(TRAINING.format(once=f"{once}; optimizer.step()"))
    answer = watch("--out", "run", "train.py", folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert "was removed while it was written: the run goes on in a new file" in answer.stderr
    run = read_run(tmp_path / "run")
    assert run[-1].step == 40
    assert run.about["optimizer"] == "SGD"


@pytest.mark.parametrize("last", ["shutil.rmtree('run')", "os.remove('run/events.jsonl')", "open('run/run.json', 'w')"])
def test_whatever_is_left_of_a_run_the_exit_code_is_that_of_the_script(tmp_path: Path, last: str) -> None:
    """At its very end, behind which nothing of Python runs."""
    script = TRAINING.format(once="pass").replace("sys.exit(5)", f"{last}\nos._exit(5)")
    (tmp_path / "train.py").write_text(script)
    answer = watch("--out", "run", "train.py", folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("place", ["dangling", "circle", "/proc/run", "a" * 300])
def test_a_place_that_no_run_can_have_is_refused_before_the_script_runs(tmp_path: Path, place: str) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "train.py").write_text("raise AssertionError")
    answer = watch("--out", place, "train.py", folder=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, ""), answer.stderr
    assert re.fullmatch(r"gradclip watch: --out .*; give a folder that .*\n", answer.stderr)


@pytest.mark.parametrize("first", ['open("run", "w")', 'os.symlink("nowhere", "run")'])
def test_a_script_that_takes_the_place_of_its_run_trains_on_and_is_told(tmp_path: Path, first: str) -> None:
    (tmp_path / "train.py").write_text(f"import os\n{first}\n{TRAINING.format(once='pass')}")
    answer = watch("--out", "run", "train.py", folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert "gradclip watch: nothing more is recorded, FileExistsError" in answer.stderr
    assert "gradclip watch: nothing was recorded" in answer.stderr


def test_names_of_any_bytes_are_shown_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"tr\xff.py")
    try:
        (tmp_path / name).write_text(TRAINING.format(once="pass"))
    except OSError:
        pytest.skip("this file system takes no such names")
    answer = watch("--out", os.fsdecode(b"run\xff"), name, os.fsdecode(b"arg\xfe"), folder=tmp_path)
    assert answer.returncode == 5, answer.stderr
    assert r"see it: gradclip report 'run\udcff'" in answer.stderr
    run = read_run(tmp_path / os.fsdecode(b"run\xff"))
    assert run[0].rule == r"clip_grad_norm_(max_norm=1) at tr\udcff.py:10"
    assert run.about["script"]["arguments"] == [r"tr\udcff.py", r"arg\udcfe"]


def test_a_disk_that_takes_nothing_ends_no_training_and_is_exit_code_2(tmp_path):
    """Exit code 0 is of a run that is there; a limit of 0 for files is a disk on which nothing can be written."""
    full = (
        "import resource, tempfile, torch\ntempfile.gettempdir()\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    )
    script = full + TRAINING.format(once="pass").replace("sys.exit(5)", "print('trained')")
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    watched = watch("--out", "run", "train.py", folder=tmp_path)
    assert (watched.stdout, watched.returncode) == ("trained\n", 2)
    assert "nothing more is recorded, OSError: [Errno 27] File too large" in watched.stderr


def test_a_table_that_cannot_be_written_to_its_end_leaves_no_file(tmp_path):
    watch("--out", "run", str(SCRIPTS / "twice_healthy.py"), folder=tmp_path)
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, "-m", "gradclip"]
    for name, call in {"a.csv": ["export", "run", "--csv"], "a.html": ["report", "run", "--out"]}.items():
        facts = {"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 120}
        told = subprocess.run([*full, *call, name], check=False, **facts)
        assert (told.returncode, name in told.stderr) == (2, True)
        assert not (tmp_path / name).exists()
