"""The other processes that train together with this one: what they told of a step, and what it tells them."""

from __future__ import annotations

import sys
import time

from gradclip.telemetry.event import Event
from gradclip.watch.joining import Place, joined, of_all, share_of, tellers_in
from gradclip.watch.journal import Flaw
from gradclip.watch.ranks_compared import flaws_across
from gradclip.watch.shares import ShareReader, ShareWriter, StepShare
from gradclip.watch.step_events import WatchedStep, made_before

LATE, STEPS_LATE, MOST_WAITING = 30.0, 3, 10_000
"""A process that has not told of a step within so many seconds, while others made so many steps, is not waited for any
more; nor is any where so many steps wait."""
MOST, LONGEST = 50, 1.0
"""How many steps are told together, and how many seconds one may wait."""


class Others:
    """What the process that writes the run hears of the others; of none without a `reader`."""

    def __init__(self, place: Place, reader: ShareReader | None = None) -> None:
        self._place, self._reader = place, reader
        self._asked: tuple[int, float] = (-1, 0.0)
        self._flaws: list[Flaw] = []

    def may_tell(self, step: WatchedStep, waiting: int) -> bool:
        """Whether others have still to tell of a step, behind which so many wait."""
        if self._reader is None:
            return False
        missing = self._reader.waiting_for(step.number, None if step.compares else tellers_in(step))
        if missing and self._are_late(step.number, waiting):
            self._reader.lost |= missing
            ranks = ", ".join(map(str, sorted(missing)))
            print(
                f"gradclip watch: rank {ranks} tells nothing of step {step.number}, nor is waited for", file=sys.stderr
            )
            return False
        return bool(missing)

    def joined(self, step: WatchedStep) -> WatchedStep:
        """The step with the norms of whole gradients, as far as they are known."""
        if self._reader is None:
            return joined(step, self._place, {}, {})
        return joined(step, self._place, self._reader.of(step.number), self._reader.layouts)

    def event_of_all(self, event: Event, step: WatchedStep) -> Event:
        """The event of a rule, of what all processes have."""
        shares = {} if self._reader is None else self._reader.of(step.number)
        return of_all(event, self.joined(step), [called for share in shares.values() for called in share.calls])

    def flaws(self, step: WatchedStep) -> list[Flaw]:
        """What is wrong with a step as all processes together show it; then nothing more is needed of it.

        Where they are not compared, what was wrong the last time still is, as far as the step has the same lines.
        """
        if self._reader is None:
            return []
        shares, layouts = self._reader.of(step.number), self._reader.layouts
        if step.compares and shares.keys() == self._reader.others <= layouts.keys():
            mine, ranks = share_of(step, self._place), sorted(shares)
            self._flaws = flaws_across(
                [mine, *(shares[rank] for rank in ranks)],
                [self._place.layout, *(layouts[rank] for rank in ranks)],
                all(sharded for *_, sharded in self._place.layout.parameters),
                step.where,
            )
        self._reader.forget(step.number)
        lines = {step.where, *(one.clip.where for one in step.examined.applied)}
        return [flaw for flaw in self._flaws if flaw.where in lines]

    def _are_late(self, step: int, waiting: int) -> bool:
        if self._asked[0] != step:
            self._asked = step, time.monotonic()
        late = time.monotonic() - self._asked[1] > LATE and waiting > STEPS_LATE
        return late or waiting > MOST_WAITING


class Teller:
    """Tells the process that writes the run what this one has measured."""

    def __init__(self, place: Place, writer: ShareWriter) -> None:
        self._place, self._writer = place, writer
        self._pending: list[WatchedStep] = []
        self.saw_own_code = False

    def add_step(self, step: WatchedStep | None) -> None:
        """Add a step, or none, and tell of those that wait if they are many, or the first waits for too long."""
        if step is not None:
            self._pending.append(step)
        if not self._pending:
            return
        first = self._pending[0]
        if len(self._pending) >= MOST or time.time() - first.time >= LONGEST or not first.number:
            self.drain()

    def drain(self) -> None:
        """Tell of the steps that wait."""
        pending, self._pending = self._pending, []
        self._writer.write(self._place.layout, [self._share(step) for step in pending])

    def close(self) -> None:
        """Tell of what is left."""
        self.drain()
        self._writer.close()

    def _share(self, step: WatchedStep) -> StepShare:
        self.saw_own_code = self.saw_own_code or bool(made_before(step, step.rest.read(float(step.divisor))))
        return share_of(step, self._place)
