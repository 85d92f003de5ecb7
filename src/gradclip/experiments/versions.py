"""The versions that the numbers of a comparison depend on."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib import metadata

from gradclip import __version__

FRAMEWORKS = {"torch": "torch", "paddle": "paddlepaddle", "jax": "jax"}
"""The modules whose version is written down if they are in use, and the packages that they come in."""


def versions() -> dict[str, str]:
    """Those of gradclip, of Python, and of the frameworks that are in use."""
    return installed(("gradclip", "python", *(name for name in FRAMEWORKS if name in sys.modules)))


def installed(names: Iterable[str]) -> dict[str, str]:
    """Those of these here, whether they are in use or not."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name in ("gradclip", "python"):
        return __version__ if name == "gradclip" else platform.python_version()
    try:
        return metadata.version(FRAMEWORKS.get(name, name))
    except metadata.PackageNotFoundError:
        return "none"
