"""Write the page that says which rule to take, from the record of the search and the documents of evidence.

python docs/make_which_rule.py            write docs/which-rule.md and its picture
python docs/make_which_rule.py --check    exit with 1 if the page is out of date

Every number is made from `docs/evidence/rule-search.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from made import options_of, write
from rule_search import DESIGN, GRID, OPTIMIZERS, SCREENED_ON, SEEDS, Record, costs_of_grid, losses, trained
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
        "{small} of {settings} settings lost, without clipping {none_adamw}: [below](#by-threshold)",
    ),
    (
        "SGD with momentum",
        "",
        "`Rule(threshold=StepLength(1.0))`: the threshold is `(1 - momentum) / rate`, and follows the rate",
        "{length} of {settings} lost, by the best constant {constant}, without clipping {none_sgd}: "
        "[below](#under-sgd-it-is-a-length)",
    ),
    (
        "either",
        "nets without normalisation, at large rates",
        "`agc:0.01,exclude=head*`",
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
        "and the threshold follows the rate. Which lengths are within a margin of the best:"
    ),
    "length": (
        "A length of 1 loses {length} of {settings} settings, all of `heavy-tails`, whose noise asks for steps of "
        "0.03. The unit is that of the parameters, and these nets are small: for yours it is a place to begin, and no "
        "constant of nature."
    ),
    "adamw": (
        "Under AdamW it hardly moves. A threshold that clips every step makes all gradients count alike and leaves the "
        "length of a step to Adam ([why](concepts/adam.md)): {small} of {settings} settings are lost by 0.1, {one} by "
        "1.0, the default of many trainers, and {none} without clipping. What it loses is `bias`, whose rare large "
        "gradients are right, and `l0l1` at rates of 10 and more."
    ),
    "lost": (
        "A threshold has lost a setting where it is worse than the best one on all five seeds, and by more than a "
        "margin that was fixed before."
    ),
    "rules": (
        "The search for a rule that needs no number and loses nothing goes on "
        f"([what counts, and what was fixed before it](decisions/{DECISION})). "
        "None has been found: `gradclip.attach(optimizer)` asks for a rule. The closest so far is that of the screen "
        "above, a threshold of 0.1 under Adam and a step of length 1 under SGD, with a loss in {both} of {all} "
        "settings, where the best constant loses {any}. Tasks that nobody has searched on wait for the end. What was "
        "tried so far, with what it lost; those that two seeds were enough for were trained on two, "
        "where chance alone finds a rule worse on both in one of four settings."
    ),
    "made": "`docs/rule_search.py` trains, `docs/evidence/rule-search.json` has every metric, {versions}.",
}


BOTH = "adam 0.1, sgd step 1"
"""The candidate that is a length under SGD."""


def page(record: Record) -> str:
    """The whole page."""
    lost = {rule: losses(record, rule, SEEDS, DESIGN) for rule in GRID}
    each = len(lost["none"]) // len(OPTIMIZERS)
    by = {rule: {one: _lost(table, one) for one in OPTIMIZERS} for rule, table in lost.items()}
    numbers = {
        "small": by["global:0.1"]["adamw"],
        "one": by["global:1"]["adamw"],
        "none": by["none"]["adamw"],
        "none_adamw": by["none"]["adamw"],
        "none_sgd": by["none"]["sgd"],
        "constant": min(found["sgd"] for found in by.values()),
        "length": _lost(losses(record, BOTH, SEEDS, DESIGN), "sgd"),
        "settings": each,
        "all": each * len(OPTIMIZERS),
        "any": min(sum(found.values()) for found in by.values()),
        "both": sum(one.lost for one in losses(record, BOTH, SEEDS, DESIGN)),
    }
    versions = ", ".join(f"{name} {version}" for name, version in record.data["versions"].items())
    parts = [
        "# Which rule?",
        table([[cell.format(**numbers) for cell in row] for row in CHOOSER]),
        "## The best threshold, by optimizer and rate",
        f"![Which fixed threshold is best in each of {2 * each} settings](evidence/rule-search.png)",
        wrapped(TEXT["picture"]),
        "### Under SGD it is a length",
        wrapped(TEXT["sgd"]),
        table([("task", *(f"{factor} of the rate" for factor in ("1/3", "1", "3"))), *lengths(record)]),
        wrapped(TEXT["length"].format(**numbers)),
        "### Under AdamW it is a question of yes or no",
        wrapped(TEXT["adamw"].format(**numbers)),
        "### By threshold",
        wrapped(TEXT["lost"]),
        table(
            [
                ("threshold", *(f"lost under {NAMES[one]}, of {each}" for one in OPTIMIZERS), "of all"),
                *((f"`{rule}`", *map(str, found.values()), str(sum(found.values()))) for rule, found in by.items()),
            ]
        ),
        "## Rules without a number",
        wrapped(TEXT["rules"].format(**numbers)),
        table([("rule", "seeds", *(f"lost under {NAMES[one]}" for one in OPTIMIZERS), "of all"), *scores(record)]),
        wrapped(TEXT["made"].format(versions=versions)),
    ]
    return "\n\n".join(parts) + "\n"


def _lost(found: Iterable[object], optimizer: str) -> int:
    return sum(one.lost for one in found if one.place[2] == optimizer)  # type: ignore[attr-defined]


def lengths(record: Record) -> list[tuple[str, ...]]:
    """For each task the lengths of the thresholds that are within a margin of the best, at each rate."""
    rows: dict[str, list[str]] = {}
    for (_, task, optimizer, factor), above in costs_of_grid(record, DESIGN):
        if optimizer == "sgd":
            reach = record.data["rates"][task]["sgd"] * {"1/3": 1 / 3, "1": 1.0, "3": 3.0}[factor] * 10
            good = [float(rule.removeprefix("global:")) * reach for rule in GRID[:-1] if above[rule] <= 1.0]
            open_end = above["none"] <= 1.0
            rows.setdefault(task, []).append(_range(good, open_end))
    return [(f"`{task}`", *cells) for task, cells in rows.items()]


def _range(lengths: Sequence[float], open_end: bool) -> str:
    """Two digits of the least and of the largest, which is left out where no threshold is as good."""
    if not lengths:
        return "none"
    least, largest = f"{min(lengths):.2g}", f"{max(lengths):.2g}"
    if open_end:
        return f"from {least}"
    return least if least == largest else f"{least} to {largest}"


def scores(record: Record) -> list[tuple[str, ...]]:
    """The rules that were tried, those that lost least first."""
    whole = [rule for rule in trained(record, SEEDS, list(DESIGN)) if rule not in GRID]
    screened = [rule for rule in trained(record, SCREENED_ON, list(DESIGN)) if rule not in (*GRID, *whole)]
    rows = []
    for rules, seeds in ((whole, SEEDS), (screened, SCREENED_ON)):
        for rule in rules:
            found = losses(record, rule, seeds, DESIGN)
            counts = [_lost(found, optimizer) for optimizer in OPTIMIZERS]
            rows.append((sum(counts), (rule, str(len(seeds)), *map(str, counts), str(sum(counts)))))
    return [row for _, row in sorted(rows)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table with a head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def main(arguments: list[str] | None = None) -> int:
    """Write the page and its picture, or check the page."""
    check = options_of(__doc__).parse_args(arguments).check
    record = Record()
    if not check:
        save_grid(record, list(DESIGN), PICTURE)
    return write(PAGE, page(record), check)


if __name__ == "__main__":
    sys.exit(main())
