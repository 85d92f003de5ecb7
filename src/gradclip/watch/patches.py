"""The places where PyTorch is listened to. What is put there calls what was there, with what it was given."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gradclip.watch.journal import NORM, RULE, VALUE

if TYPE_CHECKING:
    from gradclip.rules.rule import AnyRule
    from gradclip.watch.recorder import Recorder

KINDS = {
    "clip_grad_norm_": NORM,
    "clip_grad_value_": VALUE,
    "clip_grads_with_norm_": NORM,
    "_clip_grads_with_norm_": NORM,
}
THRESHOLDS = {NORM: "max_norm", VALUE: "clip_value"}
_recorders: list[Recorder] = []
"""The recorder of this process, once PyTorch is whole."""
_replacement: list[AnyRule] = []
"""The rule that takes the place of the script's own clipping, if one does."""
_backward: list[bool] = []
"""Whether a backward pass is under way."""
_calls: list[str] = []
"""The clipping functions that are being called: one that another one calls is not recorded."""


def wrap_clipping(module: ModuleType) -> None:
    """Let the calls of the clipping functions of `module` be recorded."""
    for name, kind in KINDS.items():
        if hasattr(module, name):
            setattr(module, name, recorded(getattr(module, name), name.lstrip("_"), kind))


def recorded(function: Callable[..., Any], name: str, kind: str) -> Callable[..., Any]:
    """A clipping function of which the recorder gets what it was called with, and what it returned."""
    signature = inspect.signature(function).parameters
    names, needed = (
        tuple(signature),
        frozenset(name for name, argument in signature.items() if argument.default is argument.empty),
    )

    @functools.wraps(function)
    def clip(*args: Any, **kwargs: Any) -> Any:
        if not _recorders or _calls or compiling():
            return function(*args, **kwargs)
        known = arguments_of(names, needed, args, kwargs)
        if known is None:
            return function(*args, **kwargs)  # PyTorch says what is wrong with them
        parameters = known["parameters"]
        given = [parameters] if hasattr(parameters, "grad") else list(parameters)
        threshold, order = known.get(THRESHOLDS[kind]), known.get("norm_type", 2.0)
        if given and isinstance(parameters, Iterator):  # one that had nothing stays as it came: PyTorch warns
            args, kwargs = ((given, *args[1:]), kwargs) if args else ((), {**kwargs, "parameters": given})
        if not (all(hasattr(one, "grad") for one in given) and is_number(threshold) and is_number(order)):
            return function(*args, **kwargs)
        if _replacement:
            from gradclip.watch.replacement import measured

            return measured(name, {**known, "parameters": given})
        call = _recorders[0].clip_begins(name, kind, given, math.inf if threshold is None else threshold, order)
        returned = called(name, function, *args, **kwargs)
        if call is not None:
            _recorders[0].clip_ended(call, known.get("total_norm", returned))
        return returned

    return clip


