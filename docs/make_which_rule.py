"""Write the page that says which rule to take, from the record of the search and the documents of evidence.

python docs/make_which_rule.py            write docs/which-rule.md and its picture
python docs/make_which_rule.py --check    exit with 1 if the page is out of date

Every number is made from `docs/evidence/rule-search.json`, and in the chooser from the documents of single tasks.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path

from gradclip.experiments.showing.comparison_table import figure
from made import options_of, table, write
from make_evidence import read
from rule_candidates import CANDIDATES
from rule_search import (
    DESIGN,
    FACTORS,
    GRID,
    MOMENTUM,
    OPTIMIZERS,
    SCREENED_ON,
    SEEDS,
    TEST,
    Loss,
    Record,
    costs_of_grid,
    losses,
    trained,
)
from rule_search_picture import NAMES, save_grid
from trained import wrapped

DOCS = Path(__file__).resolve().parent
PAGE, PICTURE = DOCS / "which-rule.md", DOCS / "evidence" / "rule-search.png"
DECISION = "0051-how-a-rule-without-a-threshold-is-searched.md"
CHOOSER = (
    ("you train with", "and", "take", "because"),
    (
        "Adam, AdamW",
        "",
        "`ClipGradByGlobalNorm(0.1)`, or any number below the usual norms",
        "{small_unseen} of {unseen} settings lost that nothing was chosen on, without clipping {none_adamw_unseen}: "
        "[below](#by-threshold); a GPT is {gpt} with it on {gpt_wins} of {gpt_seeds} seeds: "
        "[gpt](evidence-at-size.md#gpt)",
    ),
    (
        "SGD",
        "",
        "`Rule(threshold=StepLength(1.0))`, on a command line `steplength:1`: the threshold is `(1 - momentum) / "
        "rate`, and follows the rate",
        "{length_unseen} of {unseen} lost that nothing was chosen on, without clipping {none_sgd_unseen}: "
        "[below](#under-sgd-it-is-a-length); an LSTM is {lstm} with it on {lstm_wins} of {lstm_seeds} seeds: "
        "[lstm](evidence-at-size.md#lstm)",
    ),
    (
        "SGD with momentum",
        "nets without normalisation, at large rates",
        "`ClipGradByGlobalNorm(0.1)`, or without a search `agc:0.01,exclude=head*`",
        "{digits_global} and {digits_agc} of the digits right, without clipping {digits_none}: "
        "[digits](evidence.md#digits)",
    ),
    (
        "either",
        "bad batches, spikes",
        "the same as without: a threshold below the usual norms cuts them, too",
        "[bad-batches](evidence.md#bad-batches)",
    ),
    (
        "either",
        "rare large gradients that are right, and point the same way",
        "a threshold above them, none, or `uclip`",
        "[bias](evidence.md#bias)",
    ),
    (
        "Adam",
        "proximal policy optimisation",
        "none, or a larger one than the published 0.5",
        "0.5 is {ppo_published} than none on {ppo_losses} of {ppo_seeds} seeds, and 5 {ppo_larger}: "
        "[ppo](evidence-at-size.md#ppo)",
    ),
    ("fp16", "a loss scale", "the same: gradclip sees the unscaled gradients", "[mixed precision](how-to/amp.md)"),
    ("anything", "a minute for each of six trainings", "`gradclip suggest train.py`", "[by trial](suggestions.md)"),
    ("anything", "no time at all", "`ClipGradByGlobalNorm(None)`, and look at the report", "[watch](guide/watch.md)"),
)
TEXT = {
    "picture": (
        "Each row is a training: a task, an optimizer, and a learning rate over the tuned one. Each column is a "
        "threshold. A dot is the best median of five seeds, a white cell lies within a margin of it, the darkest ones "
        "more than 16 margins away."
    ),
    "sgd": (
        "Under SGD the best threshold moves with the rate: thrice the rate, a third of the threshold. What stays is "
        "how far a gradient of that norm moves the parameters, its echoes in the momentum included: "
        "`rate * threshold / (1 - momentum)`. [`StepLength`](api/rules.md#gradclip.StepLength) holds that at a number, "
        "and the threshold follows the rate. One length is within a margin of the best at all three rates on "
        "{by_length} of the {tasks} tasks that this was found on, and one threshold on {by_threshold}; of "
        "{tasks_unseen} more, which nothing was chosen on, on {by_length_unseen} and {by_threshold_unseen}. (The rates "
        "lie 3 apart and the thresholds a root of 10, so two lengths that differ by a few percent are taken for "
        "one.) **What is worth tuning under SGD is a length, and it stays when the rate changes.** Which "
        "lengths are good; where one between them is not, they stand one by one:"
    ),
    "length": (
        "Which length that is depends on the task: 1 loses {length} of {settings} settings of the first seven, all of "
        "`heavy-tails`, and {length_unseen} of {unseen} of the last five, most of `gan` and `outliers`, which ask for "
        "0.02 and 0.2. The unit is that of the parameters, and these nets are small: for yours 1 is a place to begin, "
        "and no constant of nature."
    ),
    "adamw": (
        "Under AdamW it hardly moves. A threshold that clips every step makes all gradients count alike and leaves the "
        "length of a step to Adam ([why](concepts/adam.md)): {small} of {settings} settings are lost by 0.1, {one} by "
        "1.0, the default of many trainers, and {none_adamw} without clipping. What it loses is `bias`, whose rare "
        "large gradients are right, and `l0l1` at learning rates of about 10 and more."
    ),
    "lost": (
        "A threshold has lost a setting where it is worse than the best one on all five seeds, and by more than a "
        "margin that was fixed before; of several that are best, the first of the table is the best one."
    ),
    "unseen": (
        "Five tasks of other kinds were kept apart until the end: mixed precision with batch normalisation, label "
        "noise in a transformer, an actor-critic, outliers in a regression, a GAN. The rule that the search had found, "
        "0.1 under Adam and a step of length 1 under SGD, was trained on them once, beside the grid and the rules of "
        f"the literature as they come ([what was fixed before](decisions/{DECISION}))."
    ),
    "answer": (
        "It lost {both} of {all} settings of the search, where the best constant lost {any}, and here {both_unseen} of "
        "{all_unseen}, where the best constant lost {any_unseen}: **there is no rule here that loses nothing, and "
        "what the search found is no better than a good constant where it did not search.** So "
        "`gradclip.attach(optimizer)` asks for a rule. What holds on both sets: no clipping is among the worst ({none} "
        "and {none_unseen} lost), under AdamW small thresholds lose least, and under SGD a length loses less than any "
        "constant ({length} and {length_unseen}; the best constants {constant} and {constant_unseen}). Of these tasks "
        "it lost {where}."
    ),
    "rules": (
        "What was tried in the search, with what it lost. Those that two seeds were enough for were trained on two, "
        "where chance alone finds a rule worse on both in one of four settings. At the end stand those that were "
        "trained under one optimizer alone."
    ),
    "beside": (
        "polyak 1 clips to the step of Polyak's length, at a least loss of 0 (Y. Takezawa et al. 2024, "
        "arXiv:2405.15010), and 4 deviations of logarithms to that of a window of the last 100 norms (M. X. Chen et "
        "al. 2018, arXiv:1804.09849). `spam` reads the second moments of Adam, so it is for that alone. spamp (2025, "
        "arXiv:2510.01578) bends each element by a power that follows the norm of its tensor, which no scope, norm, "
        "threshold and response say; it was trained as a hook, with a power of our own choice where none is published. "
        "`gradclip suggest train.py`, which tries thresholds on the training itself, is "
        "[held against the same ones](suggestions.md) at the rates of the tasks."
    ),
    "made": "`docs/rule_search.py` trains, `docs/evidence/rule-search.json` has every metric, {versions}.",
}


BOTH = "adam 0.1, sgd step 1"
"""The candidate that is a length under SGD."""


def page(record: Record) -> str:
    """The whole page."""
    numbers = figures(record)
    versions = ", ".join(f"{name} {version}" for name, version in record.data["versions"].items())
    parts = [
        "# Which rule?",
        table([[cell.format(**numbers) for cell in row] for row in CHOOSER]),
        "## The best threshold, by optimizer and rate",
        f"![Which fixed threshold is best in each of {numbers['all']} settings](evidence/rule-search.png)",
        wrapped(TEXT["picture"]),
        "### Under SGD it is a length",
        wrapped(TEXT["sgd"].format(**numbers)),
        table(
            [("task", *(f"{factor} of the rate" for factor in ("1/3", "1", "3"))), *lengths(record, (*DESIGN, *TEST))]
        ),
        wrapped(TEXT["length"].format(**numbers)),
        "### Under AdamW it is a question of yes or no",
        wrapped(TEXT["adamw"].format(**numbers)),
        "### By threshold",
        wrapped(TEXT["lost"]),
        table([(*_head("threshold", DESIGN), "of all"), *scores(record, GRID, SEEDS, DESIGN, by_loss=False)]),
        "## On tasks that no search has seen",
        wrapped(TEXT["unseen"]),
        table([(*_head("rule", TEST), "of all"), *scores(record, trained(record, SEEDS, list(TEST)), SEEDS, TEST)]),
        wrapped(TEXT["answer"].format(**numbers)),
        "## What was tried",
        wrapped(TEXT["rules"]),
        table([(*_head("rule", DESIGN), "of all", "seeds"), *tried(record)]),
        wrapped(TEXT["beside"]),
        wrapped(TEXT["made"].format(versions=versions)),
    ]
    return "\n\n".join(parts) + "\n"


def figures(record: Record) -> dict[str, object]:
    """The numbers of the sentences; those of the tasks that no search has seen end in `unseen`."""
    found: dict[str, object] = {}
    for tasks, ending in ((DESIGN, ""), (TEST, "_unseen")):
        by = {rule: _by_optimizer(losses(record, rule, SEEDS, tasks)) for rule in (*GRID, BOTH)}
        all_of = {rule: sum(counts.values()) for rule, counts in by.items()}
        numbers = {
            "all": len(losses(record, BOTH, SEEDS, tasks)),
            "any": min(all_of[rule] for rule in GRID),
            "both": all_of[BOTH],
            "constant": min(by[rule]["sgd"] for rule in GRID),
            "length": by[BOTH]["sgd"],
            "none": all_of["none"],
            "none_adamw": by["none"]["adamw"],
            "none_sgd": by["none"]["sgd"],
            "one": by["global:1"]["adamw"],
            "small": by["global:0.1"]["adamw"],
        }
        numbers |= {"tasks": len(tasks), **good_at_all_rates(record, tasks)}
        found |= {name + ending: number for name, number in numbers.items()}
    found["settings"], found["unseen"] = (_settings_of_one(tasks) for tasks in (DESIGN, TEST))
    return found | _of_tasks() | {"where": _where(loss for loss in losses(record, BOTH, SEEDS, TEST) if loss.lost)}


def _of_tasks() -> dict[str, object]:
    """What the chooser takes from the comparisons of single tasks."""
    digits, gpt, lstm, ppo = (read(PICTURE.with_name(f"{task}.json")) for task in ("digits", "gpt", "lstm", "ppo"))
    rules = {"global": "global:0.1", "agc": "agc:0.01,exclude=head*", "none": "none"}
    return {
        **{f"digits_{name}": figure(digits.median(rule)) for name, rule in rules.items()},
        "gpt": gpt.verdict("global:0.1"),
        "gpt_wins": gpt.wins("global:0.1", "none"),
        "gpt_seeds": len(gpt.seeds),
        "lstm": lstm.verdict("steplength:1"),
        "lstm_wins": lstm.wins("steplength:1", "none"),
        "lstm_seeds": len(lstm.seeds),
        "ppo_published": ppo.verdict("global:0.5"),
        "ppo_losses": ppo.wins("none", "global:0.5"),
        "ppo_seeds": len(ppo.seeds),
        "ppo_larger": ppo.verdict("global:5"),
    }


def _where(lost: Iterable[Loss]) -> str:
    """The tasks of these settings, with how many there are of each."""
    counted = Counter(loss.place[1] for loss in lost)
    return ", ".join(f"{number} of `{task}`" for task, number in counted.most_common())


def _settings_of_one(tasks: Sized) -> int:
    """How many settings an optimizer has."""
    return len(tasks) * len(FACTORS)


def _head(first: str, tasks: Sized) -> tuple[str, ...]:
    return (first, *(f"lost under {NAMES[one]}, of {_settings_of_one(tasks)}" for one in OPTIMIZERS))


def _by_optimizer(found: Iterable[Loss]) -> dict[str, int]:
    """How many settings of each optimizer were lost."""
    counted = Counter(loss.place[2] for loss in found if loss.lost)
    return {optimizer: counted[optimizer] for optimizer in OPTIMIZERS}


def lengths(record: Record, tasks: Iterable[str]) -> list[tuple[str, ...]]:
    """For each task the lengths of the thresholds that are within a margin of the best, at each rate."""
    rows: dict[str, list[str]] = {}
    for task, reach, good in good_under_sgd(record, tasks):
        runs = [list(run) for kept, run in itertools.groupby(GRID, good.__contains__) if kept]
        rows.setdefault(task, []).append(", ".join(_range(run, reach) for run in runs))
    return [(f"`{task}`", *cells) for task, cells in rows.items()]


def good_under_sgd(record: Record, tasks: Iterable[str]) -> Iterator[tuple[str, float, set[str]]]:
    """For each task and rate how far a lasting gradient of norm 1 moves, and which thresholds are good."""
    for (_, task, optimizer, factor), above in costs_of_grid(record, tasks):
        if optimizer == "sgd":
            reach = record.data["rates"][task]["sgd"] * FACTORS[factor] / (1 - MOMENTUM)
            yield task, reach, {rule for rule, margins in above.items() if margins <= 1.0}


def good_at_all_rates(record: Record, tasks: Iterable[str]) -> dict[str, int]:
    """On how many tasks one length, and on how many one threshold, is within a margin of the best at each of the rates;
    the rates lie 3 apart and the thresholds a root of 10, so a length is taken for another one that is near it."""
    by_length: dict[str, list[set[int]]] = {}
    by_threshold: dict[str, list[set[str]]] = {}
    for task, reach, good in good_under_sgd(record, tasks):
        half_decades = {_half_decade(rule, reach) for rule in good}
        if "none" in good:
            half_decades |= set(range(max(half_decades - {UNBOUNDED}, default=UNBOUNDED), UNBOUNDED))
        by_length.setdefault(task, []).append(half_decades)
        by_threshold.setdefault(task, []).append(good)
    return {
        "by_length": sum(bool(set.intersection(*sets)) for sets in by_length.values()),
        "by_threshold": sum(bool(set.intersection(*sets)) for sets in by_threshold.values()),
    }


UNBOUNDED = 100
"""The half decade of no clipping: above all that are trained."""


def _half_decade(rule: str, reach: float) -> int:
    return UNBOUNDED if rule == "none" else round(2 * math.log10(float(rule.removeprefix("global:")) * reach))


def _range(run: Sequence[str], reach: float) -> str:
    """Two digits of the least and of the largest length of good neighbours in the grid, which ends without any."""
    lengths = [f"{float(rule.removeprefix('global:')) * reach:.2g}" for rule in run if rule != "none"]
    if run[-1] == "none":
        return f"from {lengths[0]}" if lengths else "none"
    return " to ".join(dict.fromkeys((lengths[0], lengths[-1])))


def scores(
    record: Record, rules: Iterable[str], seeds: tuple[int, ...], tasks: Mapping[str, object], by_loss: bool = True
) -> list[tuple[str, ...]]:
    """What each rule lost under either optimizer and in all; those that lost least first, or as they come."""
    counted = [(rule, [*_by_optimizer(losses(record, rule, seeds, tasks)).values()]) for rule in rules]
    if by_loss:
        counted.sort(key=lambda pair: (sum(pair[1]), pair[0]))
    return [(_name(rule), *map(str, counts), str(sum(counts))) for rule, counts in counted]


def tried(record: Record) -> list[tuple[str, ...]]:
    """The candidates of the search, those that lost least first, with the number of their seeds."""
    whole = [rule for rule in trained(record, SEEDS, list(DESIGN)) if rule not in GRID]
    screened = [rule for rule in trained(record, SCREENED_ON, list(DESIGN)) if rule not in (*GRID, *whole)]
    rows = [
        (*row, str(len(seeds)))
        for rules, seeds in ((whole, SEEDS), (screened, SCREENED_ON))
        for row in scores(record, rules, seeds, DESIGN)
    ]
    return sorted(rows, key=lambda row: int(row[-2])) + tried_under_one(record, {*GRID, *whole, *screened})


def tried_under_one(record: Record, others: Container[str]) -> list[tuple[str, ...]]:
    """Those that were trained under one optimizer alone, because they read what it has or lost too much there."""
    rows = []
    for optimizer in OPTIMIZERS:
        rules = [rule for rule in trained(record, SCREENED_ON, list(DESIGN), [optimizer]) if rule not in others]
        lost = {
            rule: sum(loss.lost for loss in losses(record, rule, SCREENED_ON, DESIGN, [optimizer])) for rule in rules
        }
        for rule in sorted(rules, key=lambda rule: (lost[rule], rule)):
            cells = [str(lost[rule]) if one == optimizer else "" for one in OPTIMIZERS]
            rows.append((_name(rule), *cells, "", str(len(SCREENED_ON))))
    return rows


def _name(rule: str) -> str:
    return rule if rule in CANDIDATES else f"`{rule}`"


def main(arguments: list[str] | None = None) -> int:
    """Write the page and its picture, or check the page."""
    check = options_of(__doc__).parse_args(arguments).check
    record = Record()
    if not check:
        save_grid(record, list(DESIGN), PICTURE)
    return write(PAGE, page(record), check)


if __name__ == "__main__":
    sys.exit(main())
