"""The number that trainings are judged by: what a script prints, keeps in a table, or tells of its metrics."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gradclip.rules.arguments import real_number
from gradclip.telemetry.lines import fits, read_lines
from gradclip.watch.told import METRICS

TABLES = (".csv", ".tsv", ".json", ".jsonl")
NUMBER = (
    r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\d|[.,]\d)"
    r"|[-+]?\b(?:nan|inf(?:inity)?)\b"
)
"""A number as scripts print it, with commas between thousands or not; one with a decimal comma is none."""
BEHIND = r"[\"']?(?:\s*[:=|]\s*|\s+)(?:tensor\()?"
"""What may stand between a name and its number."""
PRINTED = re.compile(rf"([A-Za-z_][\w./-]*(?: [A-Za-z_][\w./-]*)?){BEHIND}({NUMBER})", re.IGNORECASE)
"""A name of one or two words, and a number behind it."""
COLOURS = re.compile(r"\x1b\[[\d;]*m")
HELD_OUT = re.compile(
    r"(^|[_\W])(val(id(ation)?)?|eval|test|dev|heldout|held_out|acc(uracy)?|bleu|ppl|perplexity|f1|auc|wer)([_\W]|\d|$)",
    re.IGNORECASE,
)
RETURNS = re.compile(r"(^|[_\W])(returns?|rewards?|scores?|episodes?_?(returns?|rewards?))([_\W]|\d|$)", re.IGNORECASE)
"""Names that say what a policy gets: the loss of such a training is no measure of it."""
MOST_TEXT = 1 << 26
"""Characters of what a script printed that are looked through, from the end."""
MOST_NAMES = 6


class TableState(NamedTuple):
    """What a table was at a time: what changes when it is written, and its values."""

    stamp: tuple[int, ...]
    values: list[float]


ABSENT = TableState((), [])


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

    def before(self) -> TableState:
        """What the table is before a training, which may add to it or write it anew."""
        if self.table is None or not self.table.is_file():
            return ABSENT
        return TableState(stamp_of(self.table), [*in_table(self.table, self.name)])

    def values(self, run: Path, log: Path, before: TableState = ABSENT) -> list[float]:
        """The values in their order, of the training that is recorded in `run` and printed to `log`; none if none is.

        Of a table that the training has not written there are none, and of one to which it has added, those are left
        out that were there `before`. Raises `ValueError` for a table that cannot be read, and where a name that is
        printed stands for several numbers.
        """
        if self.table is not None:
            if self.table.is_file() and stamp_of(self.table) == before.stamp:
                return []
            found, old = list(in_table(self.table, self.name)), before.values
            return found[len(old) :] if len(found) > len(old) and repr(found[: len(old)]) == repr(old) else found
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
    named = rf"(?:(?<![\w.])(?P<word>[A-Za-z][\w-]*)[ \t]+)?(?<![\w.]){re.escape(name)}"
    return re.compile(rf"{named}{BEHIND}(?P<number>{NUMBER})", re.IGNORECASE)


def printed(text: str, name: str) -> list[float]:
    """The values of a name in what was printed; what an expression finds that is no number is left out.

    Raises `ValueError` where the name is a part of several, such as of "train loss" and "val loss".
    """
    pattern = expression(name)
    if "number" not in pattern.groupindex:
        numbers = (number_in(found.group(1) or "") for found in pattern.finditer(text))
        return [number for number in numbers if number is not None]
    by_word: dict[str, list[float]] = {}
    for found in pattern.finditer(text):
        number = number_in(found["number"])
        if number is not None:
            by_word.setdefault((found["word"] or "").lower(), []).append(number)
    if "" not in by_word and len(by_word) > 1:
        several = " and ".join(repr(f"{word} {name}") for word in list(by_word)[:2])
        raise ValueError(f"--metric {name}: the script prints {several}: give the whole name")
    return by_word.get("") or [number for numbers in by_word.values() for number in numbers]


def names_in(run: Path, log: Path) -> list[str]:
    """The names of what the script told, then of what it printed that looks like a held-out metric or a return."""
    told = Counter({name: len(values) for name, values in told_in(run).items()})
    seen = Counter(found.group(1) for found in PRINTED.finditer(text_of(log)))
    likely = [name for name, _ in seen.most_common() if HELD_OUT.search(name) or RETURNS.search(name)]
    return list(dict.fromkeys([name for name, _ in told.most_common()] + likely))[:MOST_NAMES]


def text_of(log: Path) -> str:
    """The end of what was printed."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - MOST_TEXT))
        return COLOURS.sub("", file.read().decode("utf-8", "replace"))


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


def stamp_of(table: Path) -> tuple[int, ...]:
    """What changes when a file is written, be it with what it had."""
    known = table.stat()
    return known.st_mtime_ns, known.st_size, known.st_ino


def in_table(table: Path, name: str) -> Iterator[float]:
    """The values of a column, or of a name in JSON."""
    try:
        rows = rows_of(table)
    except (OSError, ValueError) as error:
        raise ValueError(f"--metric {table}:{name}: the file cannot be read: {error}") from None
    yield from numbers_of(rows, name.split("."))


def rows_of(table: Path) -> Any:
    """What a table has, as plain data."""
    text = table.read_text(encoding="utf-8")
    if table.suffix.lower() in (".csv", ".tsv"):
        return [*csv.DictReader(text.splitlines(), delimiter="\t" if table.suffix.lower() == ".tsv" else ",")]
    if table.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def names_of(data: Any, before: str = "") -> Iterator[str]:
    """The names of the numbers in data of lists and dicts, as a path with dots."""
    if isinstance(data, list):
        for part in data:
            yield from names_of(part, before)
    elif isinstance(data, Mapping):
        for name, part in data.items():
            yield from names_of(part, f"{before}.{name}" if before else str(name))
    elif before and any(True for _ in numbers_of(data, [])):
        yield before


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
    """The number that a text is, if it is one."""
    try:
        return float(text.replace(",", "") if re.fullmatch(NUMBER, text.strip(), re.IGNORECASE) else text)
    except ValueError:
        return None
