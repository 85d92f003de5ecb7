"""The report in a terminal: the order of the page, with bars and lines of Unicode blocks."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from statistics import median_low

from gradclip.report.bins import counts, log_edges
from gradclip.report.downsampling import buckets
from gradclip.report.loss_ranking import compare_losses
from gradclip.report.summary import HOW_TO_TENSORS, Summary
from gradclip.report.tiles import facts_of, tiles_of
from gradclip.report.what_if import CANNOT_KNOW
from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import SPACE, known, percent, short, shortened, times
from gradclip.verdict.judge import BAD, GOOD, LOOK, Verdict
from gradclip.verdict.losses import losses_of
from gradclip.verdict.numbers import acted, broken

BLOCKS = " ▁▂▃▄▅▆▇█"
PAGE, WIDTH, BAR, BINS, LAYERS, NAME = 100, 72, 40, 12, 16, 32
COLOURS = {GOOD: "32", LOOK: "33", BAD: "31"}


def text(summaries: Sequence[Summary], colours: bool = False) -> str:
    """The report on the runs as lines of text, with colours of a terminal if asked for."""
    comparison = compare_losses(summaries)
    parts = ["\n".join(lines_of(summary, colours)) for summary in summaries]
    return "\n\n\n".join([coloured_sentence(comparison, colours), *parts] if comparison else parts)


def coloured_sentence(verdict: Verdict, colours: bool) -> str:
    """The sentence of a verdict, in its colour if asked for."""
    sentence = plain(verdict.sentence)
    return f"\033[1;{COLOURS[verdict.level]}m{sentence}\033[0m" if colours else sentence


def in_colour() -> bool:
    """Whether standard output is a terminal that knows colours; NO_COLOR turns them off, FORCE_COLOR on."""
    if os.environ.get("NO_COLOR") or os.environ.get("FORCE_COLOR"):
        return not os.environ.get("NO_COLOR")
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def lines_of(summary: Summary, colours: bool) -> Iterator[str]:
    """The lines about one run."""
    facts = facts_of(summary)
    yield plain(named(summary))
    yield coloured_sentence(summary.verdict, colours)
    yield from (plain(line) for line in (summary.rule, facts) if line)
    yield ""
    yield from columns([(tile.label, tile.value, tile.remark) for tile in tiles_of(summary)])
    if summary.numbers.largest > 0:
        yield from titled(
            "Norm over the steps, the largest of each few, on a logarithmic scale", over_time(summary.run)
        )
        yield from titled("Loss over the steps, the median of each few", loss_over_time(summary.run))
    yield from titled("How many steps have which norm", histogram(summary))
    yield from titled("Layers over time, each line from its smallest norm to its largest", layers(summary))
    yield from titled("Worst steps", worst_steps(summary))
    yield from titled("Worst parameters", worst_parameters(summary))
    yield from titled("What if", what_if(summary))


def named(summary: Summary) -> str:
    """The name of a run, and its optimizer if that is known."""
    return f"{summary.name}, {summary.run.optimizer}" if "optimizer" in summary.run.about else summary.name


def titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    """The lines under a title, set off by an empty line; nothing where there are none."""
    found = list(lines)
    if found:
        yield from ("", title, *(f"  {line}".rstrip() for line in found))


def over_time(run: Sequence[Event]) -> Iterator[str]:
    """A line of blocks for the norms, and below it where something was clipped, or broken."""
    parts = [[run[place] for place in bucket] for bucket in buckets(len(run), WIDTH)]
    tops = [max((event.norm_before for event in part if not broken(event)), default=math.nan) for part in parts]
    yield sparkline(tops)
    yield "".join("x" if any(map(broken, part)) else "·" if any(map(acted, part)) else " " for part in parts)
    finite = [top for top in tops if top > 0]
    yield f"from {short(min(finite))} to {short(max(finite))}; · clipped or skipped, x NaN or infinity"


def loss_over_time(run: Sequence[Event]) -> Iterator[str]:
    """A line of blocks for the losses, and below it where one was not finite; nothing where none is finite."""
    losses = losses_of(run)
    parts = [[losses[place] for place in bucket] for bucket in buckets(len(losses), WIDTH)]
    finite = [[loss for loss in part if math.isfinite(loss)] for part in parts]
    medians = [median_low(known) if known else None for known in finite]
    known = [middle for middle in medians if middle is not None]
    if known:
        yield blocks(medians)
        yield "".join("x" if len(kept) < len(part) else " " for kept, part in zip(finite, parts, strict=True))
        yield f"from {short(min(known))} to {short(max(known))}; x NaN or infinity"


def sparkline(values: Sequence[float]) -> str:
    """A block for each value above 0, as high as its logarithm; an empty place for any other.

    >>> sparkline([1.0, 10.0, 100.0, float("nan")])
    '▁▄█ '
    """
    return blocks([math.log10(value) if 0 < value < math.inf else None for value in values])


def blocks(heights: Sequence[float | None]) -> str:
    """A block for each height, from the lowest to the highest; an empty place where there is none."""
    known = [height for height in heights if height is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    width = max(high - low, 1e-9)
    return "".join(" " if height is None else BLOCKS[1 + int((height - low) / width * 7)] for height in heights)


def histogram(summary: Summary) -> Iterator[str]:
    """A bar for each bin of norms, and whether it lies below the threshold or above it."""
    norms = [event.norm_before for event in summary.run]
    edges = log_edges(norms, BINS)
    found, limits = counts(norms, edges), summary.numbers.thresholds
    limit = limits[1] if limits and summary.numbers.global_threshold else math.inf
    for number, low, high in zip(found, edges, edges[1:], strict=False):
        mark = " <- threshold" if 10**low <= limit < 10**high else ""
        bar = "█" * math.ceil(BAR * number / max(found))
        yield f"{short(10**low):>8} to {short(10**high):<8} {bar:<{BAR}} {number:,}{mark}"


def layers(summary: Summary) -> Iterator[str]:
    """A line of blocks for each layer, the strongest ones where there are many."""
    heat = summary.heat
    if heat is None:
        yield HOW_TO_TENSORS
        return
    tops = {row: max((n for n in norms if not math.isnan(n)), default=0.0) for row, norms in enumerate(heat.norms)}
    for row in sorted(sorted(tops, key=lambda row: -tops[row])[:LAYERS]):
        cells = [heat.norms[row][bucket.start : bucket.stop] for bucket in buckets(len(heat.spans), BAR)]
        peaks = [max((norm for norm in cell if not math.isnan(norm)), default=math.nan) for cell in cells]
        yield f"{plain(shortened(heat.rows[row], NAME)):<{NAME}} {sparkline(peaks)} up to {short(tops[row])}"


def worst_steps(summary: Summary) -> Iterator[str]:
    rows = [
        (
            f"{worst.step}",
            short(worst.norm_before),
            ratio(worst.ratio),
            worst.outcome,
            plain(shortened(", ".join(worst.tensors), NAME)),
        )
        for worst in summary.worst_steps
    ]
    return columns([("step", "norm", "x usual", "what became of it", "tensor"), *rows]) if rows else iter(())


def worst_parameters(summary: Summary) -> Iterator[str]:
    rows = [
        (
            plain(shortened(worst.name, NAME)),
            known(worst.largest),
            "" if worst.at_step is None else str(worst.at_step),
            known(worst.median),
            str(worst.nonfinite),
        )
        for worst in summary.worst_parameters
    ]
    heading = ("parameter", "largest norm", "at step", "median", "non-finite steps")
    return columns([heading, *rows]) if rows else iter(())


def what_if(summary: Summary) -> Iterator[str]:
    """The rules that were replayed, and what a replay cannot know."""
    found = summary.what_if
    if found is None:
        return
    rows = [
        (row.words, row.rule or "", percent(row.clip_rate), percent(row.kept), short(row.largest)) for row in found.rows
    ]
    yield from columns([("threshold or rule", "to write it", "clip rate", "norm kept", "largest let through"), *rows])
    yield from textwrap.wrap(f"{found.note}{CANNOT_KNOW}", PAGE)


def columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """The rows as a table, with every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def ratio(value: float) -> str:
    return "" if math.isnan(value) else times(value)


def plain(words: str) -> str:
    """The words without what a terminal would obey: names may hold control characters."""
    return "".join(letter if letter.isprintable() or letter == SPACE else "?" for letter in words)
