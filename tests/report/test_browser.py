"""The page in headless Chromium, as its readers have it."""

import math
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from browser import PHONE, WIDE, launched
from gradclip.report import page, show, style
from report.example_runs import falling, noise, run_of, with_losses, with_tensors
from report.test_page import hostile_run

DRAWN = "#norm-0 .scatterlayer path.js-line"


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


def losing(name, last, steps=400):
    """A run whose loss falls to `last`, and is not finite on seven steps."""
    losses = [
        math.nan if i in range(20, 350, 50) else loss for i, loss in enumerate(falling(steps, last=last, spread=0.3))
    ]
    return with_losses(run_of(noise(steps, {100}), 5.0, path=f"runs/{name}"), losses)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The files of the pages that several tests open."""
    folder = tmp_path_factory.mktemp("pages")
    run = with_tensors(run_of(noise(300, {100}), 5.0), lambda i: {f"layers.{n}.weight": 1.0 + n for n in range(12)})
    texts = {
        "one": page([run]),
        "two": page([run, run_of(noise(300, {50}), path="runs/other")]),
        "hostile": page([hostile_run()]),
        "losses": page([losing("first", 1.0), losing("second", 2.0)]),
        "notebook": f"<!doctype html><meta charset=utf-8><body>{''.join(show(run)._repr_html_() for _ in 'ab')}</body>",
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def opened(chromium, pages):
    """Opens a page; what it complains of, or asks for beside itself, fails the test when it ends."""
    contexts, complaints, asked = [], [], []

    def open_page(name, folder=pages, wait=DRAWN, **options):
        context = chromium.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((Path(folder) / f"{name}.html").as_uri())
        tab.wait_for_selector(wait, state="attached")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [url for url in asked if "file:" in url]
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


def awake(tab):
    """The page when its charts answer."""
    tab.evaluate(
        "new Promise((done) => { const ask = () => performance.getEntriesByName('awake').length ? done() : "
        "setTimeout(ask, 20); ask(); })"
    )
    return tab


def count(tab, selector):
    return tab.locator(selector).count()


def test_the_charts_are_drawn_before_the_library_is_read(opened):
    """It takes a second or more, and the reader does not wait for it. The lines are those that it will draw."""
    tab = opened("one", wait="#norm-0 .sketch path")
    assert tab.evaluate("performance.getEntriesByName('drawn')[0].startTime") < tab.evaluate(
        "performance.timing.domContentLoadedEventStart - performance.timing.navigationStart"
    )
    awake(tab)
    assert count(tab, ".sketch") == 0


def ends_of(tab, place):
    """How high the highest and the lowest point of a line lie in the chart of norms, in pixels."""
    line, chart = tab.locator(place).first.bounding_box(), tab.locator("#norm-0").bounding_box()
    return [line["y"] - chart["y"], line["y"] + line["height"] - chart["y"]]


def test_the_first_drawing_shows_what_the_library_will(opened):
    tab = awake(opened("one"))
    library = ends_of(tab, DRAWN)
    tab.evaluate("Plotly.purge('norm-0'); sketch(document.getElementById('norm-0'), charts['norm-0'], 800)")
    assert ends_of(tab, "#norm-0 .sketch svg g path") == pytest.approx(library, abs=8.0)  # the margins are not the same


@pytest.mark.parametrize("name", ["one", "losses", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(opened, name, scheme):
    """Contrast, names of what can be focused, headings in order: in both schemes, with all that can be opened open."""
    tab = awake(opened(name, color_scheme=scheme, bypass_csp=True))
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = Axe().run(tab)
    assert found.response["passes"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []


def test_axe_sees_a_faint_text(opened):
    tab = opened("one", bypass_csp=True)
    tab.add_style_tag(content=":root { --muted: #c0c4c9 !important; }")
    assert "color-contrast" in [one["id"] for one in Axe().run(tab).response["violations"]]


def test_every_control_is_reached_by_tab_and_shows_that_it_is(opened):
    tab = awake(opened("one"))
    wanted = tab.evaluate(
        "[...document.querySelectorAll('[tabindex], summary')].filter((one) => !one.closest("
        "'details:not([open]) .scroll')).length"
    )
    reached = []
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                "(() => { const one = document.activeElement; return [one.id || one.className || "
                "one.textContent, getComputedStyle(one).outlineStyle]; })()"
            )
        )
    assert len({name for name, _ in reached if name in ("norm-0", "histogram", "heat-0")}) == 3
    assert {style for _, style in reached} == {"solid"}
    assert wanted == len(reached) >= 9


def test_a_chart_is_read_by_keyboard(opened):
    tab = awake(opened("one"))
    tab.locator("#norm-0").focus()
    tab.keyboard.press("End")
    expect(tab.locator("#norm-0 .hoverlayer")).to_contain_text("step 299")
    assert tab.locator("#said").inner_text().startswith("step 299, norm ")
    for key in ("Home", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    assert tab.locator("#said").inner_text().startswith("step 2, norm ")
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#said").inner_text() == "step 2, threshold 5"
    tab.keyboard.press("Escape")
    expect(tab.locator("#norm-0 .hoverlayer .hovertext")).to_have_count(0)
    tab.locator("#heat-0").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#said").inner_text() == "layers.0.weight, step 0: norm 1"


def test_a_chart_is_zoomed_by_keyboard_and_shown_whole_again(opened):
    tab = awake(opened("one"))
    width = "(() => { const [low, high] = document.getElementById('norm-0').layout.xaxis.range; return high - low; })()"
    whole = tab.evaluate(width)
    tab.locator("#norm-0").focus()
    tab.keyboard.press("+")
    assert tab.evaluate(width) == pytest.approx(whole / 2)
    tab.keyboard.press("0")
    assert tab.evaluate(width) == pytest.approx(whole)


def test_on_paper_the_page_is_light_whole_and_has_no_controls(opened, tmp_path):
    tab = awake(opened("one", color_scheme="dark"))
    tab.emulate_media(media="print")
    expect(tab.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(tab.locator(".numbers").first).to_be_hidden()
    expect(tab.locator(".mouse").first).to_be_hidden()
    assert tab.locator(".scroll").first.evaluate("node => getComputedStyle(node).overflowX") == "visible"
    assert tab.pdf(format="A4").startswith(b"%PDF")
    expect(tab.locator("#norm-0 .main-svg").first).to_be_visible()


def test_every_chart_is_drawn(opened):
    tab = opened("one")
    assert tab.locator(DRAWN).first.get_attribute("d").count("L") > 200
    assert count(tab, "#norm-0 .points path") >= 1
    assert count(tab, "#histogram .bars .point path") > 10
    assert count(tab, "#heat-0 .heatmaplayer image") == 1


def test_two_runs_are_drawn_side_by_side(opened):
    tab = opened("two")
    tab.wait_for_selector("#norm-1 path.js-line", state="attached")
    left, right = (tab.locator(place).bounding_box() for place in ("#norm-0", "#norm-1"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert tab.locator(".run-name").all_inner_texts()[:2] == ["made", "other"]


def test_the_losses_of_two_runs_are_drawn_in_one_chart_under_the_sentence_that_compares_them(opened):
    tab = opened("losses")
    lines = tab.locator("#loss .scatterlayer path.js-line")
    # Of each run the line that seven NaN cut into eight, and the one through its 80 medians.
    expect(lines).to_have_count(18)
    strokes = [line.evaluate("node => getComputedStyle(node).stroke") for line in lines.all()]
    assert strokes == [rgb(style.RUNS[0])] * 9 + [rgb(style.RUNS[1])] * 9
    assert count(tab, "#loss .points path") == 14
    assert lines.nth(8).get_attribute("d").count("L") > 70
    assert "first ended lowest" in tab.locator(".verdict").first.inner_text()
    assert tab.locator("#loss").bounding_box()["y"] > tab.locator("#norm-0").bounding_box()["y"]


def test_without_losses_the_page_has_no_place_for_them(opened):
    assert count(opened("two"), "#loss, .compared") == 0


def test_the_chart_of_losses_is_dark_in_the_dark(opened):
    tab = opened("losses", color_scheme="dark")
    expect(tab.locator("#loss .scatterlayer path.js-line").first).to_have_css("stroke", rgb(style.DARK[style.RUNS[0]]))
    expect(tab.locator("#loss .xtick text").first).to_have_css("fill", rgb(style.DARK[style.MUTED]))


def point_at(tab, place, height):
    """Moves the pointer to the middle of a place, at this part of its height."""
    target = tab.locator(place).first
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    for part in (0.49, 0.5):  # a pointer comes from somewhere
        tab.mouse.move(box["x"] + part * box["width"], box["y"] + height * box["height"])


@pytest.mark.parametrize(
    ("chart", "place", "height", "said"),
    [
        ("norm-0", ".plot-container", 0.5, "step 1"),
        ("heat-0", ".plot-container", 0.5, "layers."),
        ("histogram", ".bars .point path", 0.05, "norm"),  # a bar reaches below its axis
    ],
)
def test_pointing_at_a_chart_shows_what_is_there(opened, chart, place, height, said):
    tab = opened("one")
    point_at(tab, f"#{chart} {place}", height)
    expect(tab.locator(f"#{chart} .hoverlayer")).to_contain_text(said)


def test_pointing_at_a_loss_names_its_run(opened):
    tab = opened("losses")
    point_at(tab, "#loss .plot-container", 0.7)
    expect(tab.locator("#loss .hoverlayer")).to_contain_text(re.compile("(first|second): loss "))


def test_tapping_a_chart_on_a_phone_shows_what_is_there(opened):
    tab = opened("one", viewport=PHONE, is_mobile=True, has_touch=True)
    tab.locator("#heat-0 .plot-container").first.tap(position={"x": 200, "y": 100})
    expect(tab.locator("#heat-0 .hoverlayer")).to_contain_text("layers.")
    expect(tab.get_by_text("Tap a chart to read it.")).to_be_visible()


def test_of_100_000_steps_no_more_is_drawn_than_a_screen_can_show(opened, tmp_path):
    """A chart of 1000 pixels shows the lowest and the highest of what falls on each; with the clipped steps, 3000."""
    run = with_losses(run_of(noise(100_000, {54_321}), 5.0), falling(100_000))
    (tmp_path / "long.html").write_text(page([run]), encoding="utf-8")
    tab = opened("long", tmp_path)
    assert "the only spike" in tab.locator(".verdict").inner_text()
    every = (
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data.map(one => (one.x || []).length))"
    )
    drawn = tab.evaluate(every)
    assert 0 < max(drawn) <= 3000, drawn
    assert (tmp_path / "long.html").stat().st_size < 8e6  # of which 5 are the library that draws


@pytest.mark.parametrize("name", ["one", "two", "hostile", "losses"])
def test_on_a_phone_nothing_is_wider_than_the_screen(opened, name):
    tab = opened(name, viewport=PHONE, is_mobile=True, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert tab.evaluate("[...document.querySelectorAll('.chart svg')].every(one => one.clientWidth <= 390)")


def test_in_the_dark_the_page_and_its_charts_change_colours_without_a_reload(opened):
    tab = opened("one", color_scheme="light")
    body, tick = tab.locator("body"), tab.locator("#norm-0 .xtick text").first
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(tick).to_have_css("fill", rgb(style.MUTED))
    tab.emulate_media(color_scheme="dark")
    expect(body).to_have_css("background-color", "rgb(18, 22, 27)")
    expect(tick).to_have_css("fill", rgb(style.DARK[style.MUTED]))
    expect(tab.locator(DRAWN).first).to_have_css("stroke", rgb(style.DARK[style.RUNS[0]]))


def rgb(colour):
    """A colour as a browser writes it."""
    return "rgb({}, {}, {})".format(*bytes.fromhex(colour[1:]))


def test_names_are_shown_and_not_obeyed(opened):
    tab = opened("hostile")
    assert tab.evaluate("window.taken") is None
    assert "<script>window.taken" in tab.locator("body").inner_text()
    assert count(tab, "main a, main img, main script") == 0


def test_a_table_that_is_too_wide_can_be_scrolled_by_keyboard(opened):
    tab = opened("one", viewport=PHONE)
    box = tab.locator(".scroll:visible").first
    box.focus()
    assert box.evaluate("node => document.activeElement === node && node.scrollWidth > node.clientWidth")


def test_a_notebook_draws_a_run_as_often_as_it_is_shown(opened):
    tab = opened("notebook", wait=".plotly-graph-div path.js-line")
    assert count(tab, ".gradclip-run .main-svg") >= 2
    expect(tab.locator(".plotly-graph-div .scatterlayer path.js-line")).to_have_count(4)
    assert "it is a guard" in tab.locator(".verdict").first.inner_text()
