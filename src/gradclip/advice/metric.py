"""The number that trainings are judged by: what a script prints, keeps in a table, or tells of its metrics."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradclip.rules.arguments import real_number
from gradclip.telemetry.lines import fits, read_lines
from gradclip.watch.told import METRICS

TABLES = (".csv", ".tsv", ".json", ".jsonl")
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\b(?:nan|inf(?:inity)?)\b"
PRINTED = re.compile(rf"([A-Za-z_][\w./-]*(?: [A-Za-z_][\w./-]*)?)[\"']?\s*(?:[:=]\s*|\s)({NUMBER})", re.IGNORECASE)
"""A name of one or two words, and a number behind it."""
HELD_OUT = re.compile(
    r"(^|[_\W])(val(id(ation)?)?|eval|test|dev|heldout|held_out|acc(uracy)?|bleu|ppl|perplexity|f1|auc|wer)([_\W]|\d|$)",
    re.IGNORECASE,
)
RETURNS = re.compile(r"(^|[_\W])(returns?|rewards?|scores?|episodes?_?(returns?|rewards?))([_\W]|\d|$)", re.IGNORECASE)
"""Names that say what a policy gets: the loss of such a training is no measure of it."""
MOST_TEXT = 1 << 26
"""Characters of what a script printed that are looked through, from the end."""
MOST_NAMES = 6


@dataclass(frozen=True)
class ScriptMetric:
    """A number that a script gives of its model: `name` is its name, or a regular expression with one group for it.

    Of several the last are read. It is looked for in `table`, a CSV, JSON or JSONL file that the script writes or adds
    to, if there is one; else among what the script told by `gradclip.metric` or a logger; else in what it printed.
    """

    name: str
    maximize: bool = False
    table: Path | None = None

    @classmethod
    def of(cls, text: str, maximize: bool = False) -> ScriptMetric:
        """The metric that a person means by `text`: NAME, a regular expression with a group, or FILE:NAME.

        Raises `ValueError` for an expression that is none.
        """
        file, _, name = text.rpartition(":")
        if Path(file).suffix.lower() in TABLES and name:
            return cls(name, maximize, Path(file))
        if not text:
            raise ValueError("a metric has a name: write --metric val_loss")
        expression(text)
        return cls(text, maximize)

    def before(self) -> list[float]:
        """What the table says before a training, which may add to it."""
        return [*in_table(self.table, self.name)] if self.table is not None and self.table.is_file() else []

    def values(self, run: Path, log: Path, before: Sequence[float] = ()) -> list[float]:
        """The values in their order, of the training that is recorded in `run` and printed to `log`; none if none is.

        Of a table to which the training has added, those are left out that were there `before`. Raises `ValueError`
        for a table that cannot be read.
        """
        if self.table is not None:
            found = list(in_table(self.table, self.name))
            old = len(before)
            return found[old:] if repr(found[:old]) == repr([*before]) else found
        return told_in(run).get(self.name) or [*printed(text_of(log), self.name)]

    def __str__(self) -> str:
        return self.name if self.table is None else f"{self.table}:{self.name}"


def expression(name: str) -> re.Pattern[str]:
    """What finds the number of this name in a text: the name with a number behind it, or an expression with a group."""
    try:
        given = re.compile(name)
    except re.error as error:
        if "(" in name:
            raise ValueError(f"--metric {name}: no regular expression: {error}") from None
        given = re.compile(re.escape(name))
    if given.groups > 1:
        raise ValueError(f"--metric {name}: an expression with one group, which is the number, has {given.groups}")
    if given.groups:
        return given
    return re.compile(rf"(?<![\w.]){re.escape(name)}[\"']?\s*(?:[:=]\s*)?({NUMBER})", re.IGNORECASE)


def printed(text: str, name: str) -> Iterator[float]:
    """The values of a name in what was printed."""
    for found in expression(name).finditer(text):
        try:
            yield float(found.group(1))
        except ValueError:  # an expression of the user's may find anything
            continue


def names_in(run: Path, log: Path) -> list[str]:
    """The names of what look like held-out metrics, or like what a policy gets, those most often given first."""
    every = Counter({name: len(values) for name, values in told_in(run).items()})
    every.update(Counter(found.group(1) for found in PRINTED.finditer(text_of(log))))
    return [name for name, _ in every.most_common() if HELD_OUT.search(name) or RETURNS.search(name)][:MOST_NAMES]


def text_of(log: Path) -> str:
    """The end of what was printed."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - MOST_TEXT))
        return file.read().decode("utf-8", "replace")


def told_in(run: Path) -> dict[str, list[float]]:
    """What the script told, by name; damaged lines are left out."""
    found: dict[str, list[float]] = {}

    def take(line: Any) -> None:
        if not fits(line, {"name": str, "value": (int, float, str)}):
            raise ValueError("a line of metrics is of a wrong kind")
        found.setdefault(line["name"], []).append(float(line["value"]))

    if (run / METRICS).is_file():
        read_lines(run / METRICS, take)
    return found


def in_table(table: Path, name: str) -> Iterator[float]:
    """The values of a column, or of a name in JSON."""
    try:
        text = table.read_text(encoding="utf-8")
        if table.suffix.lower() in (".csv", ".tsv"):
            rows: Any = [*csv.DictReader(text.splitlines(), delimiter="\t" if table.suffix.lower() == ".tsv" else ",")]
        elif table.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"--metric {table}:{name}: the file cannot be read: {error}") from None
    yield from numbers_of(rows, name.split("."))


def numbers_of(data: Any, path: list[str]) -> Iterator[float]:
    """The numbers at a path of names in data of lists and dicts; of a list each part is looked through."""
    if isinstance(data, list):
        for part in data:
            yield from numbers_of(part, path)
    elif isinstance(data, Mapping):
        if ".".join(path) in data:
            yield from numbers_of(data[".".join(path)], [])
        elif path and path[0] in data:
            yield from numbers_of(data[path[0]], path[1:])
    elif not path:
        number = real_number(data) if not isinstance(data, str) else number_in(data)
        if number is not None:
            yield number


def number_in(text: str) -> float | None:
    """The number that a text is."""
    try:
        return float(text)
    except ValueError:
        return None
