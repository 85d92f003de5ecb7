"""The examples in the help of the commands, run as they stand there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import forked
import gradclip
from effort import LONG, only_long
from gradclip.cli import command_line
from gradclip.cli.completion_command import commands_of
from gradclip.cli.help_text import examples_in
from gradclip.telemetry import jsonl
from report.example_runs import falling, noise, run_of, with_losses

SOURCE = Path(gradclip.__file__).parents[1]
TRAINING = Path(__file__).parent / "example_training.py"
LONG_ONES = (
    "gradclip watch torchrun",
    "gradclip suggest --",
    "gradclip compare ",
    "gradclip demo",
    "doctor --versions",
)
"""They train for a while, or import every framework."""
EXAMPLES = [example for form in commands_of(command_line()).values() for example in examples_in(form.format_help())]
TRAINED = [example for example in EXAMPLES if "train.py" in example]


@pytest.fixture
def folder(tmp_path):
    """A folder with what the examples speak of: `train.py`, and two runs in `runs`; and the command `gradclip`."""
    shutil.copy(TRAINING, tmp_path / "train.py")
    for name, last in {"first": 1.0, "second": 2.0}.items():
        sink = jsonl(tmp_path / "runs" / name)
        for event in with_losses(run_of(noise(60, {30}), 5.0), falling(60, last=last)):
            sink(event)
        sink.close()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "gradclip"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gradclip "$@"\n')
    command.chmod(0o755)
    return tmp_path


def answer_to(example, folder):
    """What a shell answers; a plain call is made in a fork of a process that has PyTorch."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PATH": path}
    words = shlex.split(example)
    if words[0] == "gradclip" and not set(">|") & set(words):
        return forked.run(["-m", *words], folder, environment)
    return subprocess.run(
        ["bash", "-c", example], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, marks=only_long) if any(part in example for part in LONG_ONES) else example
        for example in EXAMPLES
    ],
)
def test_an_example_does_what_it_says(folder, example):
    done = answer_to(example, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for option in ("--out", "--csv", "--parquet", ">"):
        _, given, place = example.partition(f" {option} ")
        assert not given or (folder / place.split()[0]).exists()


@pytest.mark.parametrize("name", commands_of(command_line()))
def test_every_command_has_examples_of_itself(name):
    found = examples_in(commands_of(command_line())[name].format_help())
    assert len(found) >= 2
    assert all(f"gradclip {name}" in example for example in found)


def test_an_example_that_fails_is_seen(folder):
    assert answer_to("gradclip report runs/third --text", folder).returncode == 2
    assert answer_to('eval "$(gradclip completion fish)" && false', folder).returncode != 0


def test_most_examples_run_in_the_short_form():
    quick = [example for example in EXAMPLES if not any(part in example for part in LONG_ONES)]
    assert len(quick) >= len(EXAMPLES) / 2
    assert TRAINED or LONG
