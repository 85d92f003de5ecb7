"""State: what a clipper has learnt, as dicts, lists, numbers and strings that any engine can take up again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from gradclip.errors import shown
from gradclip.rules.arguments import real_number
from gradclip.rules.arrays import Array
from gradclip.rules.plain import described
from gradclip.rules.rule import AnyRule
from gradclip.rules.segments import Shape
from gradclip.step.layout import LineUp
from gradclip.step.memory import Memories, text_of
from gradclip.step.state_check import refuse_malformed

VERSION = 2
"""Version 1 had the sentence of the rule as `rule`; it is read still."""


FORMER_WORDS = {
    "learning the limit for an outlier": "fed limit",
    "learning clipped norms": "fed clipped",
    "learning no outlier": "fed accepted",
}
"""Of the sentences of version 1; what is worded anew later is no matter to a state."""


class HasState(Protocol):
    """Whose state it is: a clipper."""

    rule: AnyRule
    line: LineUp
    step: Any
    consecutive_skips: int
    memories: Memories
    carried: dict[str, Any]

    def shapes(self) -> Mapping[str, Shape]: ...


def state_of(clipper: HasState, to_host: Callable[[Array], list[float]]) -> dict[str, Any]:
    """The state of a clipper: see `Clipper.state_dict`.

    Its structure follows from the rule alone, also before the first step, since distributed checkpoints fill in what is
    there and nothing else.
    """
    return {
        "version": VERSION,
        "rule": described(clipper.rule),
        "words": repr(clipper.rule),
        "step": clipper.step,
        "consecutive_skips": clipper.consecutive_skips,
        "thresholds": {text_of(key): nothing(names) for key, names in clipper.line.remembered.items()}
        | clipper.memories.plain(to_host),
        **({"carried": dict(clipper.carried)} if clipper.line.carries else {}),
    }


def load_state(clipper: HasState, state: Mapping[str, Any]) -> None:
    """Give a clipper the state that became `state`; that of another rule is refused, and what is malformed."""
    state = checked_state(clipper, state)
    clipper.step, clipper.consecutive_skips = int(state["step"]), int(state["consecutive_skips"])
    clipper.memories.load(state["thresholds"])
    clipper.carried = dict(state.get("carried", {}))


def checked_state(clipper: HasState, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """`state` as this clipper takes it up, or the error that says why it cannot."""
    if not isinstance(state, Mapping):
        raise TypeError(f"a clipper state is the dict that state_dict() gave, got {shown(state)}")
    if "version" not in state:
        kind = "that of a trainer's callback, which takes it itself" if "clippers" in state else shown(state)
        raise ValueError(f"a clipper state is the dict that its state_dict() gave, with a version; this is {kind}")
    version = real_number(state.get("version"))
    if version not in (1, VERSION):
        found = shown(state.get("version"))
        raise ValueError(f"expected a clipper state of version {VERSION}, found {found}")
    rule = _sentence_of_version_1(clipper.rule) if version == 1 else described(clipper.rule)
    if not same_data(state.get("rule"), rule):
        words = state.get("rule" if version == 1 else "words")
        raise ValueError(f"this state belongs to the rule {shown(words, 1000)}, the clipper has {clipper.rule!r}")
    state = {**state, "thresholds": without_nothing(state.get("thresholds"))} if "thresholds" in state else state
    refuse_malformed(state, clipper.line, clipper.shapes())
    return state


def nothing(names: Iterable[str]) -> dict[str, Any]:
    """A threshold that has not met a gradient, and will remember numbers of these names."""
    return {"owners": [], "memory": {name: [] for name in names}}


def without_nothing(thresholds: object) -> object:
    """The memories without those of thresholds that had not met a gradient; what is no such thing stays."""
    if not isinstance(thresholds, Mapping):
        return thresholds
    return {key: saved for key, saved in thresholds.items() if not _is_nothing(saved)}


def _is_nothing(saved: object) -> bool:
    memory = saved.get("memory") if isinstance(saved, Mapping) else None
    return isinstance(memory, Mapping) and len(memory) > 0 and same_data(saved, nothing(map(str, memory)))


def same_data(found: object, expected: object) -> bool:
    """Whether two pieces of plain data are equal; arrays are none, and would answer for each element."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or found.keys() != expected.keys():
            return False
        return all(same_data(found[name], part) for name, part in expected.items())
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return False
        return all(same_data(one, part) for one, part in zip(found, expected, strict=True))
    return isinstance(found, int | float | str | None) and found == expected


def _sentence_of_version_1(rule: AnyRule) -> str:
    sentence = re.sub(r"its norm after (\d+) in a row", r"readmitting after \1", repr(rule))
    for words, former in FORMER_WORDS.items():
        sentence = sentence.replace(words, former)
    return sentence
