"""Drop-ins for the clipping functions of `torch.nn.utils`: same names, arguments, results and errors.

They differ where PyTorch is wrong: no finite gradient becomes 0 or NaN, nothing at or below the limit is touched,
norms are right to 1e-6, and a limit that makes no sense is refused. `foreach` chooses nothing: the numbers do not
depend on it, and the fastest engine is used. A parameter with the attribute `need_clip=False` is left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import GeneratorType
from typing import TYPE_CHECKING

import torch

from gradclip.engines.base import (
    Batch,
    Engine,
    Gradient,
    LiesOtherwise,
    Measure,
    Measured,
    OnOtherDevice,
    UnsupportedGradient,
)
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_functions import FUNCTIONS, wide_of
from gradclip.errors import GradclipWarning, shown
from gradclip.rules.arguments import checked_flag, items_of, plain_number, real_number
from gradclip.rules.arrays import SCALARS, Operand
from gradclip.rules.norm import Norm, norm_of_order_or_word
from gradclip.rules.response import Rescale
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Global
from gradclip.rules.threshold import Constant, checked_limit
from gradclip.step.decide import norm_and_coefficient
from gradclip.step.respond import report_none_found, user_level
from gradclip.torch.clipper import engine_for, on_several_devices
from gradclip.torch.eager import eager
from gradclip.torch.parameters import TorchParameters, are_sharded, chosen, found_in, parameters_of, refuse_shards
from gradclip.torch.shardings import Shardings, agreed

if TYPE_CHECKING:
    from gradclip.torch.sharding import Sharding

TensorOrTensors = torch.Tensor | Iterable[torch.Tensor]
GLOBAL = Global()
_shardings = Shardings()
"""What processes have agreed on, for the parameters of the last calls."""
FLOAT32_MAX = torch.finfo(torch.float32).max


@eager
def clip_grad_norm_(
    parameters: TensorOrTensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Rescale the gradients in place so that their norm taken together is at most `max_norm`; return the norm before.

    Formula: `g * min(1, max_norm / ||all g||_p)`, p = `norm_type` in [0.1, inf] or "inf". `max_norm` has the unit of
    the gradient and is above 0; None or infinity measures only. The norm is a 0-dim tensor of float32, or of float64
    for float64 gradients and for norms beyond float32. A non-finite gradient is left as it is, and the non-finite norm
    is returned; with `error_if_nonfinite=True` it raises `RuntimeError` before anything is written.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063; arguments as `torch.nn.utils.clip_grad_norm_`.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([weight], max_norm=1.0)
    tensor(5.)
    """
    rule = _rule(max_norm, norm_type)
    gradients, sharding = _gradients(parameters, lambda: f"clip_grad_norm_(..., {max_norm}, {norm_type})")
    if not gradients:
        return torch.tensor(0.0)
    engine, batch, measure = _measured(gradients, rule.norm, sharding)
    norm, coefficient = norm_and_coefficient(measure, rule)
    if checked_flag(error_if_nonfinite, "error_if_nonfinite"):
        _raise_if_nonfinite(engine.to_host(measure.nonfinite)[0], rule.norm)
    engine.apply_(batch, GLOBAL, coefficient, zeroes=False, enlarges=False)
    return _as_tensor(norm, engine, batch)


