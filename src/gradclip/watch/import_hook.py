"""Doing something right after a module was imported; standard library only, for it runs in every watched process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class ImportHook:
    """A finder that finds what the others find, and calls `then[name](module)` once the module `name` was executed.

    Another finder may ask all others as well: to it this one says nothing while it asks.
    """

    def __init__(self, then: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.then = dict(then)
        self._asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the module, made to call back; None for all modules that nobody waits for."""
        if name not in self.then or self._asking:
            return None
        self._asking = True
        try:
            found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
            spec = next((spec for spec in found if spec is not None and spec.loader is not None), None)
        finally:
            self._asking = False
        if spec is not None:
            self._call_back(spec)
        return spec

    def _call_back(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def execute_and_call_back(module: ModuleType) -> None:
            execute(module)
            if then := self.then.pop(spec.name, None):  # once, also where it was found twice
                then(module)

        loader.exec_module = execute_and_call_back  # type: ignore[method-assign]  # a loader has no hook
