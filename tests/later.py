"""Packages that take seconds to import and serve one file of tests: the process that runs it imports them, no other."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Later:
    """A package, imported where something of it is first asked for; not by pytest, which looks for marks and mocks."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith(("_", "pytest_")):
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


def only_with(name: str) -> pytest.MarkDecorator:
    """The mark of tests that are left out where a package is not installed."""
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
