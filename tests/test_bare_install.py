"""Without any other package, not even NumPy, what reads runs works."""

import subprocess
import sys
from pathlib import Path

import pytest

import gradclip
from gradclip.telemetry import jsonl
from report.example_runs import noise, run_of

SOURCE = Path(gradclip.__file__).parents[1]
CALL = "import sys; sys.path.insert(0, {!r}); from gradclip.cli import entry; sys.argv = ['gradclip', *{!r}]; entry()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bare")
    sink = jsonl(place / "run")
    for event in run_of(noise(60, {30}), 5.0):
        sink(event)
    sink.close()
    return place


def call(folder, *arguments):
    """What a Python answers that has its standard library alone."""
    command = [sys.executable, "-I", "-S", "-c", CALL.format(str(SOURCE), arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor", "run"], "it is a guard"),
        (["doctor", "--versions"], 'paddle is not installed: pip install "gradclip[paddle]"'),
        (["report", "run", "--text"], "What if"),
        (["report", "run", "--json"], '"verdict"'),
        (["suggest", "run"], "leave it as it is"),
        (["export", "run", "--json"], '"norm_before"'),
        (["methods"], "ZClip"),
        (["compare"], "char-lm"),
    ],
    ids=" ".join,
)
def test_what_needs_no_package_works_without(folder, arguments, said):
    done = call(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_there_is_no_package_indeed(folder):
    command = [sys.executable, "-I", "-S", "-c", "import numpy"]
    assert "No module named 'numpy'" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
