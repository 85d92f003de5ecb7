"""Policies: what a segment with a non-finite element gets, `on_nonfinite=` by name. All that asks for them is here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from gradclip.errors import shown
from gradclip.rules.response import KEEP, RAISE, SKIP, ZERO

PolicyName: TypeAlias = Literal["keep", "skip", "zero", "raise"]
"""What `on_nonfinite=` may be, for type checkers."""


@dataclass(frozen=True)
class Policy:
    """The `coefficient` and the `action` for a segment that holds a non-finite element."""

    name: str
    coefficient: float
    action: int

    @cached_property
    def skips(self) -> bool:
        """Whether the optimizer does not step."""
        return self.action == SKIP

    @cached_property
    def raises(self) -> bool:
        return self.action == RAISE

    @cached_property
    def stops(self) -> bool:
        """Whether one element speaks for the whole tensor: the step is skipped or raises, and nothing is written."""
        return self.skips or self.raises

    @cached_property
    def writes_zeros(self) -> bool:
        return self.action == ZERO

    @cached_property
    def warns(self) -> bool:
        """Whether the names are said once, since the elements stay."""
        return self.action == KEEP


KEEPS = Policy("keep", 1.0, KEEP)
EVERY = (KEEPS, Policy("skip", 0.0, SKIP), Policy("zero", 0.0, ZERO), Policy("raise", 0.0, RAISE))
POLICIES = {policy.name: policy for policy in EVERY}


def checked_skip_limit(skips: int | None) -> int | None:
    """How many steps in a row may be skipped, or the error that says what it may be."""
    if skips is not None and not (type(skips) is int and skips >= 0):
        raise ValueError(f"max_consecutive_skips is a whole number from 0 or None, got {shown(skips)}")
    return skips


def policy_of(name: object) -> Policy:
    """The policy of this name, or the error that lists them."""
    if not isinstance(name, str) or name not in POLICIES:
        raise ValueError(f"on_nonfinite is one of {', '.join(map(repr, POLICIES))}, got {shown(name)}")
    return POLICIES[name]
