"""The closure that a step is given, which makes its gradients inside it: a function is put around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Arguments | None:
    """The arguments of a step, of which the first is the optimizer, with `around(closure)` for its closure.

    The closure is what is called so, or else the first function among them; None where there is none.
    """
    if len(args) == 1 and not kwargs:
        return None
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    callables = [name for name, value in given.items() if name != 0 and callable(value)]
    name = "closure" if "closure" in callables else next(iter(callables), None)
    if name is None:
        return None
    given[name] = around(given[name])
    return tuple(given[place] for place in range(len(args))), {name: given[name] for name in kwargs}
