"""Where a call came from: the line of the user's code, and the library between it and PyTorch."""

from __future__ import annotations

import functools
import linecache
import os
import re
import sys
import sysconfig

PACKAGES = ("site-packages", "dist-packages")
LIBRARY = tuple(os.path.realpath(sysconfig.get_paths()[key]) + os.sep for key in ("stdlib", "platstdlib"))
OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep
CLIPS = re.compile(r"clip\w*\(|clip_grad\b")
"""What a line says that calls a library in order to clip: then it is the user who clips, and not the library."""
PASSED = ("torch", "gradclip", "python")


@functools.cache
def package_of(file: str) -> str:
    """The package that a file belongs to, "python" for the standard library, "" for the user's own."""
    real = os.path.realpath(file)
    if real.startswith(OURS):
        return "gradclip"
    parts = real.split(os.sep)
    for place in PACKAGES:
        if place in parts[:-1]:
            return parts[parts.index(place) + 1].removesuffix(".py")
    return "python" if file.startswith("<") or real.startswith(LIBRARY) else ""


def caller() -> tuple[str, str]:
    """The line of the user's code that is being executed, as `file:line`, and the library that it called, if any."""
    frame, by = sys._getframe(1), ""
    while frame is not None:
        package = package_of(frame.f_code.co_filename)
        if not package:
            own = by and CLIPS.search(linecache.getline(frame.f_code.co_filename, frame.f_lineno))
            return f"{path_from_here(frame.f_code.co_filename)}:{frame.f_lineno}", "" if own else by
        by = by if package in PASSED else package
        frame = frame.f_back  # type: ignore[assignment]  # the outermost frame has none
    return "", by


def text_at(where: str) -> str:
    """The line of the user's code at `file:line`, as far as it can be read."""
    file, _, line = where.rpartition(":")
    return linecache.getline(file, int(line)) if line.isdecimal() else ""


@functools.cache
def path_from_here(file: str) -> str:
    """A file as its user would name it: from here if it lies below."""
    path = os.path.relpath(file)
    return file if path.startswith(os.pardir) else path
