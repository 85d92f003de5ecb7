"""The page as text: escaped, complete, without NaN, and whole for the strangest run."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradclip.report import html, page, show, write_report
from gradclip.report.heat_map import heat_map
from gradclip.report.histogram import histogram
from gradclip.report.in_numbers import norms_in_numbers, spread_in_numbers
from gradclip.report.layers import heat_of
from gradclip.report.norm_chart import POINTS, norm_chart
from gradclip.report.summary import summarise
from gradclip.telemetry import Run
from gradclip.verdict.formatting import NOTHING
from report.example_runs import falling, noise, run_of, step, with_losses, with_tensors

HOSTILE = "<script>window.taken = 1</script>"
HEADINGS = [
    "Norm over the steps",
    "How the norms are spread",
    "Layers over time",
    "Worst steps and parameters",
    "What if",
]


def hostile_run():
    """Names of a parameter, a rule and a folder that would be obeyed if they were not escaped."""
    names = {
        HOSTILE: 1.0,
        '<img src=x onerror="window.taken = 1">': 2.0,
        "<a href='javascript:window.taken=1'>w</a>": 3.0,
    }
    run = with_tensors(
        run_of([*noise(40), math.nan], 5.0, path=Path("runs") / f"a{HOSTILE}".replace("/", "_")), lambda i: names
    )
    run[-1] = step(40, math.nan, 5.0, offenders=(HOSTILE,), rule=HOSTILE)
    run.about["framework"] = HOSTILE
    return with_losses(run, [math.nan, *falling(40)])


def check_names_are_escaped():
    text = page([hostile_run(), hostile_run()])
    assert "The runs are too short to tell a difference in the training loss" in text
    assert "window.taken = 1" in text
    assert HOSTILE not in text
    assert "<img" not in without_plotly(text)
    assert "<a href" not in without_plotly(text)


def without_plotly(text):
    """The page without the source of the library."""
    return re.sub(r'<script type="text/plain" id="library">.*?</script>', "", text, flags=re.DOTALL)


def data_of(text):
    """What the page draws; a NaN or an infinity in it fails the test."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found, parse_constant=pytest.fail)


def check_data_cannot_end_its_script():
    assert "<" not in html.in_script({"a": "</script>"})
    assert json.loads(html.in_script({"a": "</script>"})) == {"a": "</script>"}


def test_names_are_escaped():
    check_names_are_escaped()


def test_the_data_cannot_end_the_script_that_they_stand_in():
    check_data_cannot_end_its_script()


def test_the_sections_stand_in_their_order():
    found = re.findall(r"<h2>(.*?)</h2>", page([run_of(noise(50), 5.0)]))
    assert found == HEADINGS


def test_plotly_stands_in_the_page_once_for_any_number_of_runs():
    text = page([run_of(noise(50), 5.0), run_of(noise(50, seed=1))])
    assert text.count("* plotly.js v") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', without_plotly(text))
    assert "://" not in without_plotly(text)


STRANGE = {
    "no step": [],
    "one step": [3.0],
    "one NaN": [math.nan],
    "all NaN": [math.nan] * 30,
    "all infinite": [math.inf] * 30,
    "all zero": [0.0] * 30,
    "zeros and NaN": [0.0, math.nan] * 20,
    "all alike": [1.0] * 30,
    "as far as floats go": [5e-324, 1e-300, 1.0, 1e300] * 6,
}


@pytest.mark.parametrize("threshold", [1.0, math.inf])
@pytest.mark.parametrize("norms", STRANGE.values(), ids=STRANGE)
def test_a_strange_run_has_a_page_with_a_verdict_and_no_nan(norms, threshold):
    text = page([run_of(norms, threshold)])
    data_of(text)
    verdict = re.search(r'<p class="verdict \w+">.*?<span>(.*?)</span></p>', text).group(1)
    assert len(verdict) > 20


def test_a_strange_run_beside_an_ordinary_one_is_drawn_too():
    text = page([run_of(norms, 1.0, path=name) for name, norms in STRANGE.items()] + [run_of(noise(60), 1.0)])
    assert {"norm-1", "norm-9", "histogram"} <= set(data_of(text)["charts"])


def test_a_long_line_is_thinned_and_keeps_its_spike():
    line = norm_chart(summarise([run_of(noise(3000, {1234}), 5.0)])).data[0]
    assert len(line.x) <= POINTS
    assert line.y[line.x.index(1234)] == 50.0


def test_a_line_breaks_where_a_norm_is_not_finite():
    assert norm_chart(summarise([run_of([1.0, math.nan, 2.0])])).data[0].y == (1.0, None, 2.0)


def test_what_happened_to_a_step_is_marked_on_it():
    figure = norm_chart(summarise([run_of([1.0, 8.0, 0.0, math.nan], 5.0)]))
    found = {trace.name: (trace.x, trace.customdata) for trace in figure.data}
    assert found["clipped"] == ((1,), ("norm 8, clipped to 5",))
    assert found["zero"] == ((2,), ("norm 0",))
    assert found["non-finite"] == ((3,), ("NaN or infinity in head.weight",))


