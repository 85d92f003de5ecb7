"""From a run that was watched to what is wrong with its clipping."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gradclip.advice.past import ALWAYS as ALWAYS_CLIPPED
from gradclip.advice.past import normalises
from gradclip.doctor.diseases import ALWAYS, DISEASES, NEVER, NONFINITE, OTHER_OPTIMIZER, UNREACHED
from gradclip.telemetry.runs import Run, folders_of, read_run
from gradclip.watch.journal import ABOVE, CALLS, OVERFLOW, SCRIPT

ENOUGH = 200
"""The steps below which nothing is said of how often a threshold acts."""
FAR_BELOW = 0.1
"""A threshold never acts if the largest norm is below this share of it: a guard that is merely not needed is right."""
RARE = 0.2
"""A call that is wrong in fewer of the steps has a reason there: a step that the script left out, an evaluation."""
MOST_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, a sentence, the line of the call, the first step and how many of how many."""

    disease: str
    sentence: str
    cure: str
    where: str
    since: int
    steps: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


class Watched(NamedTuple):
    """The run of one optimizer, and the lines of its `calls.jsonl` with the number of steps that each holds for."""

    run: Run
    calls: list[tuple[dict[str, Any], int]]

    @property
    def script(self) -> Mapping[str, Any]:
        """What is known of the script."""
        return dict(self.run.about.get(SCRIPT, {}))

    @property
    def clips(self) -> bool:
        """Whether anything clipped in at least half of the steps."""
        return 2 * sum(steps for line, steps in self.calls if line["calls"]) >= max(1, len(self.run))


def diagnose(folder: str | os.PathLike[str]) -> list[Finding]:
    """What is wrong with the clipping of the run in `folder`, which `gradclip watch` or telemetry recorded.

    A run of telemetry has the numbers only, so of it only what the numbers tell is found. Raises `FileNotFoundError`
    where there is no run.
    """
    every = [watched(place) for place in folders_of(folder)]
    found = [finding for one in every for finding in (*of_calls(one), *of_numbers(one), *of_asked(one, every))]
    return [*found, *of_optimizers(every)]


def watched(folder: Path) -> Watched:
    """The run of one optimizer."""
    run, file = read_run(folder), folder / CALLS
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    ends = [*(line["step"] for line in lines[1:]), run[-1].step + 1 if run else 0][: len(lines)]
    return Watched(run, [(line, end - line["step"]) for line, end in zip(lines, ends, strict=True)])


def of_calls(one: Watched) -> Iterator[Finding]:
    """What the calls of a script show, each disease and line once; what is seen in few steps has a reason there."""
    seen: dict[tuple[str, str, str], list[tuple[dict[str, Any], int]]] = {}
    for line, steps in one.calls:
        for flaw in line["flaws"]:
            seen.setdefault(tuple(flaw), []).append((line, steps))
    for (name, where, by), lines in seen.items():
        missing, steps = listed(lines[0][0]["missing"]), sum(steps for _, steps in lines)
        if name == OVERFLOW or steps >= RARE * len(one.run):
            yield finding(name, where, lines[0][0]["step"], steps, len(one.run), by=by, missing=missing)


def of_numbers(one: Watched) -> Iterator[Finding]:
    """What the numbers of a run show: thresholds without effect and with too much, and steps on what is not finite."""
    taken = [event for event in one.run if not event.skipped]
    place = line_in(one.calls[-1][0]["calls"][-1]) if one.calls and one.calls[-1][0]["calls"] else ""
    if bad := [event for event in taken if event.nonfinite]:
        offenders = listed([name for event in bad for name in event.offenders])
        yield finding(NONFINITE, place, bad[0].step, len(bad), len(one.run), offenders=offenders)
    held = [e for e in taken if math.isfinite(e.norm_before) and math.isfinite(e.threshold) and e.norm_before > 0.0]
    if len(held) < ENOUGH:
        return
    late, largest = held[len(held) // 2 :], max(event.norm_before for event in held)
    rate = sum(event.clipped for event in late) / len(late)
    if rate >= ALWAYS_CLIPPED:
        cut = [event for event in held if event.clipped]
        facts = {"rate": rate, "median": median(event.norm_before for event in late), **told_of(one.run.about)}
        yield finding(ALWAYS, place, cut[0].step, len(cut), len(one.run), **facts)
    if largest < FAR_BELOW * min(event.threshold for event in held):
        yield finding(UNREACHED, place, held[0].step, len(held), len(one.run), largest=largest)


def told_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What a threshold that always acts means: a learning rate, but not to optimizers that divide by the gradient."""
    if normalises(about):
        return {"means": "so every batch counts alike, however large its gradient", "rates": ""}
    return {"means": "so it is a hidden learning rate, not a guard", "rates": " and lower the learning rate"}


def of_asked(one: Watched, every: list[Watched]) -> Iterator[Finding]:
    """A threshold that the script has and nothing applies, to any optimizer, though an element exceeded it."""
    if any(line["calls"] or line["flaws"] for other in every for line, _ in other.calls):
        return
    for asked in one.script.get("asked", ()):
        above = [(line["step"], steps) for line, steps in one.calls if asked["name"] in line.get("unclipped", ())]
        if above:
            steps = sum(steps for _, steps in above)
            yield finding(
                NEVER, asked["where"], above[0][0], steps, len(one.run), option=asked["name"], value=asked["value"]
            )


def of_optimizers(every: list[Watched]) -> Iterator[Finding]:
    """An optimizer that nothing clips beside one that something does, and whose norms exceed the threshold there."""
    clipped = [one for one in every if one.clips]
    place = next((call for one in clipped for line, _ in one.calls for call in line["calls"]), "")
    for one in every:
        beside = [other for other in clipped if together(one.run, other.run)]
        limit = min((event.threshold for other in beside for event in other.run), default=math.inf)
        above = [event for event in one.run if event.norm_before > ABOVE * limit]
        silent = one.calls and not any(line["calls"] or line["flaws"] or line.get("measured") for line, _ in one.calls)
        shapes = one.run.about.get("parameters", {})
        if above and silent and sum(map(math.prod, shapes.values())) > 1:
            facts = {
                "optimizer": f"the {one.run.about.get('optimizer', 'optimizer')} that holds {listed(list(shapes))}",
                "optimizers": len(every),
                "largest": max(event.norm_before for event in above),
            }
            yield finding(OTHER_OPTIMIZER, line_in(place), above[0].step, len(above), len(one.run), **facts)


def together(one: Run, other: Run) -> bool:
    """Whether two optimizers train at the same time: their steps overlap, and are not far fewer of one."""
    if not one or not other:
        return False
    overlap = one[0].time <= other[-1].time and other[0].time <= one[-1].time
    return overlap and 2 * len(one) >= len(other)


def line_in(call: str) -> str:
    """The line of a call, from its sentence; nothing for the rule of an optimizer, which is called nowhere."""
    _, found, place = call.rpartition(" at ")
    return place.partition(" by ")[0] if found else ""


def finding(name: str, where: str, since: int, steps: int, of: int, **facts: Any) -> Finding:
    """The finding of a disease, with the facts in its words."""
    disease = DISEASES[name]
    return Finding(name, disease.wrong.format(**facts), disease.cure.format(**facts), where, since, steps, of)


def listed(names: list[str]) -> str:
    """Some names, and how many more there are."""
    known = list(dict.fromkeys(names))
    more = len(known) - MOST_NAMED
    return ", ".join(known[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
