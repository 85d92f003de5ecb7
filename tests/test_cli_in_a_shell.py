"""The command line between other programs: in a pipe, in a terminal without colours, and completed by a shell."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import forked
import gradclip
from effort import only_long
from gradclip.cli import command_line, completion_command, main, methods_command
from gradclip.experiments.tasks.titles import TITLES
from gradclip.telemetry import Event, jsonl, read_run

SOURCE = Path(gradclip.__file__).parents[1]
EVENT = Event(0, "all tensors together", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=1.0, tensors={"w": 5.0})
SCRIPT = """
import torch
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], lr=0.01)
for step in range(5):
    optimizer.zero_grad()
    weight.square().sum().backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
"""
BY_HAND = """
import torch
weight = torch.nn.Parameter(torch.ones(3))
for step in range(5):
    weight.grad = None
    weight.square().sum().backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    weight.data -= 0.01 * weight.grad
"""
"""A new process needs longer for its first optimizer than for all of this."""


@pytest.fixture
def folder(tmp_path):
    """A folder with a run of fifty steps, `run`, and a script, `train.py`."""
    sink = jsonl(tmp_path / "run")
    for step in range(50):
        sink(replace(EVENT, step=step, norm_before=5.0 + step % 7))
    sink.close()
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", **changes}


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "--out", "watched", "train.py"],
        ["doctor", "train.py"],
        ["doctor", "run"],
        ["report", "run"],
        ["report", "run", "--text"],
        ["suggest", "run"],
        ["compare"],
        pytest.param(["compare", "bias", "--rules", "none", "--seeds", "1"], marks=only_long),
        ["methods"],
        ["methods", "ZClip"],
        ["export", "run", "--json"],
        ["completion", "bash"],
    ],
    ids=" ".join,
)
def test_a_pipe_gets_no_colours_and_no_bars(folder, arguments):
    done = forked.run(["-m", "gradclip", *arguments], folder, environment())
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout or done.stderr
    for told in (done.stdout, done.stderr):
        assert "\x1b" not in told
        assert "\r" not in told


def test_a_reader_that_goes_away_is_no_error(folder):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gradclip", "export", "run", "--json"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_without_its_streams_the_command_does_what_it_does(folder, closed):
    """A daemon has none. The script runs and is recorded."""
    (folder / "by_hand.py").write_text(BY_HAND)
    command = f"{shlex.quote(sys.executable)} -m gradclip watch --out closed by_hand.py {closed}"
    done = subprocess.run(command, shell=True, cwd=folder, env=environment(), stderr=subprocess.PIPE, timeout=60)
    try:
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
        assert len(read_run(folder / "closed")) == 5
    finally:
        shutil.rmtree(folder / "closed")


@pytest.mark.parametrize("arguments", [["methods"], ["report", "--json", "run"], ["doctor", "run"]], ids=" ".join)
def test_a_full_disk_is_said_and_no_verdict(folder, arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gradclip", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (2, "gradclip: its output cannot be written: No space left on device\n")


def test_who_interrupts_gets_a_line_and_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods_command, "run", interrupted)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "gradclip: interrupted\n"


def in_terminal(folder, *arguments, **changes):
    """What a command writes to a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "gradclip", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(**changes), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        told = b""
        try:
            while more := os.read(ours, 1 << 16):
                told += more
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0, told
    return told


def test_a_terminal_gets_colours_unless_it_is_asked_to_do_without(folder):
    assert b"\x1b[1;3" in in_terminal(folder, "report", "run", "--text")
    assert b"\x1b" not in in_terminal(folder, "report", "run", "--text", NO_COLOR="1")


@only_long
def test_a_table_in_a_terminal_without_color(folder):
    shown = in_terminal(folder, "compare", "bias", "--rules", "none", "--seeds", "1", NO_COLOR="1", COLUMNS="100")
    assert b"\x1b[1m" in shown  # bold is no colour
    assert not re.search(rb"\x1b\[[0-9;]*[349][0-9][0-9;]*m", shown)


def completed(script, *words):
    """What a real bash offers for the last of `words`, with the script of gradclip read."""
    asking = f"""
source {script}
COMP_WORDS=({" ".join(map(repr, words))})
COMP_CWORD={len(words) - 1}
$(complete -p gradclip | sed 's/.*-F \\([^ ]*\\).*/\\1/') gradclip
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asking], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    file = tmp_path_factory.mktemp("completion") / "gradclip.bash"
    file.write_text(completion_command.script_for("bash", command_line()))
    return file


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["do"], ["doctor"]),
        (["demo", "--fr"], ["--framework"]),
        (["demo", "--framework", "p"], ["paddle"]),
        (["methods", "Z"], ["ZClip"]),
        (["compare", ""], [*TITLES]),
        (["compare", "char-lm", "--rules", "zc"], []),
        (["compare", "char-lm", "--rules", "ZC"], ["ZClip"]),
        (["export", "--p"], ["--parquet"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(script, words, offered):
    assert sorted(completed(script, "gradclip", *words)) == sorted(offered)


def test_bash_completes_files(script, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert "train.py" in completed(script, "gradclip", "watch", "tr")
    assert "run" in completed(script, "gradclip", "report", "r")


@pytest.mark.parametrize("shell", completion_command.SHELLS)
def test_the_script_comes_as_text_or_in_a_document(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": text.removesuffix("\n")}
    assert all(word in text for word in ("suggest", "temporal-order", "ZClip"))


def test_completion_without_shtab_gets_one_line(monkeypatch, capsys):
    monkeypatch.setattr(completion_command.importlib.util, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == 'gradclip completion: it needs shtab: pip install "gradclip[completion]"\n'
