"""What is made of the runs: the document, the sentence, the table, the log and the picture."""

import io
import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

import gradclip
from gradclip.experiments.demo import Demo, spread
from gradclip.experiments.showing.demo_picture import draw
from gradclip.experiments.showing.demo_progress import DemoProgress, log_line
from gradclip.experiments.showing.demo_report import print_document, print_report, table
from gradclip.experiments.training import exploding_net


def _no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def document(demo: Demo) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(demo.to_json("here.png")), parse_constant=_no_constant)
    return found


def test_the_document_says_null_and_where_a_run_broke(document: dict[str, Any]) -> None:
    broken = document["seed_experiment"]["runs"][0]
    assert broken["nonfinite"] is True
    assert broken["end"] is None
    assert broken["curves"]["loss"][broken["broke_at"] - 1] is None
    assert broken["curves"]["norm_before"][broken["broke_at"] - 1] is None
    assert broken["curves"]["step"] == list(range(1, broken["broke_at"] + 1))


def test_the_document_has_versions_and_every_run(document: dict[str, Any]) -> None:
    assert document["versions"]["gradclip"] == gradclip.__version__
    assert set(document["versions"]) == {"gradclip", "python", "torch"}
    assert len(document["seed_experiment"]["runs"]) == 2 * exploding_net.SEEDS
    assert len(document["char_rnn"]["runs"]) == 4
    assert document["direction"]["clipped"]["by value 1.0"] == pytest.approx([0.8, 1.0])


def test_six_steps_of_the_rnn_are_not_as_described_and_the_exit_code_says_so(demo: Demo, tmp_path: Path) -> None:
    short = replace(demo, language=replace(demo.language, runs=tuple(replace(r, end=2.5) for r in demo.language.runs)))
    output = io.StringIO()
    assert print_report(short, tmp_path, Console(file=output, width=80)) == 1
    assert output.getvalue().count("not as described: character RNN") == 2


def test_the_sentence_is_one_and_counts(demo: Demo) -> None:
    assert demo.sentence.startswith("Without clipping, 5 of 5 nets of the seed experiment blew up by step ")
    assert demo.sentence.count(". ") == 0
    assert f"{len(demo.exploding.arrived)} of 5 nets trained" in demo.sentence


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.5, 2.44, 2.6], "2.44 to 2.60"),
        ([2.5, 2.501], "2.50"),
        ([3.0, math.nan, 2.0], "2.00 to NaN"),
        ([math.nan], "NaN"),
    ],
)
def test_spread_is_the_smallest_to_the_largest(values: list[float], words: str) -> None:
    assert spread(values) == words


def test_the_table_fits_eighty_columns_and_shows_every_seed(demo: Demo) -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(table(demo))
    lines = output.getvalue().splitlines()
    (row,) = [line for line in lines if "weights and biases" in line]
    assert all(f"{run.end:.2f}" in row for run in demo.exploding.clipped)
    assert all(f"@{run.broke_at}" in output.getvalue() for run in demo.exploding.without)


def test_the_log_has_the_steps_of_the_first_seed_and_a_line_for_each_run(demo: Demo) -> None:
    output = io.StringIO()
    with DemoProgress(Console(file=output, width=80), first_seed=0) as terminal:
        for run in demo.exploding.runs:
            watch = terminal.begins(exploding_net.TITLE, run.clipping, run.seed, exploding_net.STEPS)
            for step in run.steps:
                watch(step)
            terminal.ends(exploding_net.TITLE, run)
    lines = output.getvalue().splitlines()
    first = demo.exploding.clipped[0]
    assert [line for line in lines if line == log_line(first.steps[-1])]
    assert sum("over all points" in line for line in lines) == exploding_net.SEEDS
    assert "\x1b" not in output.getvalue()


@pytest.fixture
def panels(demo: Demo) -> list[Any]:
    return draw(demo).axes


def test_the_picture_has_log_axes_and_the_threshold(panels: list[Any]) -> None:
    assert [axes.get_xscale() + axes.get_yscale() for axes in panels] == ["loglog"] * 4
    heights = [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] for axes in panels[2:]]
    assert heights == [[1.0], [0.25]]


def test_the_picture_marks_where_each_run_broke(demo: Demo, panels: list[Any]) -> None:
    (crosses,) = [line for line in panels[0].lines if line.get_marker() == "X"]
    assert list(crosses.get_xdata()) == [run.broke_at for run in demo.exploding.without]


def test_one_document_is_printed_and_the_picture_is_a_png_of_a_size_to_look_at(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_document(demo, tmp_path)
    document = json.loads(capsys.readouterr().out, parse_constant=_no_constant)
    header = Path(document["picture"]).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == (1650, 1125)
