"""The door of Stable-Baselines3: `model.learn(100_000, callback=gradclip.stable_baselines3.Clip(rule))`."""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections.abc import Mapping
from types import FrameType
from typing import Any, Unpack

from gradclip.errors import GradclipWarning, needing
from gradclip.rules.rule import AnyRule
from gradclip.step.respond import user_level
from gradclip.telemetry import Telemetry

with needing("gradclip.stable_baselines3", "stable-baselines3", "torch", "stable_baselines3"):
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from gradclip.torch.attached import OfTheClip
    from gradclip.torch.eager import eager
    from gradclip.torch.late import LateClippers

__all__ = ["Clip"]

PLACE = "clip_memory"
"""The attribute of a model that has the memory: Stable-Baselines3 saves every attribute."""

OPTIMIZERS = {
    "policy": "policy.optimizer",
    "actor": "actor.optimizer",
    "critic": "critic.optimizer",
    "ent_coef": "ent_coef_optimizer",
}
"""Where the algorithms keep their optimizers; none has all of them."""

UNCLIPPED = (
    "this {model} was trained with clipping by {words!r}, and now it trains without: "
    "model.learn(..., callback=gradclip.stable_baselines3.Clip(rule)) goes on with what it remembers, and "
    "`del model.clip_memory` says that no clipping is meant (said once)"
)


class Clip(LateClippers, BaseCallback):
    """Clip the gradients of each optimizer of the model by `rule` before it steps, for as long as `learn` runs.

    Each optimizer has a norm and a memory of its own, by its name: "policy" of PPO, A2C and DQN; "actor", "critic" and
    "ent_coef" of SAC, TD3 and DDPG. `model.save` saves the memory in `model.clip_memory`, and after `load` a `learn`
    with this callback goes on with it; one without it warns once. At the beginning of each rollout the logger gets
    what the last step did: `grad_norm` (before clipping), `grad_norm_clipped`, `clip/threshold`, `clip/scale`,
    `clip/rate`, `clip/nonfinite` and `clip/skipped`, and with `layers=5` the five largest `grad_norm/NAME`; of several
    optimizers with their names in front, as `critic/grad_norm`. `telemetry` and the
    other options: `gradclip.attach`.

    Raises `ValueError` at the beginning of `learn` beside the model's own `max_grad_norm`, which would clip first:
    write `max_grad_norm=float("inf")`; and where the model remembers another rule.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, max_grad_norm=float("inf"), device="cpu")
    >>> model = model.learn(64, callback=Clip(ClipGradByGlobalNorm(0.5)))
    """

    def __init__(
        self, rule: AnyRule, *, layers: int = 0, telemetry: Telemetry | None = None, **options: Unpack[OfTheClip]
    ) -> None:
        BaseCallback.__init__(self)
        LateClippers.__init__(self, rule, layers=layers, telemetry=telemetry, **options)

    def _on_training_start(self) -> None:
        """Attach to the optimizers, with what the model remembers."""
        refuse_own_limit(self.model, self.rule)
        before = vars(self.model).get(PLACE)
        if before is not None:
            before.wait()
        self.attach_to(optimizers_of(self.model), self.model.policy)
        if before is not None and before.is_of(self):
            before.heard()  # the memory is here, and a rule that was changed since keeps what fits
        elif before is not None:
            self._take_up(before)
        setattr(self.model, PLACE, ClipMemory(self))

    def _take_up(self, before: ClipMemory) -> None:
        """Go on with what the model remembers, which is heard of in this way."""
        try:
            self.load_state_dict(before.state_dict())
        except ValueError as error:
            self.detach()
            raise ValueError(f"{error}: `del model.{PLACE}` begins anew") from error
        before.heard()

    def _on_rollout_start(self) -> None:
        """Log what the last step did: it was made after the rollout before this one."""
        for name, number in self.numbers().items():
            self.logger.record(name, number)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        """Take the hooks away; what was learnt stays in the model."""
        memory = vars(self.model).get(PLACE)
        if memory is not None:
            memory.wait()
        self.detach()


class ClipMemory:
    """What a model remembers of its clipping: the memory of a `Clip` that is at work, or what one has left.

    Pickled it is the memory alone. While nobody clips by it the first step of its model warns.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip: Clip | None = clip
        self._of: weakref.ref[Clip] | None = weakref.ref(clip)
        self._state: Mapping[str, Any] = {}
        self._words = repr(clip.rule)
        self._stop_waiting: Any = None

    def is_of(self, clip: Clip) -> bool:
        """Whether it was this callback that left the memory."""
        return self._of is not None and self._of() is clip

    def state_dict(self) -> Mapping[str, Any]:
        """The memory now, as `Clip.state_dict` gives it."""
        return self._state if self._clip is None else self._clip.state_dict()

    def wait(self) -> None:
        """Keep the memory without the `Clip`, and warn at the first step that the model makes without clipping."""
        self._state, clip, self._clip = self.state_dict(), self._clip, None
        if clip is not None:
            clip.detach()
        self.heard()
        mine = weakref.ref(self)
        handle = register_optimizer_step_pre_hook(eager(lambda *of_step: say_unclipped(mine())))
        self._stop_waiting = weakref.finalize(self, handle.remove)

    def heard(self) -> None:
        """Wait for no step any more: it was said, or somebody clips again."""
        if self._stop_waiting is not None:
            self._stop_waiting()
        self._stop_waiting = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_state": self.state_dict(), "_words": self._words}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _clip=None, _of=None, _stop_waiting=None)
        self.wait()


def say_unclipped(memory: ClipMemory | None) -> None:
    """Warn if it is the model of this memory that makes the present step, and never again."""
    model = None if memory is None else model_at_work(memory)
    if memory is not None and model is not None:
        memory.heard()
        words = UNCLIPPED.format(model=type(model).__name__, words=memory._words)
        warnings.warn(words, GradclipWarning, stacklevel=user_level())


def model_at_work(memory: ClipMemory) -> BaseAlgorithm | None:
    """The model that has this memory, if it learns at present: a step knows its optimizer alone, so callers do."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        learner = frame.f_locals.get("self") if frame.f_code.co_name == "learn" else None
        if isinstance(learner, BaseAlgorithm) and vars(learner).get(PLACE) is memory:
            return learner
        frame = frame.f_back
    return None


def optimizers_of(model: BaseAlgorithm) -> dict[str, Any]:
    """The optimizers that a model has, by name."""
    found: dict[str, Any] = {}
    for name, path in OPTIMIZERS.items():
        there: Any = model
        for part in path.split("."):
            there = getattr(there, part, None)
        if there is not None:
            found[name] = there
    if not found:
        raise TypeError(
            f"{type(model).__name__} keeps no optimizer in any of {', '.join(OPTIMIZERS.values())}: attach to its own, "
            "gradclip.attach(optimizer, rule)"
        )
    return found


def refuse_own_limit(model: BaseAlgorithm, rule: AnyRule) -> None:
    """Raise where the model would clip as well."""
    limit = getattr(model, "max_grad_norm", None)
    if limit is not None and math.isfinite(limit):
        name = type(model).__name__
        raise ValueError(
            f"{name} has max_grad_norm={limit}, by which it would clip before {rule!r} does: write "
            f'{name}(..., max_grad_norm=float("inf")), or {name}.load(path, max_grad_norm=float("inf"))'
        )
