"""The memory of a clip in the state of the optimizer that it serves, which Paddle's own checkpoints save and load.

An optimizer of Paddle has no place for it: `state_dict` gives what it keeps of each parameter. What it is given and
does not know it keeps aside, so a memory that was loaded is found there by the first step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import paddle

from gradclip.clipper import Clipper
from gradclip.errors import GradclipWarning
from gradclip.rules.rule import AnyRule, rules_in
from gradclip.step.respond import user_level

KEY = "gradclip"
"""Under which name the memory stands among the tensors of the optimizer."""

BEGINS_ANEW = (
    "the optimizer was loaded from a checkpoint that has no memory of its clip, so what {rule!r} needs of earlier "
    "steps begins anew: give every Model.fit callbacks=[gradclip.paddle.ModelCallback()], the first one too, or "
    "save clip.state_dict() beside the state of the optimizer, and call clip.load_state_dict"
)
ANOTHER = "{error}; to begin anew take {key!r} out of the state of the optimizer (the file .pdopt)"


class Remembers(Protocol):
    """What has a memory: a clip."""

    clipper: Clipper

    @property
    def rule(self) -> AnyRule: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def keep_in_state(optimizer: paddle.optimizer.Optimizer, clip: Remembers) -> None:
    """From now on `optimizer.state_dict()` has the memory of `clip`, and `set_state_dict` gives it back.

    It is set on this optimizer alone, not on its class. A clip that was not called yet has nothing to keep.
    """
    if isinstance(vars(optimizer).get("state_dict"), partial):
        return
    give = partial(_with_memory, optimizer.state_dict, clip)
    take = partial(_set_with_memory, optimizer.set_state_dict, clip)
    optimizer.state_dict, optimizer.set_state_dict, optimizer.set_dict = give, take, take


def take_up(optimizer: paddle.optimizer.Optimizer, clip: Remembers) -> None:
    """Give `clip`, before its first step, the memory in the state that `optimizer` was loaded with.

    Where it was loaded with a state that has none, a rule that needs earlier steps says that it begins anew.
    """
    held = getattr(optimizer, "_accumulators_holder", None)
    if not held:
        return
    if KEY in held:
        _load(clip, held.pop(KEY))
    elif needs_earlier_steps(clip):
        warnings.warn(BEGINS_ANEW.format(rule=clip.rule), GradclipWarning, stacklevel=user_level())


def needs_earlier_steps(clip: Remembers) -> bool:
    """Whether what the rule does depends on more than the gradients of the step."""
    line = clip.clipper.line
    return bool(line.remembered) or line.carries or any(rule.threshold.reads_step for rule in rules_in(clip.rule))


def _with_memory(state_of: Callable[[], dict[str, Any]], clip: Remembers) -> dict[str, Any]:
    state = state_of()
    return {**state, KEY: _with_carried(clip.state_dict(), paddle.Tensor.numpy)} if clip.clipper.step else state


def _set_with_memory(set_state: Callable[[dict[str, Any]], None], clip: Remembers, state: Mapping[str, Any]) -> None:
    given = dict(state)
    saved = given.pop(KEY, None)
    set_state(given)
    if saved is not None:
        _load(clip, saved)
    elif given and needs_earlier_steps(clip):
        warnings.warn(BEGINS_ANEW.format(rule=clip.rule), GradclipWarning, stacklevel=user_level())


def _load(clip: Remembers, saved: Any) -> None:
    try:
        clip.load_state_dict(_with_carried(saved, paddle.to_tensor))
    except ValueError as error:
        raise ValueError(ANOTHER.format(error=error, key=KEY)) from None


def _with_carried(state: Any, turned: Callable[[Any], Any]) -> Any:
    """`state` with what a rule carries over turned into another kind of array.

    It is saved as arrays of NumPy: `paddle.save` writes a dict with tensors further inside in another form, in which
    `Model.load` finds none of those of the optimizer.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("carried"), Mapping):
        return state
    return {**state, "carried": {name: turned(array) for name, array in state["carried"].items()}}
