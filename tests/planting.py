"""Planted bugs: what each replaces, and that a test which is green without it is red with it."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis.internal.conjecture import engine

import gradclip

RED = (AssertionError, pytest.fail.Exception, gradclip.GradclipWarning)


class Plant(NamedTuple):
    """A bug: `name` of `target` replaced by `bug`, on which `oracle(*arguments)` must be red."""

    what: str
    oracle: Any
    arguments: tuple[Any, ...]
    target: Any
    name: str
    bug: Any
    red: Any = RED

    def check(self) -> None:
        """The oracle is green, and with the bug red."""
        self.oracle(*self.arguments)
        with mock.patch.object(self.target, self.name, self.bug), unshrunk(), pytest.raises(self.red):
            self.oracle(*self.arguments)


def nothing(*arguments: Any, **options: Any) -> None:
    return None


def unshrunk() -> Any:
    """A context in which hypothesis does not look for the smallest example: that one is red is enough here."""
    return mock.patch.object(engine, "MAX_SHRINKS", 0)
