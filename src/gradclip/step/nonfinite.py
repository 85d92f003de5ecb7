"""Who is non-finite: the one place that looks for the tensors with a NaN or an infinite element."""

from __future__ import annotations

from collections.abc import Callable

from gradclip.engines.base import Batch, Engine, Measure, Measured
from gradclip.errors import NonFiniteGradient
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import Linf
from gradclip.rules.scope import Global, Scope, Tensor
from gradclip.rules.threshold import Step
from gradclip.step.gradients import Gradients
from gradclip.step.part import Part, places_in
from gradclip.step.processes import in_any

ELSEWHERE = "another process"
"""Where the processes share gradients: the name of what this one does not have."""


def any_nonfinite(batch: Batch, engine: Engine) -> tuple[Array, ArrayFunctions]:
    """Whether any element of a batch is non-finite, where it was measured."""
    measure = measured_whole(engine, batch, Global())
    return measure.xp.any(measure.nonfinite > 0), measure.xp


def measured_whole(engine: Engine, batch: Batch, scope: Scope) -> Measure:
    """The largest magnitudes over all processes; all of them ask for it alike."""
    measure = engine.measure(batch, scope, Linf())
    return engine.reduce([Measured(batch, scope, Linf(), measure)])[0] if engine.reduces else measure


def nonfinite_here(name: Callable[[int], str], batch: Batch, engine: Engine) -> list[str]:
    """The names of the tensors of which this process has a non-finite element."""
    return _named(name, engine.measure(batch, Tensor(), Linf()), engine)


def nonfinite_names(name: Callable[[int], str], batch: Batch, engine: Engine) -> tuple[list[str], Measure]:
    """The names of the tensors of a batch with a non-finite element, and the measure of each that shows it."""
    each = measured_whole(engine, batch, Tensor())
    return _named(name, each, engine), each


def _named(name: Callable[[int], str], each: Measure, engine: Engine) -> list[str]:
    return [name(index) for index, count in enumerate(engine.to_host(each.nonfinite)) if count]


def offenders_in(part: Part, to_host: Callable[[Array], list[float]]) -> list[str]:
    """The names of the tensors of a part with a non-finite element; none where a segment measured is of several."""
    counts = to_host(part.finest[1].nonfinite)
    places = places_in(part, len(counts)) if any(counts) else []
    return list(dict.fromkeys(part.name(place) for place, count in zip(places, counts, strict=False) if count))


def offenders(part: Part, batch: Batch, engine: Engine) -> list[str]:
    """The same, looked up in the batch where a segment is of several. None where it is another process that has it."""
    if known := offenders_in(part, engine.to_host):
        return known
    return nonfinite_names(part.name, batch, engine)[0] if any(engine.to_host(part.measure.nonfinite)) else []


def refuse_nonfinite(gradients: Gradients, batch: Batch, engine: Engine, step: Step) -> None:
    """Raise if any gradient is non-finite, in this process or in another one."""
    names, measure = nonfinite_names(gradients.name, batch, engine)
    found: float = len(names)
    if gradients.across is not None:
        found = in_any(found, measure.nonfinite, measure.xp, engine, gradients.across)
    if found:
        raise nonfinite_error(names or [ELSEWHERE], step)


def nonfinite_error(names: list[str], step: Step, late: bool = False) -> NonFiniteGradient:
    """The error that names the tensors; `late` where earlier stages of the rule have written."""
    written = "what the stages before it wrote stays" if late else "no gradient was written"
    error = NonFiniteGradient(
        f"the gradient of {listed(names)} is non-finite at step {step}; {written}: lower the learning "
        'rate, look at the batch, or use on_nonfinite="skip" to leave such steps out'
    )
    error.parameters = tuple(names)
    return error


def listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
