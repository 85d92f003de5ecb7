"""What a saved state may be: looked through as a whole before anything of it is taken up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from gradclip.errors import shown
from gradclip.rules.arguments import real_number
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Global, Group, Tensor
from gradclip.rules.segments import Shape
from gradclip.step.layout import LineUp
from gradclip.step.memory import key_of

NOTHING_TAKEN = "nothing of the state was loaded: take the file that state_dict() wrote, or begin without it"


LONGEST_KEY = 60
"""Characters of the longest key of a memory: three numbers."""


def refuse_malformed(state: Mapping[str, Any], line: LineUp, shapes: Mapping[str, Shape]) -> None:
    """Raise `ValueError`, with the key, for a state that no clipper of this rule could have written.

    `shapes` are those of the gradients by name, as far as they are known.
    """
    _check_count("step", _part(state, "step"))
    _check_count("consecutive_skips", _part(state, "consecutive_skips"))
    _check_count("left_out", state.get("left_out", 0))  # of a clipper that GradScaler tells of the steps it leaves out
    thresholds = _mapping("thresholds", _part(state, "thresholds"))
    for text, saved in thresholds.items():
        where = f"thresholds[{text!r}]"
        rule = _rule_of(text, line)
        if rule is None:
            raise malformed(where, text, "the numbers of a phase, a pattern and a stage of the rule")
        owners = _check_owners(f"{where}['owners']", _part(_mapping(where, saved), "owners", where))
        _refuse_other_names(f"{where}['owners']", saved["owners"], rule, shapes)
        _check_memory(f"{where}['memory']", _mapping(f"{where}['memory']", _part(saved, "memory", where)), rule, owners)
    carried = _mapping("carried", _part(state, "carried") if line.carries else state.get("carried", {}))
    if carried and not line.carries:
        raise malformed("carried", sorted(carried), "nothing, for the rule carries nothing over")
    for name, tensor in carried.items():
        if not hasattr(tensor, "shape"):
            raise malformed(f"carried[{name!r}]", tensor, "a tensor")
        if shapes and name not in shapes:
            raise ValueError(
                f"carried[{name!r}] of this clipper state is of no parameter here, as {next(iter(shapes))!r} is; "
                f"{NOTHING_TAKEN}"
            )
        shape = tuple(tensor.shape)
        if shape != shapes.get(name, shape):
            raise malformed(f"the shape of carried[{name!r}]", shape, f"{shapes[name]}, that of its gradient")


def _refuse_other_names(where: str, owners: Sequence[Any], rule: Rule, shapes: Mapping[str, Shape]) -> None:
    """Raise `ValueError` where what is remembered is of tensors none of which is here: it would begin anew, unseen."""
    names = [name for name, _ in owners]
    if names and shapes and not isinstance(rule.scope, Group) and shapes.keys().isdisjoint(names):
        here = next(iter(shapes))
        raise ValueError(
            f"{where} of this clipper state are the parameters {shown(names[0])} and so on, and those here are "
            f"{here!r} and so on, so nothing was loaded: give attach the same model= as where it was saved"
        )


def refuse_other_memory(thresholds: Mapping[str, Mapping[str, Any]], line: LineUp, tensors: int) -> None:
    """Raise `ValueError` where the arrays of a memory are not those that this rule keeps for so many tensors."""
    for text, memory in thresholds.items():
        rule = _rule_of(text, line)
        expected = {} if rule is None else rule.threshold.memory_rows()
        if rule is None or (expected is not None and set(memory) != set(expected)):
            raise ValueError(f"this state is of another rule: it keeps {sorted(memory)}, and {line.rule!r} does not")
        by_name = any(phase.names is not None for phase in line.phases)
        segments = {Global: 1, Tensor: None if by_name else tensors}.get(type(rule.scope))
        for name, array in memory.items():
            rows = len(array) if expected is None or not expected[name] else expected[name]
            found = tuple(array.shape)
            if array.ndim == 2 and len(array) != rows:
                raise ValueError(f"this state is of another rule: {name!r} has {len(array)} numbers, not {rows}")
            if segments is not None and found and found[-1] != segments:
                raise ValueError(
                    f"this state is of other gradients: {name!r} is of {found[-1]} tensors, and there are {segments}"
                )


def malformed(where: str, found: object, expected: str) -> ValueError:
    """The error that names the key."""
    return ValueError(f"{where} of this clipper state is {shown(found)}, expected {expected}; {NOTHING_TAKEN}")


def _part(state: Mapping[str, Any], key: str, where: str = "") -> Any:
    if key not in state:
        raise ValueError(f"{where}[{key!r}] is missing in this clipper state; {NOTHING_TAKEN}")
    return state[key]


def _mapping(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise malformed(where, value, "a dict")
    return value


def _check_count(where: str, value: object) -> None:
    """Raise `ValueError` unless it is a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise malformed(where, value, "a whole number from 0")