def arguments_of(
    names: tuple[str, ...], needed: frozenset[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a call by name; None for a call that cannot be one."""
    known = {**dict(zip(names, args, strict=False)), **kwargs}
    fits = len(known) == len(args) + len(kwargs) and needed <= known.keys() <= set(names)
    return known if fits and isinstance(known["parameters"], Iterable) else None


def is_number(value: Any) -> bool:
    """Whether a threshold or an order can be recorded: a number, a tensor or word for one, or none."""
    try:
        float(0.0 if value is None else value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def called(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a clipping function returns; those that it calls are not recorded meanwhile."""
    _calls.append(name)
    try:
        return function(*args, **kwargs)
    finally:
        _calls.pop()


def watch_ours(recorder: Recorder) -> None:
    """Record the calls of this library's explicit forms as well; what is attached is looked at in each step."""
    import gradclip.torch
    from gradclip.torch import functional
    from gradclip.torch.clipper import Clipper
    from gradclip.torch.parameters import parameters_of
    from gradclip.watch.replacement import measured_by

    wrap_clipping(functional)
    for name in KINDS.keys() & set(gradclip.torch.__all__):
        setattr(gradclip.torch, name, getattr(functional, name))
    clip_ = Clipper.clip_

    @functools.wraps(clip_)
    def clip_and_record(self: Clipper, parameters: Any) -> Any:
        if _replacement:
            return measured_by(clip_, self, parameters)
        given = parameters_of(parameters)
        call = recorder.clip_begins(repr(self.rule), RULE, given.tensors, 0.0, 2.0)
        result = clip_(self, given.tensors if isinstance(parameters, Iterator) else parameters)
        if call is not None:
            recorder.clip_ended(call, result)
        return result

    Clipper.clip_ = clip_and_record  # type: ignore[method-assign]  # it has no hook


def compiling() -> bool:
    """Whether `torch.compile` is reading this."""
    import torch

    return torch.compiler.is_compiling()


def watch_torch(recorder: Recorder, rule: AnyRule | None = None) -> None:
    """Record what optimizers, backward passes and loss scalers do; `rule` replaces the script's own clipping."""
    import torch
    from torch.optim import Optimizer, optimizer

    from gradclip.torch.eager import eager
    from gradclip.watch.parameter_names import parameters_in
    from gradclip.watch.replacement import replace_clipping

    _recorders[:] = [recorder]
    if rule is not None:
        _replacement[:] = [rule]
        replace_clipping(rule)
    optimizer.register_optimizer_step_pre_hook(eager(functools.partial(before_step, recorder)))
    optimizer.register_optimizer_step_post_hook(eager(functools.partial(after_step, recorder)))
    watch_backward(torch.autograd, recorder)
    before(torch.autograd, "grad", functools.partial(before_grad, recorder))
    after(Optimizer, "__init__", lambda made, *_, **__: recorder.optimizer_made(made))
    before(Optimizer, "zero_grad", lambda sender, *_, **__: recorder.gradients_zeroed(parameters_in(sender)))
    before(torch.nn.Module, "zero_grad", lambda sender, *_, **__: recorder.gradients_zeroed(sender.parameters()))
    watch_scaler(torch.amp.GradScaler, recorder)
    if torch.distributed.is_available():
        watch_sends(torch.distributed, recorder)
    watch_ours(recorder)


def watch_sends(distributed: ModuleType, recorder: Recorder) -> None:
    """Record that tensors go to single other processes; `isend` stays, for PyTorch knows it by its identity."""
    for owner, name in ((distributed, "send"), (distributed, "recv"), (distributed.P2POp, "__init__")):
        before(owner, name, lambda *_, **__: recorder.tensor_sent())


def watch_backward(autograd: ModuleType, recorder: Recorder) -> None:
    """Record what backward passes begin from, and when they have ended."""
    backward = autograd.backward

    @functools.wraps(backward)
    def backward_and_record(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        if _backward or compiling():  # one inside another is a part of it, as a checkpoint makes it
            return backward(tensors, grad_tensors, *args, **kwargs)
        begun = recorder.backward_begins(tensors, grad_tensors)
        _backward.append(True)
        try:
            found = backward(tensors, grad_tensors, *args, **kwargs)
        finally:
            _backward.pop()
        if begun is not None:
            recorder.backward_ended(begun)
        return found

    autograd.backward = backward_and_record  # type: ignore[attr-defined]  # it has no hook


def before_grad(recorder: Recorder, *_: Any, **__: Any) -> None:
    """Gradients are about to be made that are handed on, and not those of a backward pass that needs them itself."""
    if not _backward:
        recorder.gradients_handed_on()


def watch_scaler(scaler: type, recorder: Recorder) -> None:
    """Record when gradients carry the scale of a loss scaler, and which steps it leaves out."""
    from gradclip.torch.scaler import listen

    before(scaler, "unscale_", lambda sender, optimizer: recorder.gradients_unscaled(optimizer))
    scale = scaler.scale  # type: ignore[attr-defined]  # either of two classes

    @functools.wraps(scale)
    def scale_and_record(self: Any, outputs: Any) -> Any:
        scaled = scale(self, outputs)
        if self.is_enabled():
            recorder.loss_scaled(self._scale, outputs)
        return scaled

    scaler.scale = scale_and_record  # type: ignore[attr-defined]  # nor has this
    listen(recorder)


def before(owner: Any, name: str, record: Callable[..., None]) -> None:
    """Call `record` before each call of `owner.name`."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def record_and_call(*args: Any, **kwargs: Any) -> Any:
        if not compiling():
            record(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(owner, name, record_and_call)


def after(owner: Any, name: str, record: Callable[..., None]) -> None:
    """Call `record` after each call of `owner.name`."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def call_and_record(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if not compiling():
            record(*args, **kwargs)
        return found

    setattr(owner, name, call_and_record)


def before_step(recorder: Recorder, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hook before a step. A closure makes the gradients inside it, so the step is noted when it returns."""
    from gradclip.torch.closures import with_closure

    found = with_closure(args, kwargs, functools.partial(noting, recorder, optimizer))
    if found is None:
        recorder.before_step(optimizer)
    return found


def noting(recorder: Recorder, optimizer: Any, closure: Callable[..., Any]) -> Callable[..., Any]:
    """The closure of a step, and after its first evaluation a note that the gradients are there."""
    noted = False

    @functools.wraps(closure)
    def closure_then_note(*arguments: Any, **options: Any) -> Any:
        nonlocal noted
        recorder.closure_begins(optimizer)
        loss = closure(*arguments, **options)
        if not noted:  # LBFGS evaluates it again within a step
            recorder.before_step(optimizer)
            noted = True
        recorder.closure_evaluated(optimizer)
        return loss

    return closure_then_note


def after_step(recorder: Recorder, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The hook after a step, where a run that has enough steps ends."""
    recorder.after_step(optimizer)
    if recorder.enough():
        raise SystemExit(0)
