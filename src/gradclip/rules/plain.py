"""Rules as plain data: what a checkpoint, a run file or a configuration holds. `codec` reads it back."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

from gradclip.rules.threshold import Schedule

VERSION = 1


def to_dict(rule: object) -> dict[str, Any]:
    """The rule as dicts, lists, strings and numbers."""
    return {"version": VERSION, **_encode(rule)}


def described(rule: object) -> dict[str, Any]:
    """The rule as plain data to compare it by: as `to_dict`, and a function by its name."""
    encoded: dict[str, Any] = _encode(rule, named=True)
    return encoded


def _encode(value: Any, named: bool = False) -> Any:
    if isinstance(value, Schedule) and value.function is not None and not named:
        raise ValueError("a Schedule made from a function cannot be written: give it points, Schedule((0, 10.0), ...)")
    if is_dataclass(value):
        items = {field.name: _encode(getattr(value, field.name), named) for field in fields(value) if field.init}
        return {
            "type": type(value).__name__,
            **{name: item for name, item in items.items() if name != "function" or item},
        }
    if isinstance(value, tuple):
        return [_encode(item, named) for item in value]
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return str(value) if value in (math.inf, -math.inf) else value  # JSON has no number for them
