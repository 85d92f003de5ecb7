"""Clipping in a static graph of Paddle, PIR or legacy: the rule becomes operators of the program.

Each run of the program clips and writes what was decided to variables of its scope, from which `Graph.last` is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import paddle
from paddle.base.core import VarDesc
from paddle.base.framework import name_scope

from gradclip.clipper import Clipper
from gradclip.engines.base import Slot
from gradclip.engines.paddle import ENGINE, PaddleEngine
from gradclip.engines.paddle_arrays import Wide
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.errors import NothingClipped
from gradclip.paddle.parameters import Pair
from gradclip.paddle.variables import Remembering, publish, variable, write
from gradclip.rules.arrays import Operand
from gradclip.rules.rule import AnyRule, Carry, Rule, rewritten
from gradclip.step.gradients import Gradients
from gradclip.step.memory import Memory
from gradclip.step.part import Part, with_arrays
from gradclip.step.respond import report_nothing
from gradclip.step.result import Result


class Graph(NamedTuple):
    """What the operators of one program decide, as the variables that they write it to; `step` counts the runs."""

    parts: list[Part]
    step: Wide

    @property
    def last(self) -> Result:
        """The result of the last run in the current scope, read now: the next run writes to the same variables."""
        (runs,) = ENGINE.to_host(self.step)
        if runs == 0:
            raise NothingClipped(
                "nothing was clipped yet: `last` exists after the first run of the program that updates (one that only "
                "merges gradients does not clip)"
            )
        result = Result(int(runs) - 1, EngineOfRun(_read_by_results(self.parts)))
        result.parts = self.parts
        result.settle(False)
        return result


class EngineOfRun(PaddleEngine):
    """The engine with the numbers of one run, so that a result keeps them when the next run has written others."""

    def __init__(self, arrays: list[Wide]) -> None:
        self.numbers = {array.name: ENGINE.to_host(array) for array in arrays}

    def to_host(self, array: Wide | float) -> list[float]:
        return self.numbers[array.name] if isinstance(array, Wide) else [array]


def clip_in_graph(
    clipper: Clipper, params_grads: list[Pair], need_clip: Callable[[PaddleTensor], bool]
) -> tuple[list[Pair], Graph | None]:
    """Append the operators that clip `params_grads` by the rule and the policy of `clipper`.

    Returns the pairs with their new gradients, and where a run writes what it decided, None if no pair needs clipping.
    Pairs without a gradient are left out; those that `need_clip` refuses stay as they are and are not measured. A
    sparse gradient becomes a dense one. The count of the steps and what thresholds remember lie in variables of the
    program; the clipper is not changed. A rule that leaves out a step or raises is refused: operators cannot do so.
    """
    _refuse_stops(clipper)
    pairs = [(parameter, gradient) for parameter, gradient in params_grads if gradient is not None]
    chosen = [pair for pair in pairs if need_clip(pair[0])]
    if not chosen:
        report_nothing("no parameter of the graph that needs clipping has a gradient")
        return pairs, None
    with _as_optimizer():
        slots = {_place(gradient): Slot(_dense(gradient)) for _, gradient in chosen}
        graph = _clipped(clipper, chosen, slots)
    taken = {_place(parameter) for parameter, _ in chosen}
    return [(p, slots[_place(g)].value if _place(p) in taken else g) for p, g in pairs], graph


def _clipped(clipper: Clipper, chosen: list[Pair], slots: dict[str, Slot]) -> Graph:
    step = variable("gradclip_step", [1])
    inside = Clipper(_with_variables(clipper.rule), on_nonfinite=clipper.on_nonfinite)
    inside.memory = Memory(step, {})
    gradients = Gradients(
        [slots[_place(gradient)] for _, gradient in chosen],
        lambda index: str(chosen[index][0].name),
        weights=lambda: [Slot(parameter) for parameter, _ in chosen],
    )
    parts = inside.clip_gradients(gradients, ENGINE).parts
    for array in _read_by_results(parts):
        publish(array)
    write(step + 1.0, step)
    return Graph(parts, step)


def _with_variables(rule: AnyRule) -> AnyRule:
    """`rule` with thresholds that remember in variables of the program."""

    def in_variables(single: Rule) -> Rule:
        threshold = single.threshold
        return replace(single, threshold=Remembering(threshold)) if threshold.adapts else single

    return rewritten(rule, in_variables)


DYNAMIC = "Clip in dynamic mode"


def _refuse_stops(clipper: Clipper) -> None:
    if clipper.can_skip or clipper.can_raise or clipper.max_consecutive_skips is not None:
        raise NotImplementedError(
            "the operators of a static graph can neither leave out a step nor raise, and this clip asks for it: "
            f"{clipper.rule!r}, on_nonfinite={clipper.on_nonfinite!r}, "
            f"max_consecutive_skips={clipper.max_consecutive_skips}. Respond with Zero(), use on_nonfinite='zero', "
            "look at `last` after a run, or let paddle.static.amp leave out such steps"
        )
    if isinstance(clipper.rule, Carry):
        raise NotImplementedError(f"a static graph carries nothing over to the next run: {clipper.rule!r}. {DYNAMIC}")
    if clipper.telemetry is not None:
        raise NotImplementedError(f"telemetry hears of no step of a static graph; read `last` after a run. {DYNAMIC}")
    for name in clipper.reads_given:
        raise NotImplementedError(
            f"a static graph is given nothing beside the gradients, and the rule reads the {name}: {clipper.rule!r}. "
            + DYNAMIC
        )


def _read_by_results(parts: list[Part]) -> list[Wide]:
    found: dict[int, Operand] = {}
    for part in parts:
        with_arrays(part, lambda array: found.setdefault(id(array), array))
    return [array for array in found.values() if isinstance(array, Wide)]


@contextmanager
def _as_optimizer() -> Iterator[None]:
    """In a legacy program, mark the operators as a part of the optimizer: `clone(for_test=True)` leaves them out."""
    if paddle.framework.in_pir_mode():
        yield
        return
    with name_scope("gradient_clip"), paddle.static.default_main_program()._optimized_guard([]):
        yield


def _dense(gradient: PaddleTensor) -> PaddleTensor:
    """A gradient of all rows from the sparse one of a legacy program; in PIR the operators make it so themselves."""
    if paddle.framework.in_pir_mode() or gradient.type != VarDesc.VarType.SELECTED_ROWS:
        return gradient
    return paddle.add_n([paddle.zeros(gradient.shape, gradient.dtype), gradient])


def _place(value: PaddleTensor) -> str:
    """What two references to the same value of a program have in common."""
    return str(value.id if isinstance(value, paddle.pir.Value) else value.name)
