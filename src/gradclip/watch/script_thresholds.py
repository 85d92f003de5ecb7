"""Thresholds that the script has: options, settings and constants with a name that says so."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping
from numbers import Real
from types import FrameType, SimpleNamespace
from typing import Any

from gradclip.watch.call_site import package_of, path_from_here
from gradclip.watch.journal import NORM, VALUE

NAMED = re.compile(
    r"max_?(grad(ient)?_?)?norm_?|(grad(ient)?_?)?clip_?norm|(.*_)?grad(ient)?_?clip(ping)?(_?(norm|val(ue)?))?"
    r"|(.*_)?clip_?grad(ient)?s?(_?(norm|val(ue)?))?_?",
    re.IGNORECASE,
)


LIGHTNING, CLIP = ("lightning", "pytorch_lightning"), "gradient_clip_val"
"""A Trainer of Lightning has the threshold, and hands it to a module that may forget to apply it."""


def thresholds_of_script(optimizer: Any = None) -> list[dict[str, Any]]:
    """The thresholds in the variables of the user's functions that are being executed, and in settings among them.

    What is a setting of the optimizer is left to the optimizer to apply.
    """
    of_optimizer = set() if optimizer is None else {name for group in optimizer.param_groups for name in group}
    found: dict[str, dict[str, Any]] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not package_of(frame.f_code.co_filename):
            for variables in (frame.f_locals, frame.f_globals):
                for name, value in list(variables.items()):
                    for threshold, number in thresholds(name, value):
                        found.setdefault(
                            threshold,
                            {
                                "name": threshold,
                                "value": float(number),
                                "where": path_from_here(frame.f_code.co_filename),
                                "kind": NORM if is_of_norm(threshold, value) else VALUE,
                            },
                        )
        frame = frame.f_back
    return [fact for name, fact in found.items() if name not in of_optimizer]


def unseen_clips(optimizer: Any) -> list[str]:
    """What may clip where it is not seen: inside the step of the optimizer, or inside backward()."""
    groups = optimizer.param_groups
    own = [f"{name}={value:g}" for name, value in groups[0].items() if is_number(value) and NAMED.fullmatch(name)]
    hooked = sum(bool(parameter._backward_hooks) for group in groups for parameter in group["params"])
    found = [f"the optimizer itself (its setting {' and '.join(own)})"] if own else []
    return found + [f"what the script hooked to {hooked} of the parameters"] * bool(hooked)


def is_of_norm(name: str, value: Any) -> bool:
    """Whether the threshold is one for the norm of gradients: it is called so, or a Trainer of Lightning takes it so.

    A bare `max_norm` may be that of weights.
    """
    by_value = getattr(value, "gradient_clip_algorithm", None) == "value"
    called = name.lower()
    of_gradients = "norm" in called and ("grad" in called or "clip" in called)
    return of_gradients or (name == CLIP and type(value).__name__ == "Trainer" and not by_value)


def thresholds(name: str, value: Any) -> list[tuple[str, Real]]:
    """The threshold that a variable is, or those in a namespace, a dataclass or a dict."""
    if is_number(value):
        return [(name, value)] if NAMED.fullmatch(name) else []
    return [(key, number) for key, number in settings(value).items() if is_number(number) and NAMED.fullmatch(str(key))]


def settings(value: Any) -> Mapping[str, Any]:
    """The settings in what scripts keep their options in; a proxy that is asked for its class may raise."""
    if type(value) is dict:
        return value
    if issubclass(type(value), argparse.Namespace | SimpleNamespace):
        found: Mapping[str, Any] = vars(value)
        return found
    if dataclasses.is_dataclass(type(value)):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if type(value).__name__ == "Trainer" and package_of_class(value) in LIGHTNING:
        return {CLIP: getattr(value, CLIP, None)}
    return {}


def package_of_class(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def is_number(value: Any) -> bool:
    """Whether it is a number above 0, as a threshold is."""
    return issubclass(type(value), int | float) and type(value) is not bool and value > 0
