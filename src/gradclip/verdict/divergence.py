"""Whether training diverged, which the loss alone says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import short
from gradclip.verdict.losses import losses_of, part_of

IN_A_ROW = 10
"""A batch may have a loss that is not finite (an empty one, an impossible alignment), and training goes on. So many in
a row at the end are no accident: where every fifth batch were so, it would happen once in ten million runs."""

END = 20
"""The loss ended as those of its last tenth, of 20 at least: a few that are high say little."""

EXPLOSION = 1e3
"""How many times above the first, and above the usual one, the last loss of an explosion is."""

FAR = 10.0
"""How many times above its beginning a loss has diverged. That of a GAN's generator, of a term whose weight grows or of
a task that gets harder ends at up to some times what it was."""


def diverged(run: Sequence[Event]) -> str | None:
    """The sentence that says so, where the loss is not finite at the end or ended far above where it began, else None.

    Where the first losses are 0, nothing is far above them.
    """
    losses, steps = losses_of(run), [event.step for event in run if event.loss is not None]
    ended = next((place for place in range(len(losses), 0, -1) if math.isfinite(losses[place - 1])), 0)
    if len(losses) - ended >= IN_A_ROW:
        return f"Training diverged: from step {steps[ended]:,} to the end the loss is not finite."
    finite = [loss for loss in losses if math.isfinite(loss)]
    return rose(finite) or exploded(finite)


def exploded(losses: Sequence[float]) -> str | None:
    """The sentence for losses that ended by growing a thousandfold and more, as of a script that ends itself then.

    One such loss may be that of a bad batch; where the one before lies far above the first, too, it is none.
    """
    if len(losses) < 3 or losses[0] <= 0.0:
        return None
    before, last = losses[-2:]
    usual = max(losses[0], median(losses))
    if not (usual * FAR < before < last and usual * EXPLOSION < last):
        return None
    ended = f"its last two are {short(before)} and {short(last)}"
    return f"Training diverged: the loss began at {short(losses[0])}, and {ended}."


def rose(losses: Sequence[float]) -> str | None:
    """The sentence for finite losses of which all at the end are far above the first, which no step had touched.

    Noise that does not change is no rise, however wide: the first lies farther below the end than the end is wide, as
    its smallest loss is to the largest. And the first is no batch that is easier than all others: the second, which a
    bad first step may have raised, lies below the end, too.
    """
    if len(losses) < 2 * END:
        return None
    began, last = abs(losses[0]), losses[-max(END, part_of(losses)) :]
    low = min(last)
    if not 0 < began * FAR < low or losses[1] >= low or low / began < max(last) / low:
        return None
    return (
        f"Unless this loss is meant to rise, training diverged: it began at {short(losses[0])} and ended at "
        f"{short(fmean(last))}, over its last {len(last):,} steps never below {short(low)}."
    )
