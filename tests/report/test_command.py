"""`gradclip report`, called as a user calls it, and its text for a terminal."""

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradclip.cli import main
from gradclip.report import summarise
from gradclip.report.terminal_report import in_colour, sparkline, text
from gradclip.telemetry import Run, jsonl
from report.example_runs import falling, noise, run_of, with_losses, with_tensors


def recorded(folder, run):
    """The run, written to a folder as training does it."""
    sink = jsonl(folder)
    sink.begin({"framework": "torch"})
    for event in run:
        sink(event)
    sink.close()
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    return recorded(tmp_path / "first", run_of(noise(60, {30}), 5.0))


def test_the_page_goes_into_the_folder_of_the_run_and_the_verdict_is_printed(folder, tmp_path, capsys):
    assert main(["report", folder]) == 0
    assert (tmp_path / "first" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    verdict, written = capsys.readouterr().out.splitlines()
    assert verdict.startswith("Clipping acted on 1 of 60 steps")
    assert written == f"written: {tmp_path / 'first' / 'report.html'}"


def test_several_runs_stand_on_one_page(folder, tmp_path, capsys):
    other = recorded(tmp_path / "second", run_of(noise(60)))
    assert main(["report", folder, other, "--out", str(tmp_path / "both.html")]) == 0
    assert re.findall(r"^\w+", capsys.readouterr().out, re.MULTILINE) == ["first", "second", "written"]
    assert "<title>first, second" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_a_run_that_is_given_twice_is_one(folder, tmp_path, capsys):
    assert main(["report", "--json", str(folder), str(Path(folder) / "events.jsonl")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["runs"]) == 1
    assert document["comparison"] is None


def test_json_is_one_document(folder, capsys):
    assert main(["report", folder, "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["run"], run["steps"], run["verdict"]["kind"]) == (folder, 60, "guard")


def test_text_has_the_order_of_the_page(folder, capsys):
    assert main(["report", folder, "--text"]) == 0
    told = capsys.readouterr().out
    parts = ["Clipping acted", "Clip rate", "Norm over the steps", "How many steps", "Layers", "Worst steps", "What if"]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    assert "\033" not in told


@pytest.fixture
def folders(tmp_path):
    """Two runs, the second of which ends with a loss that is lower by 1."""
    ends = {"high": 2.0, "low": 1.0}
    return [
        recorded(tmp_path / name, with_losses(run_of(noise(200)), falling(200, last=last)))
        for name, last in ends.items()
    ]


LOWEST = "By the training loss, of one seed each, low ended lowest: at "


def test_which_run_ended_with_the_lowest_loss_is_said_first(folders, tmp_path, capsys):
    assert main(["report", *folders, "--out", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out.startswith(LOWEST)
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.index(LOWEST) < page.index('aria-label="Verdict on high"')
    assert main(["report", *folders, "--text"]) == 0
    assert capsys.readouterr().out.startswith(LOWEST)


def test_the_comparison_is_in_the_json_of_several_runs(folders, folder, capsys):
    assert main(["report", *folders, "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert (comparison["kind"], comparison["level"]) == ("lowest", "good")
    assert comparison["sentence"].startswith(LOWEST)
    assert main(["report", *folders, folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"] is None


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["nowhere"], "is no run: a run is a folder with events.jsonl"),
        (["RUN", "nowhere"], "nowhere is no run"),
        (["RUN", "--out", "/dev/null/page.html"], "give a file that can be written"),
        (["RUN", "--out", "/dev/full"], "No space left on device"),
    ],
)
def test_a_mistake_gets_one_line_with_the_cure(folder, capsys, arguments, cure):
    assert main(["report", *(folder if word == "RUN" else word for word in arguments)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith("gradclip report: ")
    assert cure in answer.err
    assert answer.err.count("\n") == 1


def test_without_the_extra_the_line_says_what_to_install_and_text_works(folder, capsys, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else present(name))
    assert main(["report", folder]) == 2
    assert capsys.readouterr().err == (
        'gradclip report: the page needs plotly: pip install "gradclip[report]", or call it with --text\n'
    )
    assert main(["report", folder, "--text"]) == 0


def told(run, **options):
    return text(summarise([run]), **options)


def test_the_text_of_a_run_with_tensors_has_a_line_for_each_layer():
    run = with_tensors(run_of([*noise(60, {30}), math.nan], 5.0), lambda i: {"embed": 1.0, "head": float(i)})
    lines = told(run).splitlines()
    assert any(line.startswith("  head ") and line.endswith("up to 60") for line in lines)
    assert "  60    NaN            went into the optimizer  head.weight" in lines


def test_the_text_draws_the_median_loss_of_each_few_steps_and_where_it_was_not_finite():
    # 144 steps are 72 parts of two, of which the lower one is drawn.
    losses = [float(i) for i in range(140)] + [-7.0, math.nan, math.nan, math.nan]
    lines = told(with_losses(run_of([1.0] * 144), losses)).splitlines()
    place = lines.index("Loss over the steps, the median of each few")
    bars, crosses, span = (line[2:] for line in lines[place + 1 : place + 4])
    assert (bars[0], bars[69:]) == ("▁", "█▁")
    assert crosses == " " * 70 + "xx"
    assert span == "from -7 to 138; x NaN or infinity"
    assert "Loss" not in told(run_of([1.0] * 40))


@pytest.mark.parametrize("norms", [[], [3.0], [math.nan] * 3, [0.0] * 3, [5e-324, 1e300]])
def test_a_strange_run_has_a_text(norms):
    assert summarise([run_of(norms)])[0].verdict.sentence in told(run_of(norms))


def test_a_name_with_control_characters_does_not_reach_the_terminal():
    run = with_tensors(run_of([1.0] * 30), lambda i: {"a\033[2Jb\r": 1.0})
    run[-1] = replace(run[-1], rule="x\033]0;title\a")
    assert "\033" not in told(run)
    assert "a?[2Jb?" in told(run)


def test_the_name_of_a_run_does_not_reach_the_terminal_by_the_comparison_either():
    runs = [with_losses(run_of([1.0] * 100, path=f"runs/{name}\033[2J"), [1.0] * 100) for name in "ab"]
    assert "a?[2J 1 and b?[2J 1 over" in text(summarise(runs))
    assert "\033" not in text(summarise(runs))


def test_the_sentence_of_the_verdict_is_told_whole():
    run = run_of(noise(60, {30}), 5.0)
    assert summarise([run])[0].verdict.sentence.endswith("times the usual norm) among them: it is a guard.")
    assert summarise([run])[0].verdict.sentence in told(run)


def test_colours_are_for_terminals_that_do_not_refuse_them(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert in_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not in_colour()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert not in_colour()
    assert told(Run(), colours=True).splitlines()[1] == (
        "\033[1;31mNo step was recorded, so there is nothing to say yet.\033[0m"
    )


def test_a_sparkline_is_as_high_as_the_logarithm():
    # Over 7 steps of the ladder from 1 to 128 each doubling is one block.
    assert sparkline([2.0**n for n in range(8)]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 0.0, math.nan, math.inf]) == "▁   "
