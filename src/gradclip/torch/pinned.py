"""The norm that stays the same: a sign that something else clips before gradclip does."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

from gradclip.engines.base import Engine
from gradclip.errors import GradclipWarning
from gradclip.step.respond import user_level
from gradclip.step.result import Result

STEPS = 6
WIDTH = 1e-5


class PinnedNorm:
    """Watches the norms of consecutive steps and warns once when they are pinned at one value.

    A clipped norm lands next to its threshold and jitters there by rounding. Norms that are exactly equal, or that
    drift one way, come from a loss and not from clipping. Numbers on a device are not read.
    """

    def __init__(self) -> None:
        self._norms: list[float] = []
        self._warned = False

    def watch(self, result: Result, engine: Engine) -> None:
        """Take in the norm of one step, if there is one and it can be read without waiting."""
        found = result.parts[0].plan.decisions[0].norm if result.parts else 0.0
        if self._warned or engine.waits:
            return
        norms = [found] if isinstance(found, float) else engine.to_host(found)
        if len(norms) == 1:
            self._add(norms[0])

    def _add(self, norm: float) -> None:
        if not math.isfinite(norm):
            self._norms.clear()
            return
        if self._norms and abs(norm - self._norms[-1]) > WIDTH * norm:
            self._norms.clear()
        self._norms.append(norm)
        if len(self._norms) >= STEPS:
            self._judge()

    def _judge(self) -> None:
        norms, self._norms = self._norms, []
        steps = {later > earlier for earlier, later in pairwise(norms) if later != earlier}
        if len(steps) == 2:
            self._warned = True
            warnings.warn(
                f"the gradient norm was {norms[-1]:.6g} in {STEPS} steps in a row: something clips before gradclip, "
                "such as clip_grad_norm_ in the training loop or the trainer's max_grad_norm; switch it off",
                GradclipWarning,
                stacklevel=user_level(),
            )
