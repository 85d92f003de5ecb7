"""Telemetry: the results of a clipper become events, and the events go to sinks.

Nothing of a result is read before the drain, so that nothing waits for a device until then.
"""

from __future__ import annotations

import atexit
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from gradclip.errors import GradclipWarning, shown
from gradclip.rules.arguments import checked_flag
from gradclip.step.gradients import Gradients
from gradclip.step.respond import user_level
from gradclip.step.result import Result
from gradclip.telemetry.event import Event
from gradclip.telemetry.observed import event_of
from gradclip.telemetry.pending import light, on_host

Sink = Callable[[Event], object]
"""A function that is given the event of each step."""

NONE: Mapping[str, list[int]] = MappingProxyType({})


class UnreadResult(NamedTuple):
    """A result that nobody has read yet, when it was made, and the steps that a loss scaler had left out before."""

    result: Result
    time: float
    left_out: int


class Telemetry:
    """Gives an event of every step of one clipper to each of `sinks`, which are functions of an `Event`.

    The results of `every` steps are kept and read together, on an accelerator in one copy, which is when the host waits
    for it; so there `every` is best 10 or more. `close()`, the end of a `with` and the end of the interpreter read what
    is left. `tensors` asks for the norm of each tensor before clipping, which the same read of the gradients gives; the
    norm of all is then summed up from those, which may change its last bits.

    A sink that raises is dropped with a warning, and training goes on. One with a method `begin(about)` is told before
    the first event what is clipped; one with a method `close()` is closed. With several processes rank 0 tells alone.

    >>> seen = []
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clipper = gradclip.torch.Clipper(ClipGradByGlobalNorm(1.0), telemetry=Telemetry(seen.append))
    >>> result = clipper.clip_({"w": weight})
    >>> seen[0].norm_before, seen[0].clipped
    (5.0, True)
    """

    def __init__(self, *sinks: Sink, every: int = 1, tensors: bool = False) -> None:
        if not sinks or not all(map(callable, sinks)):
            raise TypeError(f"Telemetry takes sinks, functions of an event such as print, got {shown(sinks)}")
        if type(every) is not int or every < 1:
            raise ValueError(f"every is a whole number of steps from 1, got {shown(every)}")
        self.every = every
        self.tensors: bool = checked_flag(tensors, "tensors")
        self._sinks = list(sinks)
        self._pending: list[UnreadResult] = []
        self._clipper: Callable[[], object] | None = None
        self._rule: Any = None
        self._begun = False
        self.left_out: int = 0

    def serve(self, clipper: Any) -> None:
        """Be the telemetry of `clipper`, and of no other one: their steps would not be told apart."""
        if self._clipper is not None and self._clipper() is not None:
            raise ValueError("this Telemetry has a clipper already: make one for each, with sinks of its own")
        self._clipper, self._rule = weakref.ref(clipper), clipper.rule

    def leave(self, sink: Sink) -> None:
        """Read what is waiting, and be free for another clipper, without this sink."""
        self.drain()
        self._sinks = [other for other in self._sinks if other is not sink]
        self._clipper = None

    def add(self, sink: Sink) -> None:
        """Give the events from now on to one more sink."""
        self._sinks.append(sink)

    def note(self, result: Result, rule: Any, gradients: Gradients, left_out: bool = False) -> None:
        """Take in the result of a step, and read it if as many as `every` are waiting.

        A step that was `left_out` by a loss scaler is one that the clipper does not count: the later ones move up.
        """
        if rule is not self._rule:  # another one was set between two steps
            self.drain()
            self._rule = rule
        if not self._begun:
            clipper = None if self._clipper is None else self._clipper()
            self._begin(about(rule, gradients, getattr(clipper, "optimizers", [])))
        self._pending.append(UnreadResult(light(result) if self.every > 1 else result, time.time(), self.left_out))
        self.left_out += left_out
        if len(self._pending) >= self.every:
            self.drain()

    def drain(self) -> None:
        """Read the results that are waiting, and give their events to the sinks."""
        pending, self._pending = self._pending, []
        results, sentence = on_host([unread.result for unread in pending]), repr(self._rule)
        for result, (_, when, left_out) in zip(results, pending, strict=True):
            self._give(event_of(result, sentence, when, self.tensors, left_out))

    def tell(self, event: Event, about: dict[str, Any]) -> None:
        """Give the sinks an event that no clipper tells; `about` says at the first one what is clipped."""
        if not self._begun:
            self._begin(about)
        self._give(event)

    def _give(self, event: Event) -> None:
        for sink in self._sinks:
            self._call(sink, sink, event)

    def close(self) -> None:
        """Read what is waiting, and close the sinks; a later step opens them again."""
        self.drain()
        for sink in self._sinks:
            if hasattr(sink, "close"):
                self._call(sink, sink.close)
        self._begun = False
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, about: dict[str, Any]) -> None:
        self._begun = True
        atexit.register(self.close)
        for sink in self._sinks:
            if hasattr(sink, "begin"):
                self._call(sink, sink.begin, about)

    def _call(self, sink: Sink, function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong in a sink, the training is worth more
            self._sinks = [other for other in self._sinks if other is not sink]
            warnings.warn(
                f"nothing more is recorded by {getattr(sink, '__name__', None) or repr(sink)}, which raised "
                f"{type(error).__name__}: {error}; training goes on",
                GradclipWarning,
                stacklevel=user_level(),
            )


def as_data(rule: Any) -> dict[str, Any] | None:
    """The rule as plain data; None for one that has a function in it, which is told as a sentence only."""
    try:
        return dict(rule.to_dict())
    except ValueError:
        return None


def about(rule: Any, gradients: Gradients, optimizers: Sequence[object]) -> dict[str, Any]:
    """What is clipped, as plain data: the rule, the framework, the optimizers, the shape of each gradient by name."""
    framework = type(gradients.tensors[0]).__module__.partition(".")[0] if gradients.tensors else ""
    shapes = [getattr(tensor, "shape", ()) for tensor in gradients.tensors]
    parameters = {gradients.name(i): list(map(int, shape)) for i, shape in enumerate(shapes)}
    return described(rule, framework, [type(optimizer).__name__ for optimizer in optimizers], parameters)


def described(
    rule: Any, framework: str, optimizers: Sequence[str] = (), parameters: Mapping[str, list[int]] = NONE
) -> dict[str, Any]:
    """The same of what is known by name: the optimizers by their classes, the parameters by their shapes."""
    return {
        "rule": as_data(rule),
        "sentence": repr(rule),
        "framework": framework,
        "framework_version": str(getattr(sys.modules.get(framework), "__version__", "")),
        "optimizer": ", ".join(dict.fromkeys(optimizers)),
        "parameters": dict(parameters),
    }


def checked_telemetry(given: object) -> Telemetry | None:
    """`given` if it is a `Telemetry` or None, or the error that says how to make one."""
    if given is None or isinstance(given, Telemetry):
        return given
    sink = repr(given) if callable(given) else f"jsonl({given!r})" if isinstance(given, str) else "jsonl('runs/first')"
    raise TypeError(f"telemetry is a Telemetry, got {shown(given)}: write Telemetry({sink})")
