"""Thresholds that the script was asked for: options, settings and constants with a name that says so."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping
from numbers import Real
from types import FrameType, SimpleNamespace
from typing import Any

from gradclip.watch.where import owner, shown

NAMED = re.compile(
    r"max_?(grad(ient)?_?)?norm_?|(grad(ient)?_?)?clip_?norm|(.*_)?grad(ient)?_?clip(ping)?(_?(norm|val(ue)?))?"
    r"|(.*_)?clip_?grad(ient)?s?(_?(norm|val(ue)?))?_?",
    re.IGNORECASE,
)


def asked_for(optimizer: Any = None) -> list[dict[str, Any]]:
    """The thresholds in the variables of the user's functions that are being executed, and in settings among them.

    What the optimizer has among its own settings is its own to apply.
    """
    own_settings = set() if optimizer is None else {name for group in optimizer.param_groups for name in group}
    found: dict[str, dict[str, Any]] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not owner(frame.f_code.co_filename):
            for variables in (frame.f_locals, frame.f_globals):
                for name, value in list(variables.items()):
                    for own, number in thresholds(name, value):
                        found.setdefault(
                            own, {"name": own, "value": float(number), "where": shown(frame.f_code.co_filename)}
                        )
        frame = frame.f_back
    return [one for name, one in found.items() if name not in own_settings]


def thresholds(name: str, value: Any) -> list[tuple[str, Real]]:
    """The threshold that a variable is, or those in a namespace, a dataclass or a dict."""
    if is_number(value):
        return [(name, value)] if NAMED.fullmatch(name) else []
    return [(key, one) for key, one in settings(value).items() if is_number(one) and NAMED.fullmatch(str(key))]


def settings(value: Any) -> Mapping[str, Any]:
    """The settings in what scripts keep their options in."""
    if type(value) is dict:
        return value
    if isinstance(value, argparse.Namespace | SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return {}


def is_number(value: Any) -> bool:
    """Whether it is a number above 0, as a threshold is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
