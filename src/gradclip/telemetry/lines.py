"""JSON that may have been damaged on the disk, or be somebody else's: read in bounded memory, and never believed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gradclip.errors import shortened

LONGEST = 1 << 24
"""The bytes of the longest line, or document, that is read: an event with the norms of 100,000 tensors has half."""
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
UNPRINTABLE = re.compile(rb"\\[ubfnrt]|\x7f|\xc2[\x80-\x9f]")
"""Where a line of JSON may have text that is not printable."""


class NewerSchema(ValueError):
    """What a later gradclip wrote is whole, and this one cannot read it."""


@dataclass
class Damage:
    """What was left out of a file: so many lines, and of the first one the number and the reason."""

    file: Path
    lines: int = 0
    first: int = 0
    reason: str = ""

    def add(self, line: int, reason: object) -> None:
        if not self.lines:
            self.first, self.reason = line, shortened(str(reason))
        self.lines += 1

    def __str__(self) -> str:
        many = "a damaged line of" if self.lines == 1 else f"{self.lines} damaged lines of"
        which = f"it is line {self.first}" if self.lines == 1 else f"the first is line {self.first}"
        return f"{many} {self.file} left out: {which}, {self.reason}"


def read_lines(file: Path, take: Callable[[Any], object]) -> Damage:
    """Give what each line of `file` holds to `take`, which raises `ValueError` for what it cannot use.

    Such lines, and those that are no JSON, are left out and counted. A last line without an end is torn, as whatever
    kills a process leaves it, and is not there yet. `NewerSchema` is not caught.
    """
    damage = Damage(file)
    with open(file, "rb") as stream:
        for number, line in enumerate(whole_lines(stream), 1):
            try:
                take(value_of(line))
            except NewerSchema:
                raise
            except ValueError as error:
                damage.add(number, error)
            except (RecursionError, OverflowError):
                damage.add(number, "it is nested, or has a number, beyond all sense")
    return damage


def whole_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file that have an end; None for each that is too long, of which no more is kept than that."""
    while line := stream.readline(LONGEST):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) == LONGEST:
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield None


def value_of(line: bytes | None) -> Any:
    """What a line, or a document, of JSON holds, with all its text printable; `ValueError` for what is none."""
    if line is None:
        raise ValueError(f"it is longer than {LONGEST:,} bytes")
    if not line.strip(b" \t\r\0"):
        raise ValueError("it is empty")
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    return printable(value) if UNPRINTABLE.search(line) else value


def printable(value: Any) -> Any:
    """`value` with escapes for what no text may have, halves of surrogate pairs, and for what a terminal obeys."""
    if isinstance(value, str):
        return value.translate(CONTROLS).encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [printable(part) for part in value]
    if isinstance(value, dict):
        return {printable(name): printable(part) for name, part in value.items()}
    return value


class Each:
    """A kind: an object, of whatever names, whose values are of one kind."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


NUMBER = (int, float)
LARGEST = {int: 1 << 63, float: math.inf}


def fits(value: Any, kind: Any) -> bool:
    """Whether JSON is of a kind: a type, any of a tuple of kinds, a list of one kind, or an object with these names.

    A name with a question mark may be missing. Whole numbers have at most 63 bits, and no number is NaN or infinite.
    """
    if isinstance(kind, tuple):
        return any(fits(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(part, kind[0]) for part in value)
    if isinstance(kind, Each):
        return isinstance(value, dict) and all(fits(part, kind.kind) for part in value.values())
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            fits(value[name.rstrip("?")], one) if name.rstrip("?") in value else name.endswith("?")
            for name, one in kind.items()
        )
    return type(value) is kind and (kind not in NUMBER or abs(value) < LARGEST[kind])
