"""Which step makes the update, where the step of a class calls that of its base."""

from __future__ import annotations

import dis
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

from torch.optim import Optimizer

from gradclip.errors import GradclipWarning
from gradclip.step.respond import user_level

HOOKED = "wrapper"
"""The function that PyTorch puts around a step to run its hooks; there `func` is what it calls."""
DEEPEST = 6
"""Calls between the step of a class and that of its base."""
NAMES = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_ATTR")
BETWEEN = 6
"""Instructions between the name `super` and that of the method."""


class UpdateStep:
    """The step of an optimizer on whose gradients the update is made: of the first class whose step calls no base's.

    What comes before it, in steps that call it, may make the gradients, change them, or wait for more of them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        kind = type(optimizer)
        self._single = len(stepping(kind)) < 2
        self._class = class_of_update(kind)
        self.delegates = calls_its_base(kind)
        if self.delegates:
            hook(self._class)
        self._outer, self._update = _under_hooks(kind.step), _under_hooks(self._class.step)
        self._reached = False
        self._before: list[int] = []

    def is_this(self, optimizer: Optimizer) -> bool:
        """Whether the step whose hooks run is the one that makes the update."""
        if self._single:
            return True
        if not self.delegates:
            return not is_nested(optimizer)
        running = _running()
        if running is self._outer:
            self._reached, self._before = False, _versions(optimizer)
        self._reached |= running is self._update
        return running is self._update

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hook after a step: one that made an update without its base is said, and clipped before from then on."""
        if not self.delegates or _running() is not self._outer or self._reached:
            return
        if self._before != _versions(optimizer):
            self.delegates = False
            said = (
                f"{type(optimizer).__name__} has changed parameters in a step that did not call the step of "
                f"{self._class.__name__}, so this update was not clipped; from now on its gradients are clipped before "
                "its own step"
            )
            warnings.warn(said, GradclipWarning, stacklevel=user_level())


def stepping(kind: type) -> list[type]:
    """The classes that have a step of their own, the first one first; PyTorch gives others the hooked one of a base."""
    found: dict[Any, type] = {}
    for one in kind.__mro__:
        if "step" in vars(one):
            found.setdefault(_innermost(vars(one)["step"]), one)
    return [one for step, one in found.items() if step is not _innermost(Optimizer.step)]


def class_of_update(kind: type) -> Any:
    """The first of the classes whose step does not call that of the next."""
    classes = stepping(kind) or [kind]
    for place, one in enumerate(classes[:-1]):
        bases = {"super", *(base.__name__ for base in classes[place + 1 :])}
        if not any(calls(code, bases) for code in codes_of(vars(one)["step"])):
            return one
    return classes[-1]


@lru_cache(maxsize=64)
def updates_as(kind: Any, base: Any) -> bool:
    """Whether the update of a class is made by the step of `base`."""
    return _innermost(class_of_update(kind).step) is _innermost(base.step)


def calls_its_base(kind: type) -> bool:
    """Whether the step of a class calls that of a base, which makes the update."""
    return class_of_update(kind) is not (stepping(kind) or [kind])[0]


def _innermost(function: Any) -> Any:
    """The function under all that is wrapped round it."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def codes_of(function: Any) -> Iterator[CodeType]:
    """The code of a function, under all that is wrapped round it, and that of the functions which it makes."""
    function = _innermost(function)
    waiting = [function.__code__] if hasattr(function, "__code__") else []
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]


def calls(code: CodeType, owners: set[str]) -> bool:
    """Whether the code takes the method `step` of one of these names: `super().step`, or `Base.step`."""
    seen: list[dis.Instruction] = []
    for one in dis.get_instructions(code):
        if one.argval == "step" and one.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            names = {before.argval for before in seen[-BETWEEN:] if before.opname in NAMES}
            if one.opname == "LOAD_SUPER_ATTR" or owners & names:
                return True
        ends = one.opname.startswith(("STORE", "POP", "LOAD_ATTR", "LOAD_METHOD"))
        seen = [one] if ends else [*seen, one]
    return False


def hook(kind: type) -> None:
    """Put PyTorch's hooks around the step of a class, as it does when an optimizer of just this class is made."""
    step = vars(kind)["step"]
    if not getattr(step, "hooked", False):
        hooked: Any = Optimizer.profile_hook_step(step)
        hooked.hooked = True
        kind.step = hooked  # type: ignore[attr-defined]  # the class has one, see `stepping`


def is_nested(optimizer: Optimizer) -> bool:
    """Whether the step whose hooks run was called by another step of the same optimizer, whose hooks have run."""
    hooked = frame = _hooked_frame()
    depth = 0
    while frame is not None and depth < DEEPEST:
        frame, depth = frame.f_back, depth + 1
        if frame is not None and frame.f_code is hooked.f_code:
            arguments = frame.f_locals.get("args", ())
            return bool(arguments) and arguments[0] is optimizer
    return False


def _running() -> Callable[..., Any] | None:
    """The step whose hooks run."""
    frame = _hooked_frame()
    return None if frame is None else frame.f_locals.get("func")


def _hooked_frame() -> Any:
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != HOOKED:
        frame = frame.f_back
    return frame


def _under_hooks(step: Any) -> Any:
    return step.__wrapped__ if getattr(step, "hooked", False) else step


def _versions(optimizer: Optimizer) -> list[int]:
    """How often each parameter was written."""
    return [0 if p.is_inference() else p._version for group in optimizer.param_groups for p in group["params"]]
