"""What one step did, as plain data: one line of a run, and all that a sink is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from gradclip.errors import shown
from gradclip.telemetry.lines import LARGEST, NewerSchema

SCHEMA = 2
"""Since 2 the names of tensors are not in each line of a run: see `gradclip.telemetry.tensor_names`."""

MOST_OFFENDERS = 3
MOST = LARGEST[int]
TENSORS = "tensors."


class StepNumbers(Protocol):
    """What every record of a step has, be it a `Result`, or the arrays that a compiled step gives, on the host."""

    @property
    def norm_before(self) -> Any: ...
    @property
    def norm_after(self) -> Any: ...
    @property
    def threshold(self) -> Any: ...
    @property
    def coefficient(self) -> Any: ...
    @property
    def clipped(self) -> Any: ...
    @property
    def skipped(self) -> Any: ...
    @property
    def nonfinite(self) -> Any: ...


@dataclass(frozen=True)
class Event:
    """What one step did; norms and threshold have the unit of the gradient.

    `rule` is the rule as a sentence, `offenders` are the names of the first three tensors with a non-finite element,
    `skipped` says that the optimizer took no step (an error was raised, or the rule or a loss scaler left it out; such
    steps count in `step`), `time` is in seconds since 1970. `tensors` has the norm of each tensor before clipping, if
    that was asked for. `norm` names the norm that all of these are: L2, L1, Lp, RMS, or Linf, as of single elements.
    `loss` is the loss that the gradient is of, None where nobody told it.

    >>> event = Event(7, "all tensors together", "cpu", 5.0, 1.0, 1.0, 0.2, True)
    >>> Event.from_dict(event.to_dict()) == event
    True
    """

    step: int
    rule: str
    engine: str
    norm_before: float
    norm_after: float
    threshold: float
    coefficient: float
    clipped: bool
    skipped: bool = False
    nonfinite: int = 0
    offenders: tuple[str, ...] = ()
    time: float = 0.0
    tensors: Mapping[str, float] | None = None
    norm: str = "L2"
    loss: float | None = None

    @classmethod
    def of(
        cls,
        numbers: StepNumbers,
        *,
        step: int,
        rule: str,
        engine: str,
        norm: str,
        time: float,
        offenders: Sequence[str] = (),
        tensors: Mapping[str, float] | None = None,
        loss: float | None = None,
    ) -> Event:
        """The event of a step with these `numbers`; here each field gets its type, whoever observed it."""
        return cls(
            step=int(step),
            rule=rule,
            engine=engine,
            norm_before=float(numbers.norm_before),
            norm_after=float(numbers.norm_after),
            threshold=float(numbers.threshold),
            coefficient=float(numbers.coefficient),
            clipped=bool(numbers.clipped),
            skipped=bool(numbers.skipped),
            nonfinite=int(numbers.nonfinite),
            offenders=tuple(offenders[:MOST_OFFENDERS]),
            time=time,
            tensors=tensors,
            norm=norm,
            loss=loss,
        )

    def to_dict(self) -> dict[str, Any]:
        """The event as plain data for JSON. A number that JSON has not is None there, and a word in `not_finite`."""
        words: list[list[str]] = []
        data: dict[str, Any] = {"schema": SCHEMA}
        for name in NAMES:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                words.append([name, str(value)])
                value = None
            data[name] = value
        data["offenders"] = list(self.offenders)
        if self.tensors is not None:
            data["tensors"] = self.tensors
            if not math.isfinite(sum(self.tensors.values())):
                strange = {name: norm for name, norm in self.tensors.items() if not math.isfinite(norm)}
                words += [[TENSORS + name, str(norm)] for name, norm in strange.items()]
                data["tensors"] = {**self.tensors, **dict.fromkeys(strange)}
        return {**data, "not_finite": words}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """The event that became `data`; what is no event raises `ValueError`.

        Unknown keys are ignored, and a field with a default may be missing: an earlier gradclip had not all of them.
        """
        refuse_schema(data)
        if missing := [name for name in NAMES if name not in data and name not in DEFAULTS]:
            raise ValueError(f"an event has no {missing[0]!r}")
        values = restored({**DEFAULTS, **data})
        refuse_wrong(values)
        floats = {name: float(values[name]) for name in FLOATS if values[name] is not None}
        tensors = None if values["tensors"] is None else {name: float(norm) for name, norm in values["tensors"].items()}
        return cls(**values | floats | {"offenders": tuple(values["offenders"]), "tensors": tensors})


def refuse_schema(data: Any) -> None:
    """Raise for what is no event, and for one that a later gradclip wrote."""
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if type(schema) is not int or schema < 1:
        raise ValueError("this is not an event: an event is an object with a 'schema' from 1")
    if schema > SCHEMA:
        raise NewerSchema(f"an event has schema {schema}, and this gradclip reads up to {SCHEMA}: upgrade gradclip")


def restored(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in `data`, with the numbers for which there are words."""
    pairs = data.get("not_finite", [])
    if not isinstance(pairs, list) or not all(isinstance(p, list) and [*map(type, p)] == [str, str] for p in pairs):
        raise ValueError(f"'not_finite' of an event is a list of [name, word], found {shown(pairs)}")
    words = {name: float(word) for name, word in pairs}
    tensors = data["tensors"]
    if isinstance(tensors, Mapping):
        tensors = {name: words.get(TENSORS + str(name), norm) for name, norm in tensors.items()}
    return {name: words.get(name, data[name]) for name in NAMES} | {"tensors": tensors}


def refuse_wrong(values: Mapping[str, Any]) -> None:
    """Raise for a field of a wrong kind."""
    for name, kinds in KINDS.items():
        value, kind = values[name], kinds[0]
        if type(value) not in kinds:
            raise ValueError(f"the {name!r} of an event is a {kind.__name__}, found {shown(value)}")
        if kind is int and not 0 <= value < MOST:
            raise ValueError(f"the {name!r} of an event is a whole number from 0, found {shown(value)}")
    if not all(type(name) is str for name in values["offenders"]):
        raise ValueError(f"the 'offenders' of an event are names, found {shown(values['offenders'])}")
    for name, norm in (values["tensors"] or {}).items():
        if type(norm) not in NUMBER:
            raise ValueError(f"the norm of {name!r} in an event is a float, found {shown(norm)}")


NUMBER = (float, int)


def kinds_of(annotation: Any) -> tuple[type, ...]:
    """The types that JSON gives for a field that is annotated so; the first is the one that a message names."""
    in_json = {float: NUMBER, tuple: (list,), Mapping: (dict,)}
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return tuple(kind for part in parts for kind in in_json.get(get_origin(part) or part, (part,)))


NAMES = tuple(field.name for field in fields(Event))
KINDS = {name: kinds_of(annotation) for name, annotation in get_type_hints(Event).items()}
FLOATS = tuple(name for name, kinds in KINDS.items() if kinds[0] is float)
DEFAULTS: dict[str, Any] = {
    field.name: [*field.default] if isinstance(field.default, tuple) else field.default
    for field in fields(Event)
    if field.default is not MISSING
}
"""What a field that is missing means, as JSON has it."""