def test_two_runs_have_the_same_axes_and_colours_of_their_own():
    summaries = summarise([run_of(noise(40), 3.0), run_of([norm * 100 for norm in noise(90)])])
    first, second = (norm_chart(summaries, number) for number in (0, 1))
    assert first.layout.xaxis.range == second.layout.xaxis.range
    assert first.layout.yaxis.range == second.layout.yaxis.range
    assert first.layout.yaxis.range[1] > math.log10(200) > math.log10(0.5) > first.layout.yaxis.range[0]
    assert first.data[0].line.color != second.data[0].line.color
    assert len(histogram(summaries).data) == 2


def test_a_threshold_far_from_the_norms_is_told_and_not_drawn():
    run = run_of(noise(40), 1e9)
    assert [trace.name for trace in norm_chart(summarise([run])).data] == ["norm"]
    assert "The threshold, 1e+09, lies too far from the norms to be drawn." in page([run])


def test_of_a_threshold_that_moves_the_near_part_is_drawn():
    run = run_of(noise(40), 3.0)
    run[0] = replace(run[0], threshold=1e9)
    norm, threshold = norm_chart(summarise([run])).data
    assert threshold.y == (None, *[3.0] * 39)
    assert norm.y[0] == run[0].norm_before


def test_thresholds_of_parts_are_not_drawn_over_the_norm_of_all():
    run = Run([step(i, 5.0, 2.0, coefficient=0.5, norm_after=math.sqrt(8)) for i in range(30)])
    assert [trace.name for trace in norm_chart(summarise([run])).data] == ["norm", "clipped"]
    assert "a threshold for each part of the gradient" in page([run])


def test_the_colours_of_a_heat_map_are_logarithms_and_its_hints_norms():
    heat = heat_of(with_tensors(run_of([1.0]), lambda i: {"a": 100.0, "b": 0.0}))
    figure = heat_map([heat])
    assert [list(row) for row in figure.data[0].z] == [[2.0], [None]]
    assert figure.data[0].customdata[0][0] == "a<br>step 0: norm 100"


def test_without_norms_of_tensors_the_page_says_how_to_get_them():
    assert "Telemetry(..., tensors=True)" in page([run_of(noise(40))])


def test_the_page_says_what_a_replay_cannot_know():
    assert "Clipping changes the training, and so the norms that come after" in page([run_of(noise(40))])


def test_write_report_writes_the_page_and_gives_the_summaries(tmp_path):
    (summary,) = write_report([run_of(noise(40), 5.0)], tmp_path / "a.html")
    assert summary.verdict.sentence in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_run_plots_its_norms_with_the_threshold_and_a_legend():
    figure = show(run_of([1.0, 8.0], 5.0)).plot()
    assert [trace.name for trace in figure.data] == ["norm", "threshold", "clipped"]
    assert figure.data[1].y == (5.0, 5.0)
    assert figure.layout.showlegend
    assert html.plot(Run()).data[0].x == ()


def test_a_notebook_shows_verdict_and_tiles_escaped():
    text = show(hostile_run())._repr_html_()
    assert "Non-finite steps" in text
    assert "NaN or infinity into the optimizer" in text
    assert HOSTILE not in text


def test_each_chart_stands_beside_a_table_of_its_numbers():
    run = with_tensors(with_losses(run_of([*noise(100, {30}), math.nan], 5.0), falling(101)), lambda i: {"a": 1.0 + i})
    text = page([run])
    tables = dict(re.findall(r"<summary>(.*?), in numbers</summary>(.*?)</details>", text, flags=re.DOTALL))
    assert list(tables) == ["Norms of made", "Losses of made", "How the norms of made are spread", "Layers of made"]
    rows = {name: re.findall(r"<tr>(.*?)</tr>", table) for name, table in tables.items()}
    assert [len(rows[name]) - 1 for name in tables] == [10, 10, 12, 1]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows["Norms of made"]]
    assert cells[0] == ["Steps", "Smallest norm", "Median", "Largest", "Clipped or skipped", "NaN or infinity"]
    assert sum(int(row[4]) for row in cells[1:]) == sum(int(row[5]) for row in cells[1:]) == 1
    assert max(float(row[3]) for row in cells[1:]) == 50.0
    assert cells[-1][0] == "90 to 100"
    assert '<th scope="row">a</th><td class="number">101</td><td class="number">100</td>' in tables["Layers of made"]


def test_a_run_without_finite_norms_has_dashes_in_its_numbers():
    (row,) = norms_in_numbers(summarise([run_of([math.nan])])[0]).rows
    assert row == ("0", NOTHING, NOTHING, NOTHING, "0", "1")
    assert norms_in_numbers(summarise([Run()])[0]).rows == spread_in_numbers(summarise([Run()])[0]).rows == []