@eager
def get_total_norm(
    tensors: TensorOrTensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """The norm of `tensors` taken together, `(sum |x|^p)^(1/p)`; the tensors are gradients and are not written.

    Arguments, result and errors as those of `clip_grad_norm_`.

    >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    """
    rule = _rule(None, norm_type)
    found = [tensors] if isinstance(tensors, torch.Tensor) else items_of(tensors)
    if found is None:
        raise TypeError(f"tensors is a tensor, or several, got {shown(tensors)}: give the gradients, p.grad of each")
    if not found:
        return torch.tensor(0.0)
    sharding = (
        agreed(TorchParameters(found), f"get_total_norm of order {norm_type}", themselves=True)
        if are_sharded(found)
        else None
    )
    gradients = found if sharding is None else sharding.portions()
    engine, batch, measure = _measured(gradients, rule.norm, sharding, unique=False)
    norm, _ = norm_and_coefficient(measure, rule)
    if checked_flag(error_if_nonfinite, "error_if_nonfinite"):
        _raise_if_nonfinite(engine.to_host(measure.nonfinite)[0], rule.norm)
    return _as_tensor(norm, engine, batch)


@eager
def clip_grads_with_norm_(
    parameters: TensorOrTensors, max_norm: float, total_norm: torch.Tensor, foreach: bool | None = None
) -> None:
    """Rescale the gradients of `parameters` in place by `min(1, max_norm / total_norm)`, a norm measured before.

    `total_norm` is a tensor or a number in the unit of the gradient; where it is non-finite nothing is written.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grads_with_norm_([weight], 1.0, get_total_norm([weight.grad]))
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    rule = _rule(max_norm, 1.0)  # of a norm that is known already, the total is the norm itself
    gradients = _gradients_here(parameters)
    if not gradients:
        return
    engine, batch = _gathered(gradients)
    _, coefficient = norm_and_coefficient(_known(total_norm, engine, gradients[0]), rule)
    engine.apply_(batch, GLOBAL, coefficient, zeroes=False, enlarges=False)


@eager
def clip_grad_value_(parameters: TensorOrTensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clip each element of the gradients in place to [-clip_value, clip_value]; infinities become the bound, NaN stays.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([0.8, 89.0])
    >>> clip_grad_value_([weight], 1.0)
    >>> weight.grad
    tensor([0.8000, 1.0000])
    """
    limit = checked_limit(clip_value, "clip_value")
    gradients = _gradients_here(parameters, by_value=True)
    if not gradients:
        return
    engine, batch = _gathered(gradients)
    try:
        if engine.clamps:
            engine.clamp_(batch, -limit, limit)
        else:
            engine.map_(batch, Rescale(), -limit, limit)
    except UnsupportedGradient as error:
        raise _refused(error) from None


def _rule(max_norm: float | None, norm_type: float | str) -> Rule:
    """The rule of one call, kept for the next; what cannot be kept is refused for what it is."""
    limit = plain_number(max_norm)  # a tensor is hashed by its identity, whatever number it holds now
    keeps = isinstance(limit, KEPT) and isinstance(norm_type, KEPT)
    return _global_rule(limit, norm_type) if keeps else _global_rule.__wrapped__(limit, norm_type)


KEPT = (int, float, str, type(None))
"""Whose instances say what they are by their value."""


@lru_cache(maxsize=64, typed=True)
def _global_rule(max_norm: float | None, norm_type: float | str) -> Rule:
    """The rule of one call."""
    return Rule(GLOBAL, norm_of_order_or_word(norm_type), Constant(checked_limit(max_norm, "max_norm")))


def _gradients(source: TensorOrTensors, terms: Callable[[], str]) -> tuple[list[Gradient], Sharding | None]:
    """The gradients to clip, of parameters that have one; of sharded ones what is here, and what all know of them.

    `terms` says what all processes call it with, and is asked when they agree.
    """
    tensors = _tensors(source)
    if not are_sharded(tensors):
        refuse_shards(tensors)
        return _those_here(tensors), None
    sharding = _shardings.of(chosen(TorchParameters(tensors), None), terms)
    return list(sharding.portions()), sharding


def _gradients_here(source: TensorOrTensors, by_value: bool = False) -> list[torch.Tensor]:
    """The gradients to clip as far as this process has them, where nobody has to hear of it."""
    tensors = _tensors(source)
    if not are_sharded(tensors):
        refuse_shards(tensors)
        return _those_here(tensors)
    found = _those_here(tensors)
    from gradclip.torch.sharding import local_of, refuse_unsummed

    if by_value:
        refuse_unsummed(found)
    return list(map(local_of, found))


def _tensors(source: TensorOrTensors) -> list[torch.Tensor]:
    """The parameters."""
    return source if type(source) is list and source and isinstance(source[0], torch.Tensor) else _listed(source)


def _those_here(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of those that have one; that there is none is reported."""
    found = found_in(tensors)
    if tensors and not found:
        report_none_found(any(p.requires_grad for p in tensors))
    return found


def _listed(source: TensorOrTensors) -> list[torch.Tensor]:
    """The parameters in any source; PyTorch's own warning for a generator that was read before."""
    items = items_of(source) if isinstance(source, Iterator) else None
    if items is None:
        return parameters_of(source).tensors
    if items:
        return parameters_of(items).tensors
    kind = "empty generator" if isinstance(source, GeneratorType) else f"exhausted {type(source).__name__}"
    message = f"`parameters` is an {kind}, no gradient clipping will occur."
    warnings.warn(message, GradclipWarning, stacklevel=user_level())
    return []


def _measured(
    gradients: list[Gradient], norm: Norm, sharding: Sharding | None, unique: bool = True
) -> tuple[Engine, Batch, Measure]:
    """The engine, its batch and the measure of all gradients, in whatever processes they are."""
    if sharding is None:
        engine, batch = _gathered(gradients, unique)
        return engine, batch, engine.measure(batch, GLOBAL, norm)
    engine = sharding.engine(engine_for([sharding.like]), apart=False)
    batch = engine.gather(gradients, sharding.tables)
    try:
        (measure,) = engine.reduce([Measured(batch, GLOBAL, norm, engine.measure(batch, GLOBAL, norm))])
    except UnsupportedGradient as error:
        raise _refused(error) from None
    except LiesOtherwise:
        return _measured(list(sharding.agreed_anew()), norm, sharding)
    return engine, batch, measure


def _gathered(gradients: list[torch.Tensor], unique: bool = True) -> tuple[Engine, Batch]:
    """The engine and its batch; a gradient that occurs twice is taken once, because it would be scaled twice."""
    engine = engine_for(gradients)
    try:
        try:
            batch = engine.gather(gradients)
        except OnOtherDevice:
            engine = on_several_devices(engine.name)
            batch = engine.gather(gradients)
        if unique and (again := engine.repeated(batch)):
            batch = engine.gather([g for i, g in enumerate(gradients) if i not in again])
    except UnsupportedGradient as error:
        raise _refused(error) from None
    return engine, batch


def _refused(error: UnsupportedGradient) -> TypeError:
    return TypeError(f"the gradient of parameters[{error.index}] cannot be clipped: {error.reason}")


def _raise_if_nonfinite(elements: float, kind: Norm) -> None:
    if elements:
        raise RuntimeError(
            f"The total norm of order {kind.p} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )


def _known(norm: torch.Tensor | float, engine: Engine, gradient: torch.Tensor) -> Measure:
    """The measure of a norm that was taken before, as this engine would give it."""
    if isinstance(engine, TorchEngine) and engine.waits:
        total = torch.as_tensor(norm, device=gradient.device).detach().reshape(1).to(wide_of(gradient))
        return Measure(total, torch.zeros_like(total), FUNCTIONS)
    number = real_number(norm)
    if number is None:
        raise TypeError(f"total_norm is one number, got {shown(norm)}: give what get_total_norm returned")
    if number < 0:
        raise ValueError(f"total_norm is a norm, so it cannot be {number}: give what get_total_norm returned")
    if isinstance(engine, TorchEngine):
        return Measure(torch.tensor([number], dtype=torch.float64), torch.zeros(1), FUNCTIONS)
    return Measure(number, 0, SCALARS)


def _as_tensor(norm: Operand, engine: Engine, batch: Batch) -> torch.Tensor:
    """The norm as a 0-dim tensor: float32, or float64 where the gradients or the number need it."""
    dtype = torch.float64 if engine.holds_float64(batch) else torch.float32
    if engine.waits:
        on_device: torch.Tensor = norm.sum(dtype=dtype)  # of one number: without an axis, and cast, in one operation
        return on_device
    value = norm if isinstance(norm, float) else engine.to_host(norm)[0]
    return torch.scalar_tensor(value, dtype=torch.float64 if FLOAT32_MAX < value < math.inf else dtype)