def _rule_of(text: object, line: LineUp) -> Rule | None:
    """The rule whose memory has this key; None if there is none."""
    words = text.split() if isinstance(text, str) and len(text) <= LONGEST_KEY else []
    if len(words) != 3 or not all(word.removeprefix("-").isdecimal() for word in words) or " ".join(words) != text:
        return None
    return line.rule_of(key_of(text))


def _check_owners(where: str, owners: object) -> int | None:
    """How many segments the owners have together; None where none are named."""
    if not isinstance(owners, list | tuple):
        raise malformed(where, owners, "a list of names with their number of segments")
    for place, owner in enumerate(owners):
        if not (isinstance(owner, list | tuple) and len(owner) == 2 and isinstance(owner[0], str)):
            raise malformed(f"{where}[{place}]", owner, "a name and its number of segments")
        _check_count(f"{where}[{place}][1]", owner[1])
    return sum(count for _, count in owners) if owners else None


def _check_memory(where: str, memory: Mapping[str, Any], rule: Rule, segments: int | None) -> None:
    """Raise unless the arrays are those that the threshold keeps, of finite numbers from 0, one for each segment."""
    expected = rule.threshold.memory_rows()
    if expected is not None and memory and set(memory) != set(expected):
        raise malformed(where, sorted(memory, key=str), f"the arrays {sorted(expected)}")
    if segments is None and isinstance(rule.scope, Global):
        segments = 1
    for name, array in memory.items():
        place = f"{where}[{name!r}]"
        rows = None if expected is None else expected[name]
        for number, row in enumerate(_rows(place, array, rows)):
            found = _check_numbers(place if rows == 0 else f"{place}[{number}]", row, expected is None)
            segments = found if segments is None else segments
            if found != segments:
                raise malformed(place, f"{found} numbers", f"{segments}, one for each segment")


def _rows(where: str, array: object, rows: int | None) -> Sequence[Any]:
    """The rows of an array [n, G], or the one of an array [G]; `rows` is n, 0 for the second, None if not known."""
    if not isinstance(array, list | tuple):
        raise malformed(where, array, "a list of numbers")
    nested = bool(array) and isinstance(array[0], list | tuple)
    if rows is not None and nested != (rows > 0 and bool(array)):
        raise malformed(where, array, "a list of lists" if rows else "a list of numbers")
    if rows and len(array) != rows:
        raise malformed(where, f"{len(array)} lists", f"{rows}")
    return array if nested else [array]


def _check_numbers(where: str, row: object, signed: bool) -> int:
    """How many numbers the row has; each is finite, and where none is `signed` from 0."""
    if not isinstance(row, list | tuple):
        raise malformed(where, row, "a list of numbers")
    for place, number in enumerate(row):
        found = real_number(number) if isinstance(number, Real) else None
        plain = found is not None and math.isfinite(found)
        if not plain or (number < 0 and not signed):
            raise malformed(f"{where}[{place}]", number, "a finite number" if signed else "a finite number from 0")
    return len(row)
