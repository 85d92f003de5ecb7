"""The chart of losses: every run in its colour, no spike lost, the noise drawn through, what is not finite marked."""

import math
import re

import pytest

from gradclip.report import page, summarise
from gradclip.report.loss_chart import caption, has_chart, loss_axis, loss_chart
from gradclip.report.norm_chart import POINTS
from gradclip.report.style import BROKEN
from report.example_runs import falling, noise, run_of, with_losses
from report.test_page import data_of, without_plotly


def run_with(losses, **more):
    return with_losses(run_of(noise(len(losses)), 5.0, **more), losses)


def chart_of(*losses):
    return loss_chart(summarise([run_with(own, path=f"runs/r{i}") for i, own in enumerate(losses)]))


def check_spike_stays():
    losses = falling(3000)
    losses[1235] = 70.0
    raw = chart_of(losses).data[0]
    assert len(raw.x) <= POINTS
    assert dict(zip(raw.x, raw.y, strict=True)).get(1235) == 70.0


def test_a_spike_among_many_steps_is_drawn():
    check_spike_stays()


def test_the_strong_line_is_the_median_of_each_stretch_at_its_middle():
    # 400 steps are 80 stretches of 5.
    raw, smooth = chart_of([float(i) for i in range(400)]).data
    assert smooth.x[:2] == smooth.y[:2] == (2.0, 7.0)
    assert len(smooth.x) == 80
    assert raw.opacity < 1
    assert smooth.customdata[0] == "2, the median of steps 0 to 4"


def test_a_spike_does_not_move_the_strong_line():
    losses = [1.0] * 400
    losses[200] = 1e6
    assert set(chart_of(losses).data[1].y) == {1.0}


def test_few_steps_are_drawn_as_they_are():
    (raw,) = chart_of([4.0, 2.0, 1.0]).data
    assert (raw.y, raw.opacity) == ((4.0, 2.0, 1.0), None)


def test_a_loss_that_is_not_finite_breaks_the_line_and_is_marked_within_the_axis():
    figure = chart_of([3.0, math.nan, 2.0, math.inf, 1.0])
    raw, crosses = figure.data
    assert raw.y == (3.0, None, 2.0, None, 1.0)
    assert (crosses.x, crosses.marker.symbol, crosses.marker.color) == ((1, 3), "x", BROKEN)
    assert crosses.customdata == ("r0: loss nan", "r0: loss inf")
    assert max(figure.layout.yaxis.range) > crosses.y[0] > 3.0


def test_steps_without_a_loss_are_left_out():
    (raw,) = chart_of([3.0, None, 2.0, None, 1.0]).data
    assert (raw.x, raw.y) == ((0, 2, 4), (3.0, 2.0, 1.0))


def test_several_runs_are_one_chart_in_colours_of_their_own():
    figure = chart_of(falling(400), [*falling(50), *[math.nan] * 50], [None] * 60)
    names = [trace.name for trace in figure.data]
    assert names == ["r0: loss", "r0: loss", "r1: loss", "r1: loss", "non-finite"]
    assert figure.data[0].line.color == figure.data[1].line.color != figure.data[2].line.color
    assert figure.data[4].marker.color == figure.data[2].line.color
    # The margin is a hundredth of the longest run.
    assert figure.layout.xaxis.range == pytest.approx((-3.99, 402.99))


def test_the_axis_is_logarithmic_for_losses_above_zero_that_are_far_apart():
    assert loss_axis([1.0, 100.0])["range"] == pytest.approx([-0.12, 2.12])
    assert loss_axis([1.0, 5.0]) == {"range": pytest.approx([0.76, 5.24])}
    assert loss_axis([-1.0, 99.0]) == {"range": pytest.approx([-7.0, 105.0])}
    low, high = loss_axis([2.0, 2.0])["range"]
    assert low < 2.0 < high


STRANGE = {
    "as far as floats go": [5e-324, 1e300, 1e-300, 1.7e308] * 10,
    "of both signs as far as floats go": [-1e308, 1e308, 0.0, 1.0] * 10,
    "all alike": [0.0] * 40,
    "three": [1.0, 2.0, 3.0],
    "mostly broken": [math.nan, -math.inf, math.inf, 1.0, 2.0, 3.0] * 7,
}


@pytest.mark.parametrize("losses", STRANGE.values(), ids=STRANGE)
def test_strange_losses_have_a_chart_without_nan(losses):
    assert "loss" in data_of(page([run_with(losses)]))["charts"]


@pytest.mark.parametrize("losses", [[None] * 40, [math.nan] * 40, [1.0, *[None] * 39]], ids=["none", "NaN", "one"])
def test_without_a_few_finite_losses_there_is_no_chart_and_no_place_for_it(losses):
    run = run_with(losses)
    assert not has_chart(*summarise([run]))
    text = without_plotly(page([run]))
    assert "loss" not in data_of(text)["charts"]
    assert "Loss over the steps" not in text
    assert 'id="loss"' not in text


def test_the_loss_stands_right_after_the_norm():
    headings = re.findall(r"<h2>(.*?)</h2>", page([run_with(falling(400))]))
    assert headings[:3] == ["Norm over the steps", "Loss over the steps", "How the norms are spread"]


def test_the_caption_says_what_the_lines_are_and_which_runs_have_none():
    runs = [run_with(falling(4000)), run_with(falling(40), path="runs/short"), run_of(noise(40), path="runs/old")]
    assert caption(summarise(runs[:1])) == (
        "The strong line is the median of 50 steps, the faint one is each step. Of the faint line the smallest and the "
        "largest loss of every few steps are drawn."
    )
    told = caption(summarise(runs))
    assert "the median of up to 50 steps" in told
    assert told.endswith("Without a loss to draw: old.")
    assert caption(summarise(runs[1:2])).startswith("The strong line is the median of 5 steps")
