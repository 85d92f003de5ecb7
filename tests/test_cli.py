"""The command line, called as a user calls it."""

import importlib.util
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gradclip
from gradclip.cli import main
from gradclip.cli.help_text import GROUPS
from gradclip.experiments import TrainingOutcome
from gradclip.experiments.showing import comparison_report
from gradclip.experiments.tasks import bias
from gradclip.experiments.tasks.task import task_called
from gradclip.experiments.tasks.titles import TITLES

SOURCE = Path(gradclip.__file__).parents[1]
NAMES = ["watch", "doctor", "report", "export", "suggest", "compare", "demo", "methods", "completion"]


def call(*arguments: str, program: tuple[str, ...] = ("-m", "gradclip")) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, *program, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    assert call("--version").stdout == f"gradclip {gradclip.__version__}\n"


def test_help_fits_a_screen_and_lists_each_command_once_by_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = call("--help")
    lines = answer.stdout.splitlines()
    assert answer.returncode == 0
    assert len(lines) <= 23  # of 24, one is for what is typed next
    assert max(map(len, lines)) <= 80
    listed = [line.split() for line in lines if line.startswith("  ")]
    assert [words[0] for words in listed] == NAMES
    assert all(len(words) > 5 for words in listed)
    assert [line for line in lines if line.endswith(":")] == [f"{title}:" for title in GROUPS]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_reads_well_at_80_columns_and_ends_with_its_exit_codes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert told.startswith(f"usage: gradclip {name} ")
    codes = [line.split()[0] for line in told.partition("\nexit codes:\n")[2].splitlines() if line[2] != " "]
    assert codes == sorted(codes, key=int)
    assert {"0", "2", "130"} <= set(codes)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_json_and_a_description(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out
    assert "--json" in told
    assert len(told.partition("\n\n")[2].partition("\n\n")[0]) > 40


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
before = set(sys.modules)
from gradclip.cli import main
from gradclip.cli.help_text import GROUPS
try:
    main(["demo", "--help"])
finally:
    print({name.partition(".")[0] for name in set(sys.modules) - before} - {*sys.stdlib_module_names})
"""
    assert call(program=("-c", code)).stdout.endswith("{'gradclip'}\n")


def test_help_costs_little_more_than_the_standard_library() -> None:
    # 3 to 4.5 times as long as a bare Python was measured, 6 where no bytecode is kept; a framework takes 30.
    assert processor_seconds("-m", "gradclip", "--help") < 10 * processor_seconds("-c", "import argparse, dataclasses")


def processor_seconds(*program: str) -> float:
    """Of a new process, the best of seven: a busy machine slows both that a test compares."""
    seconds = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call(program=program)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ([], "COMMAND"),
        (["dmeo"], "there is no command 'dmeo', did you mean demo?"),
        (["Report"], "did you mean report?"),
        (["xyzzy"], "there are watch, doctor,"),
        (["demo", "--sede", "1"], "gradclip demo: there is no option --sede, did you mean --seed?"),
        (["demo", "--ouut=x"], "did you mean --out?"),
        (["demo", "here"], "gradclip demo: 'here' is one argument too many; see gradclip demo --help"),
        (["report"], "are required: RUN; see gradclip report --help"),
        (["completion", "fish"], "choose from 'bash', 'zsh', 'tcsh'"),
        (["demo", "--seed", "x"], "a whole number from 0"),
        (["demo", "--seed", "-1"], "a whole number from 0"),
        (["demo", "--seed", str(2**40)], "a whole number from 0"),
        (["demo", "--fast"], "--help"),
        (["demo", "--framework", "tensorflow"], "choose from"),
        (["demo", "--out", "/dev/null/here"], "give a folder"),
        (["demo", "--out", "/dev/null"], "give a folder"),
        (["compare", "mnist"], "there are temporal-order, char-lm"),
        (["compare", "bias", "--rules", "none", "gobal:1"], "did you mean 'global'?"),
        (["compare", "bias", "--rules", "global"], "it is written global:clip_norm"),
        (["compare", "bias", "--rules", "none", "none"], "given twice"),
        (["compare", "bias", "--seeds", "0"], "a whole number above 0"),
        (["compare", "bias", "--out", "/dev/null/here"], "give a folder"),
    ],
)
def test_a_mistake_gets_one_line_with_the_cure_and_exit_code_2(arguments: list[str], cure: str) -> None:
    answer = call(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert cure in answer.stderr


def test_a_missing_extra_gets_one_line_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "matplotlib") else present(name)
    )
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        'gradclip demo: the demo needs torch and matplotlib: pip install "gradclip[demo,torch]"\n'
    )


def test_compare_needs_what_its_task_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else present(name))
    assert main(["compare", "digits"]) == 2
    assert capsys.readouterr().err == 'gradclip compare: digits needs sklearn: pip install "gradclip[demo,torch]"\n'


def test_compare_without_a_task_lists_them_and_imports_nothing_heavy() -> None:
    code = """
import sys
from gradclip.cli import main
from gradclip.cli.help_text import GROUPS
main(["compare"])
print([name for name in ("torch", "numpy", "sklearn", "matplotlib", "rich") if name in sys.modules])
"""
    lines = call(program=("-c", code)).stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(TITLES)
    assert lines[-1] == "[]"


@pytest.fixture
def short_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task `bias` with twenty steps, in this process."""
    monkeypatch.setattr(comparison_report, "PROCESSES", 1)
    short = replace(task_called("bias"), train=lambda rule, seed: bias.train(rule, seed, steps=20))
    monkeypatch.setattr(bias, "TASK", short)


@pytest.mark.usefixtures("short_task")
def test_compare_prints_a_document_and_leaves_it_with_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "bias", "--rules", "global:2", "--seeds", "1", "--json", "--out", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "bias"
    assert [rule["text"] for rule in document["rules"]] == ["global:2"]
    assert json.loads((tmp_path / "bias.json").read_text()) == document
    assert (tmp_path / "bias.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.usefixtures("short_task")
def test_compare_tells_a_person_of_each_run_and_of_the_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "bias", "--rules", "none", "global:2"]) == 0
    told, progress = capsys.readouterr()
    assert progress.startswith("  none | seed 0 | ")
    assert progress.splitlines()[-2].endswith(" left")
    assert "against none" in told
    assert "A. Koloskova" in told
    assert "none beat global:2 on " in told


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.usefixtures("short_task")
def test_a_comparison_that_is_interrupted_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    whole, seeds = bias.TASK.train, []

    def train(rule: object, seed: int) -> TrainingOutcome:
        seeds.append(seed)
        if len(seeds) == 4:
            raise KeyboardInterrupt
        return whole(rule, seed)  # type: ignore[arg-type]

    monkeypatch.setattr(bias, "TASK", replace(bias.TASK, train=train))
    call = ["compare", "bias", "--rules", "none", "global:2", "--out", str(tmp_path)]
    assert main([*call, "--json"] if as_json else call) == 130
    told, progress = capsys.readouterr()
    document = json.loads((tmp_path / "bias.json").read_text())
    assert (document["seeds"], document["interrupted"]) == ([0], True)
    assert json.loads(told) == document if as_json else "interrupted after 1 seed, which have shown:" in told
    assert progress.endswith("gradclip: interrupted\n")
