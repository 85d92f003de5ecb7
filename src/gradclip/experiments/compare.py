"""The same training under several rules: `compare` runs it, for the tasks here and for a user's own function."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from gradclip.errors import Stopped, shown
from gradclip.experiments.comparison import Comparison, Contender
from gradclip.experiments.kept_runs import KeptRuns
from gradclip.experiments.outcome import Metric, Trained, TrainingOutcome
from gradclip.experiments.versions import versions
from gradclip.rules.arguments import is_whole, items_of
from gradclip.rules.rule import AnyRule, checked_rule
from gradclip.rules.text import rule_from_text

Train = Callable[[AnyRule, int], TrainingOutcome]
"""Trains from the beginning with a rule and a seed; the same two give the same outcome."""
OnRun = Callable[[str, Trained], None]
"""Told of each run when it has ended, with the text of its rule."""
Named = Iterable[str | AnyRule] | Mapping[str, str | AnyRule]


def compare(
    train: Train,
    rules: Named,
    seeds: int | Iterable[int] = 5,
    *,
    metric: Metric | None = None,
    title: str = "training",
    processes: int = 1,
    on_run: OnRun = lambda text, trained: None,
    keep: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Train once for each rule and seed, and compare what came of it.

    `rules` are texts (`"zclip:z=2.5"`), rules, or either of them by name; the first is the one that the others are
    compared with, usually `"none"`. `seeds` is a number of them, from 0 on, or the seeds; five or more give a verdict,
    and seven one that stands at 5 % when it is corrected for three rules. `metric` says what the `metric` of a
    `TrainingOutcome` is, whether low is good, and which difference does not matter. `train` starts anew in each call:
    weights and batches are drawn from the seed, the same for every rule. With several `processes` it has to be a
    function of a module, for new processes to find it.

    `keep` is a file in which each run is kept when it has ended, so that nothing that was trained is lost, whatever
    ends the process. A run that the file has is not trained again, and `on_run` not told of it.

    Raises `ValueError` for no rules or seeds or repeated ones, and for a file of another `title`, `metric`, version, or
    rule of the same text; `FileNotFoundError` where the folder of that is missing; `TypeError` for seeds that are no
    whole numbers, and where `train` returns something else; and for Ctrl-C `ComparisonStopped`, a `KeyboardInterrupt`
    with the comparison on the seeds that every rule has trained on, where there is one.

    >>> def train(rule, seed):
    ...     weight = torch.nn.Parameter(torch.tensor([10.0 + seed]))
    ...     optimizer = torch.optim.SGD([weight], lr=0.03)
    ...     gradclip.attach(optimizer, rule)
    ...     for step in range(2):
    ...         optimizer.zero_grad()
    ...         (weight**4).sum().backward()
    ...         optimizer.step()
    ...     return TrainingOutcome(metric=abs(weight.item()))
    >>> comparison = compare(train, ["none", "global:1"], metric=Metric("distance"))
    >>> comparison.verdict("global:1")
    'better'
    """
    contenders, numbers = _named(rules), _numbers(seeds)
    metric = metric or Metric()
    if not is_whole(processes, 1):
        raise ValueError(f"processes are a whole number from 1, got {shown(processes)}")
    kept = None if keep is None else KeptRuns(in_a_folder(Path(keep)), title, metric)
    runs = kept.under({text: repr(rule) for text, rule in contenders.items()}) if kept else {}
    jobs = [(text, seed) for seed in numbers for text in contenders if (text, seed) not in runs]

    def found(numbers: Iterable[int]) -> Comparison:
        rules = [
            Contender(text, repr(rule), tuple(runs[text, seed] for seed in numbers))
            for text, rule in contenders.items()
        ]
        return Comparison(title, metric, tuple(rules), versions())

    try:
        for (text, seed), trained in _all_trained(train, contenders, jobs, processes):
            runs[text, seed] = trained
            if kept:
                kept.add(text, repr(contenders[text]), trained)
            on_run(text, trained)
    except KeyboardInterrupt as stopped:
        whole = [seed for seed in numbers if all((text, seed) in runs for text in contenders)]
        if not whole:
            raise
        raise ComparisonStopped(stopped, found(whole)) from None
    return found(numbers)


class ComparisonStopped(Stopped):
    """Somebody ended a comparison by the signal in `args`; `found` has the seeds that every rule had trained on.

    >>> def train(rule, seed):
    ...     if seed == 2:
    ...         raise KeyboardInterrupt  # as Ctrl-C does
    ...     return TrainingOutcome(metric=1.0)
    >>> try:
    ...     compare(train, ["none", "global:1"], seeds=5)
    ... except ComparisonStopped as stopped:
    ...     print(stopped.found.seeds)
    [0, 1]
    """

    found: Comparison


def in_a_folder(path: Path) -> Path:
    """The path of a file, if there is the folder that it is to be written into."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written, because there is no folder {path.parent}: make it first")
    return path


def timed(train: Train, rule: AnyRule, seed: int) -> Trained:
    """One run, with its duration."""
    began = time.perf_counter()
    outcome = train(rule, seed)
    if not isinstance(outcome, TrainingOutcome):
        raise TypeError(
            f"train(rule, seed) must return a TrainingOutcome, got {outcome!r}: write TrainingOutcome(metric=...)"
        )
    return Trained(seed, outcome, time.perf_counter() - began)


def _all_trained(
    train: Train, rules: Mapping[str, AnyRule], jobs: list[tuple[str, int]], processes: int
) -> Iterable[tuple[tuple[str, int], Trained]]:
    """Each job with its run, as they end."""
    if min(processes, len(jobs)) <= 1:
        yield from (((text, seed), timed(train, rules[text], seed)) for text, seed in jobs)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import active_children, get_context

    # Started afresh, since a process that was forked while a framework has threads may hang.
    others = set(active_children())
    with ProcessPoolExecutor(processes, get_context("spawn"), _serve) as pool:
        futures = {pool.submit(timed, train, rules[text], seed): (text, seed) for text, seed in jobs}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except KeyboardInterrupt:
            for process in set(active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _serve() -> None:
    """Begin a process that trains for another one: deaf to Ctrl-C, which that one answers, and ended with it."""
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[parent_process()], daemon=True).start()


def _end_with(other: Any) -> None:
    """End this process when the other one has ended, however that was."""
    other.join()
    os._exit(1)


def _named(rules: Named) -> dict[str, AnyRule]:
    """The rules by the text that names each."""
    if isinstance(rules, str):
        raise TypeError(f"expected several rules, got the text {rules!r}: write a list, [{rules!r}]")
    pairs = rules.items() if isinstance(rules, Mapping) else ((_text(rule), rule) for rule in rules)
    listed = [(text, rule_from_text(rule) if isinstance(rule, str) else checked_rule(rule)) for text, rule in pairs]
    found = dict(listed)
    if not found or len(found) < len(listed):
        raise ValueError(f"a comparison needs different rules, got {', '.join(text for text, _ in listed) or 'none'}")
    return found


def _text(rule: str | AnyRule) -> str:
    return rule if isinstance(rule, str) else repr(rule)


def _numbers(seeds: int | Iterable[int]) -> list[int]:
    given = [*range(seeds)] if isinstance(seeds, int) else items_of(seeds)
    numbers = [int(seed) for seed in given or () if isinstance(seed, Integral)]
    if given is None or isinstance(seeds, str | bool) or len(numbers) < len(given):
        raise TypeError(f"seeds are a number of them, or whole numbers, got {shown(seeds)}: write 5 for 0 to 4")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"a comparison needs different seeds, got {numbers}: write 5 for the seeds 0 to 4")
    return numbers
