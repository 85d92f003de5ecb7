"""The log of what a script did, which each optimizer reads from its own last step on."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from gradclip.watch.journal import ClipCall, Entry

MOST_ENTRIES = 1000
"""The entries that are kept for an optimizer that does not step."""
MOST_SETS = 16


class EntryLog:
    """The latest entries. A position is a number of entries since the beginning of the process; `end` is the last."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._sets: dict[frozenset[int], frozenset[int]] = {}
        self.end = 0

    @property
    def has_clip(self) -> bool:
        """Whether there is a clip among the entries that are kept."""
        return any(isinstance(entry, ClipCall) for entry in self._entries)

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        self._entries.append(entry)
        self.end += 1

    def since(self, position: int) -> Iterable[Entry]:
        """The entries from a position on, as far as they are still there."""
        return itertools.islice(self._entries, max(0, len(self._entries) - (self.end - position)), None)

    def forget_before(self, position: int) -> None:
        """Drop the entries before a position."""
        while self.end - len(self._entries) < position:
            self._entries.popleft()

    def shared(self, parameters: frozenset[int]) -> frozenset[int]:
        """The same set for the same parameters: a thousand of them are kept once, not at every call."""
        if len(self._sets) > MOST_SETS:
            self._sets.clear()
        return self._sets.setdefault(parameters, parameters)
