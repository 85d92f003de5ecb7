"""Variables of a static program that stay from run to run: what a run decided, and what a threshold remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import paddle
from paddle.utils import unique_name

from gradclip.engines.paddle_arrays import WIDE, Wide
from gradclip.rules.arrays import Array, Operand
from gradclip.rules.threshold import Observed, State, Threshold


def variable(prefix: str, shape: list[int]) -> Wide:
    """A new variable of the current program, 0 after the startup program."""
    name = unique_name.generate(prefix)
    if paddle.framework.in_pir_mode():
        zero = paddle.nn.initializer.Constant(0.0)
        return Wide(paddle.pir.core.create_persistable_value(WIDE, shape, name, initializer=zero), name)
    return Wide(paddle.static.create_global_var(shape, 0.0, WIDE, persistable=True, name=name), name)


def write(array: Operand, target: Wide) -> None:
    """Let each run write `array` to the variable `target`."""
    paddle.assign(array.value, output=target.value)


def publish(array: Wide) -> None:
    """Let each run write `array` to a variable of its own, from which a host can read it."""
    if array.name is None:
        target = variable("gradclip", list(array.value.shape))
        write(array, target)
        array.name = target.name


@dataclass(frozen=True)
class Remembering(Threshold):
    """A threshold that adapts, with its memory in variables of the program instead of in the clipper."""

    adapts: ClassVar[bool] = True
    inner: Threshold

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_weights", self.inner.reads_weights)

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        """The threshold of this run. The first run starts with no memory, so both beginnings are in the program."""
        xp, later = observed.xp, observed.step > 0
        first, after_first = self.inner.at(observed, {})
        memory = {name: variable("gradclip_memory", _shape(name, value)) for name, value in after_first.items()}
        threshold, after = self.inner.at(observed, memory)
        chosen = xp.where(later, threshold, first)
        remembered = {name: xp.where(later, after[name], after_first[name]) for name in memory}
        for name, target in memory.items():  # after everything that reads them: what is read later is what was written
            write(remembered[name], target)
        return chosen, {}

    def __str__(self) -> str:
        return str(self.inner)


def _shape(name: str, value: object) -> list[int]:
    if not isinstance(value, Wide):
        raise NotImplementedError(
            f"a static graph remembers arrays only, and {name!r} is {value!r}: clip in dynamic mode"
        )
    return list(value.value.shape)
