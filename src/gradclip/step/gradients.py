"""Gradients in: what a door hands over for one step, what may lack of it, and its batch as an engine takes it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

from gradclip.engines.base import Across, Batch, Engine, Gradient, OnOtherDevice, Tables, UnsupportedGradient
from gradclip.errors import shown
from gradclip.rules.arguments import checked_flag
from gradclip.rules.arrays import Operand
from gradclip.rules.threshold import Step


class Gradients(NamedTuple):
    """The gradients of one step, as a door hands them over.

    `name(i)` is the name of tensor i; `groups` its parameter group; `weights()` the parameters, tensor by tensor.
    `divisor` is what the optimizer will divide the gradients by (a loss scale); thresholds mean the divided ones.
    `across` says how to sum up over processes that hold other parts of the gradients. `given` are numbers beside the
    gradients that a rule may read, by name: floats, or arrays [1] of the engine. `moments()` are the second
    moments that the optimizer has of each gradient, None for one that it has not seen yet. `overflow` is above 0 where
    a loss scaler leaves the step out. `apart` asks that rules of rows decide each tensor by itself, where they can: the
    numbers of its rows stay where the tensor lies, and are not put beside those of others.
    """

    tensors: list[Gradient]
    name: Callable[[int], str]
    groups: Sequence[int] | None = None
    weights: Callable[[], list[Gradient]] | None = None
    divisor: Operand = 1.0
    across: Across | None = None
    given: Mapping[str, Operand] = {}
    moments: Callable[[], list[Gradient]] | None = None
    overflow: Operand = None
    apart: bool = False

    def names(self) -> tuple[str, ...]:
        """The name of each gradient."""
        return tuple(map(self.name, range(len(self.tensors))))

    def only(self, indices: list[int]) -> Gradients:
        """The gradients at `indices`."""
        name, groups = self.name, self.groups
        return self._replace(
            tensors=[self.tensors[i] for i in indices],
            name=partial(name_at, name, indices),
            groups=None if groups is None else [groups[i] for i in indices],
            across=None if self.across is None else self.across.only(indices),
            weights=_some_of(self.weights, indices),
            moments=_some_of(self.moments, indices),
        )


def name_at(name: Callable[[int], str], indices: list[int], i: int) -> str:
    """The name of the i-th of those at `indices`."""
    return name(indices[i])


def _some_of(every: Callable[[], list[Gradient]] | None, indices: list[int]) -> Callable[[], list[Gradient]] | None:
    """`every` for those at `indices`; it is asked once for all of them."""
    return None if every is None else lambda: list(map(every().__getitem__, indices))


NO_MOMENTS = (
    "this rule reads the second moments of an optimizer like Adam, and there are none: attach(optimizer, rule) in "
    "PyTorch, grad_clip= of the optimizer in Paddle (dynamic mode), update(..., moments=...) in JAX"
)


def checked_need_clip(function: Callable[..., bool] | None) -> Callable[..., bool] | None:
    """`function` if it can say which parameters need clipping, or the error that says what it is to be."""
    if function is not None and not takes_one(function):
        raise TypeError(f"need_clip is a function of one parameter of the model, got {shown(function)}")
    return function


def takes_one(function: object) -> bool:
    """Whether this can be called with one argument, as far as it says."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a function of C that does not say
        return True
    return True


def is_needed(need_clip: Callable[[Any], object] | None, parameter: object) -> bool:
    """What the function of the user, if there is one, answers for a parameter."""
    if need_clip is None:
        return True
    answer = need_clip(parameter)
    return answer if isinstance(answer, bool) else checked_flag(answer, "what need_clip answers for a parameter")


def refuse_unpaired(items: Sequence[object]) -> None:
    """Raise where a list whose first item is a pair (name, parameter) has one that is none."""
    for place, item in enumerate(items):
        if not isinstance(item, tuple) or len(item) != 2:
            raise TypeError(f"the first of the parameters is a pair (name, parameter), and that at {place} is none")


def is_one(number: object) -> bool:
    """Whether this is a number, or a tensor of one element."""
    return isinstance(number, Real) or (hasattr(number, "shape") and math.prod(number.shape) == 1)


def one_float(number: Operand) -> float:
    """The number of what is one number; what lies on a device is waited for."""
    return float(number.item() if hasattr(number, "item") else number)


def refuse_many(name: str, number: object) -> None:
    """Raise for what is not one number."""
    if not isinstance(number, Real) and not hasattr(number, "shape"):
        raise TypeError(f"the {name} is a number or a tensor of one element, got {shown(number)}")
    if isinstance(number, int) and abs(number) >> 1023:
        raise ValueError(f"the {name} is a number that a float holds, got one of {number.bit_length()} bits")
    if getattr(number, "is_meta", False) or "complex" in str(getattr(number, "dtype", "")):
        raise TypeError(f"the {name} is a real number, got {shown(number)}")
    if not is_one(number):
        shape = tuple(number.shape)
        raise ValueError(f"the {name} is one number, got a tensor of shape {shape}: give its mean")


def refuse_missing(rule: object, names: Iterable[str], moments: bool, gradients: Gradients, step: Step) -> None:
    """Raise where a rule reads numbers of these `names`, or second `moments`, and they were not handed over."""
    if moments:
        if gradients.moments is None:
            raise ValueError(f"{rule!r}: {NO_MOMENTS}")
        gradients.moments()  # an optimizer that has none says so
    for name in names:
        if name in gradients.given:
            continue
        when = f" at step {step}" if isinstance(step, int) else ""
        raise ValueError(
            f"the rule reads the {name}, which was not given{when}: call clipper.give({name}=...) before each "
            f"optimizer.step(), in JAX update(..., {name}=...)"
        )


def gathered_once(engine: Engine, gradients: Gradients, tables: Tables) -> tuple[Gradients, Batch]:
    """The gradients without those whose memory came before, and their batch: each counts and is scaled once."""
    batch, count = gathered(engine, gradients, tables), len(gradients.tensors)
    try:
        again = engine.repeated(batch) if count > 1 else None
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None
    if not again:
        return gradients, batch
    gradients = gradients.only([i for i in range(count) if i not in again])
    return gradients, gathered(engine, gradients, tables)


def gathered(engine: Engine, gradients: Gradients, tables: Tables | None = None) -> Batch:
    """The batch of the gradients, or the error that names the one that `engine` cannot take."""
    try:
        return engine.gather(gradients.tensors, tables)
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None


class OnSeveralDevices(TypeError):
    """Gradients of one step that the engine in use does not reach from one device; nothing was written."""


def refused(gradients: Gradients, error: UnsupportedGradient) -> TypeError:
    """The error of an engine, with the name of the gradient."""
    kind = OnSeveralDevices if isinstance(error, OnOtherDevice) else TypeError
    return kind(f"the gradient of {gradients.name(error.index)!r} cannot be clipped: {error.reason}")
