"""The README: each block runs by itself with its own framework alone, its commands are those of the program."""

from __future__ import annotations

import re
import shlex

import pytest

from gradclip.cli import main
from pages import STRICT, blocks_in
from structure import ROOT
from watching import python

README = ROOT / "README.md"
FRAMEWORKS = {"torch", "paddle", "jax"}
ALONE = "import sys; sys.modules.update(dict.fromkeys({others!r}))\n"
"""What is None there cannot be imported, as in an environment without it."""

PRINTED = {"torch": "<step 2: clipped, norm", "paddle": "<step 0: clipped, norm", "jax": "9.5393"}
BLOCKS = blocks_in(README)


def frameworks_in(block: str) -> set[str]:
    """The frameworks that a block imports."""
    return {name for name in FRAMEWORKS if re.search(rf"^(?:import|from) {name}\b", block, re.M)}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(sorted(frameworks_in(block))))
def test_a_block_runs_by_itself_with_its_own_framework_alone(block, tmp_path):
    mine = frameworks_in(block)
    (tmp_path / "block.py").write_text(f"{ALONE.format(others=sorted(FRAMEWORKS - mine))}{STRICT}\n{block}")
    done = python("block.py", folder=tmp_path, cold=not mine <= {"torch"})  # a fork has PyTorch, and none of the others
    assert done.returncode == 0, done.stderr
    assert all(PRINTED[name] in done.stdout for name in mine), done.stdout
    assert "print(" in block
    assert done.stdout


def test_there_is_a_block_for_each_framework():
    assert [frameworks_in(block) for block in BLOCKS] == [{"torch"}, {"paddle"}, {"jax"}, set()]


def test_it_is_one_page():
    assert len(README.read_text().splitlines()) <= 150


def test_its_files_are_there_and_its_targets_and_commands_too(capsys):
    text, makefile = README.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"^make ([\w-]+)", text, re.M) + re.findall(r"`make ([\w-]+)`", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
    commands = [line.partition("#")[0] for line in text.splitlines() if line.startswith(".venv/bin/gradclip ")]
    assert len(commands) >= 4
    for command in commands:
        with pytest.raises(SystemExit):
            main([shlex.split(command)[1], "--help"])
        options = re.findall(r"--[\w-]+", command)
        shown = capsys.readouterr().out
        assert all(option in shown for option in options), command
        assert all((ROOT / word).exists() for word in command.split() if word.startswith("examples/")), command
