"""Runs of a comparison, kept in a file as they end, from which it goes on wherever it was stopped.

The first line says what is trained and by which versions, and each other one has a run. A line is added in one piece,
and lies on the disk before the next run begins; one that has no end is not there yet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from gradclip.experiments.comparison import Comparison, Contender
from gradclip.experiments.outcome import Metric, Trained
from gradclip.experiments.versions import installed, versions
from gradclip.telemetry.lines import NUMBER, Each, fits, value_of, whole_lines

SCHEMA = "gradclip.compare-runs/1"
BEGIN = b'{"schema": "gradclip.compare-runs/'
NUMBER_OR_NONE = (*NUMBER, type(None))
HEAD = {"schema": str, "title": str, "metric": {"name": str, "best": str}, "versions": Each(str)}
RUN = {
    "rule": str,
    "sentence": str,
    "seed": int,
    "seconds": NUMBER,
    "metric": NUMBER_OR_NONE,
    "training": NUMBER_OR_NONE,
    "clipped": NUMBER_OR_NONE,
    "diverged": (str, type(None)),
    "curve": [[NUMBER_OR_NONE]],
}
Job = tuple[str, int]
"""The text of a rule, and a seed."""


class KeptRun(NamedTuple):
    """What a rule has said of itself, and its run."""

    sentence: str
    trained: Trained


class KeptRuns:
    """The runs in the file `path` of the training called `title`, measured by `metric`."""

    def __init__(self, path: Path, title: str, metric: Metric) -> None:
        self.path = path
        self._head = {"title": title, "metric": asdict(metric)}

    def under(self, rules: Mapping[str, str]) -> dict[Job, Trained]:
        """The runs that there are under these rules, sentences by texts.

        `ValueError` where the file is damaged, or of another training, of other versions or of another rule under the
        same text; it says what differs and what to do.
        """
        found = self.read()
        refuse_other_rules(found, rules, self.path)
        return {job: kept.trained for job, kept in found.items() if job[0] in rules}

    def read(self) -> dict[Job, KeptRun]:
        """All runs; none where there is no file. A last line that has no end is cut off."""
        if not self.path.exists():
            return {}
        head, found, whole = self._parts()
        if head is not None:
            self.refuse_others(head, self.path)
        else:
            self._refuse_another_file()
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        return found

    def so_far(self, texts: Iterable[str]) -> Comparison | None:
        """The comparison of these rules on the seeds that all of them have, of whatever versions; None where there is
        no such seed."""
        head, found, _ = self._parts() if self.path.exists() else (None, {}, 0)
        texts = list(texts)
        seeds = sorted({seed for _, seed in found if all((text, seed) in found for text in texts)})
        if head is None or not seeds:
            return None
        rules = [
            Contender(text, found[text, seeds[0]].sentence, tuple(found[text, seed].trained for seed in seeds))
            for text in texts
        ]
        return Comparison(head["title"], Metric(**head["metric"]), tuple(rules), head["versions"])

    def _parts(self) -> tuple[Mapping[str, Any] | None, dict[Job, KeptRun], int]:
        """What the file begins with, its runs, and the length of all lines that have an end."""
        head: Mapping[str, Any] | None = None
        found: dict[Job, KeptRun] = {}
        whole = 0
        for number, line in self._lines():
            whole += len(line or b"") + 1
            try:
                value = value_of(line)
                if number > 1:
                    found.setdefault(*_run_in(value))
                elif fits(value, HEAD) and value["schema"] == SCHEMA:
                    head = value
                else:
                    raise ValueError(f"it does not begin with the schema {SCHEMA!r}")
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{self.path} is damaged: line {number}, {error}; remove "
                    + ("that line, and its run is trained again" if number > 1 else "it, and all is trained again")
                ) from None
        return head, found, whole

    def _refuse_another_file(self) -> None:
        """`ValueError` for a file without a line that has an end, unless it is the beginning of one of these files."""
        with open(self.path, "rb") as stream:
            begin = stream.read(len(BEGIN)).rstrip(b"\0")
        if begin != BEGIN[: len(begin)]:
            raise ValueError(f"{self.path} is a file of something else, which nothing is written into; {ELSEWHERE}")

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        with open(self.path, "rb") as stream:
            yield from enumerate(whole_lines(stream), 1)

    def refuse_others(self, head: Mapping[str, Any], path: Path) -> None:
        """`ValueError` where what a file begins with is not this training by these versions."""
        there = {**head, "metric": {**asdict(Metric()), **head["metric"]}}  # one of before has fewer fields
        for name, here in self._head.items():
            if there[name] != here:
                raise ValueError(
                    f"{path} is of another training: its {name} is {there[name]!r}, here {here!r}; {ELSEWHERE}"
                )
        then, now = head["versions"], installed(head["versions"])
        if changed := [f"{name} {then[name]} there, {now[name]} here" for name in then if then[name] != now[name]]:
            raise ValueError(
                f"{path} is of other versions: {', '.join(changed)}; go on with those of the file, or {ELSEWHERE}"
            )

    def add(self, text: str, sentence: str, trained: Trained) -> None:
        """Keep a run that has ended."""
        lines = [{"rule": text, "sentence": sentence, **trained.to_json()}]
        if not self.path.exists() or not self.path.stat().st_size:
            lines.insert(0, {"schema": SCHEMA, **self._head, "versions": versions()})
        with open(self.path, "ab", buffering=0) as stream:
            stream.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())
            os.fsync(stream.fileno())

    def add_those_in(self, document: Path, rules: Mapping[str, str]) -> None:
        """Keep the runs of an earlier comparison too, which is one of this training in a document; it is refused as
        the file itself is."""
        if not document.exists():
            return
        known = self.read()
        try:
            data = value_of(document.read_bytes())
            found = Comparison.from_json(data)
            head = {name: data[name] for name in ("title", "metric", "versions")}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{document} is damaged: {error}; remove it, or {ELSEWHERE}") from None
        self.refuse_others(head, document)
        runs = {(one.text, run.seed): KeptRun(one.sentence, run) for one in found.contenders for run in one.runs}
        refuse_other_rules(runs, rules, document)
        for (text, seed), kept in runs.items():
            if (text, seed) not in known:
                self.add(text, *kept)

    def remove_if_all_in(self, comparison: Comparison) -> None:
        """Remove the file if every run of it is in the comparison, which has been written elsewhere."""
        there = {(contender.text, run.seed) for contender in comparison.contenders for run in contender.runs}
        if self.read().keys() <= there:
            self.path.unlink(missing_ok=True)


ELSEWHERE = "give another place for this comparison"


def refuse_other_rules(found: Mapping[Job, KeptRun], rules: Mapping[str, str], path: Path) -> None:
    """`ValueError` where a text there names another rule than here, by what they say of themselves."""
    for (text, _), kept in found.items():
        if kept.sentence != rules.get(text, kept.sentence):
            raise ValueError(
                f"{path} has runs of another rule {text!r}: there {kept.sentence!r}, here {rules[text]!r}; name it "
                f"otherwise, or {ELSEWHERE}"
            )


def _run_in(value: Any) -> tuple[Job, KeptRun]:
    """The run of a line."""
    if not fits(value, RUN):
        raise ValueError("it is no run")
    return (value["rule"], value["seed"]), KeptRun(value["sentence"], Trained.from_json(value))
