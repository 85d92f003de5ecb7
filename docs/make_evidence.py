"""Write the page of evidence from the documents that `gradclip compare TASK --out docs/evidence` left.

    python docs/make_evidence.py            write docs/evidence.md
    python docs/make_evidence.py --check    exit with 1 if it is out of date
    python docs/make_evidence.py --run      train every task first (minutes), then write the page

Every word about a result is made from its numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradclip.experiments.comparison import EQUAL, Comparison
from gradclip.experiments.showing.comparison_report import show_comparison
from gradclip.experiments.showing.comparison_table import columns, diverged_runs, figure
from gradclip.experiments.sign_test import BETTER, TOO_FEW, WITHIN_NOISE, WORSE
from gradclip.experiments.tasks.task import Task, task_called
from gradclip.experiments.tasks.titles import TASKS
from gradclip.rules.rule import Carry, rules_in
from gradclip.rules.text import rule_from_text
from made import table
from trained import make, wrapped

DOCS = Path(__file__).resolve().parent
FOLDER, PAGE = DOCS / "evidence", DOCS / "evidence.md"
AGAIN, BESIDE = FOLDER / "bad-batches-again.json", ("global:1", "global:3", "global:10")
REPEATED = (("zclip", BESIDE), ("adagc", BESIDE), ("spam", ("none",)))
"""Rules whose claims were not reproduced, and what each is held against once more, on more seeds."""
SEEDS = 5
ORDER = (BETTER, WORSE, EQUAL, WITHIN_NOISE, TOO_FEW)
INTRODUCTION = (
    "Small nets and toys on two cores, the same first weights and batches for every rule on a seed. They can show that "
    "something happens; they cannot show that it happens in your net: compare on your own validation set "
    "(`gradclip.experiments.compare`).",
    '"better" and "worse" are against the first rule of a table and say that all seeds agree (sign test on pairs of '
    'runs, two-sided chance 1/16 for five seeds); everything else is "within noise". Of sixteen rules that change '
    "nothing, one is called better or worse by chance. How much better is in the table, and on the right of a picture: "
    "the median of the differences from the first rule, seed by seed, between the smallest and the largest. A "
    "published claim is reproduced where its rule is better than the one that it is compared with, by the same test.",
    'So "reproduced" says which of two was better, on all five seeds, and no more. That an RNN with clipping is '
    "better on `temporal-order` does not say that it solves the task, as that of the paper did: its table "
    "has how often it is wrong.",
    "Thresholds were not tuned beyond what a table shows. Rules are written as for `gradclip compare TASK --rules`. "
    "`python docs/make_evidence.py` writes this page, every word about a result from `docs/evidence/TASK.json`.",
)


def found() -> list[tuple[Task, Comparison]]:
    """Every task with its result."""
    return [(task_called(name), read(FOLDER / f"{name}.json")) for name in TASKS]


def read(path: Path) -> Comparison:
    """The result in a document."""
    return Comparison.from_json(json.loads(path.read_text(encoding="utf-8")))


def page(results: Sequence[tuple[Task, Comparison]]) -> str:
    """The whole page."""
    parts = ["# Evidence: what clipping methods are worth", *map(wrapped, INTRODUCTION)]
    parts += [*summary(results), *again(read(AGAIN)), *by_method(results)]
    for task, comparison in results:
        parts += section(task, comparison)
    return "\n\n".join(parts) + "\n"


def summary(results: Sequence[tuple[Task, Comparison]]) -> list[str]:
    """The published claims, with what became of each."""
    claims = [(task, claim, claim.result(comparison)) for task, comparison in results for claim in task.claims]
    count = sum(claim.reproduced(comparison) for task, comparison in results for claim in task.claims)
    lines = [(claim.words, claim.source, f"[{task.name}](#{task.name})", said) for task, claim, said in claims]
    return [
        f"## {count} of {len(claims)} published claims reproduced",
        table([("published claim", "source", "task", "here"), *lines]),
    ]


def again(comparison: Comparison) -> list[str]:
    """What became of claims that were not reproduced, on more seeds and beside other fixed thresholds."""
    lines = [
        (
            *(code([rule]), code([than]), f"{comparison.wins(rule, than)} of {len(comparison.seeds)}"),
            *(f"{comparison.difference(rule, than).median:+.2g}", comparison.finding(rule, than)),
        )
        for rule, others in REPEATED
        for than in others
    ]
    asked = (
        f"Those of `bad-batches`, on {len(comparison.seeds)} seeds, of which the first five are those below. A rule "
        "that adapts is held against fixed thresholds that lie nearer and further from the usual norms, which are "
        "below 1 there; the difference is that of the bits per character, and corrected means for every pair of the "
        "rules."
    )
    holds = [condition(comparison, rule, others) for rule, others in REPEATED]
    return [
        "## Not reproduced, and looked at again",
        wrapped(asked),
        table([("rule", "against", "wins", "difference", "found"), *lines]),
        wrapped(" ".join(holds)),
    ]


def condition(comparison: Comparison, rule: str, others: Sequence[str]) -> str:
    """Against which of the others the rule is better."""
    better = [than for than in others if comparison.verdict(rule, than) == BETTER]
    rest = [than for than in others if than not in better]
    if not better:
        return f"That {code([rule])} is better than {code(rest)} is not reproduced here."
    if not rest:
        return f"{code([rule])} is better than {code(better)}."
    worse = [than for than in rest if comparison.verdict(rule, than) == WORSE]
    others = [than for than in rest if than not in worse]
    also = (f", not than {code(others)}" if others else "") + (f", and worse than {code(worse)}" if worse else "")
    return f"{code([rule])} is better than a fixed threshold that is too large ({code(better)}){also}."


def by_method(results: Sequence[tuple[Task, Comparison]]) -> list[str]:
    """For each method how often it was better and worse, than no clipping and than the best fixed threshold."""
    found: dict[str, list[tuple[str, str]]] = {}
    for _, comparison in results:
        fixed = best_fixed(comparison)
        for one in comparison.contenders[1:]:
            beside = "" if one.text == fixed else comparison.verdict(one.text, fixed)
            found.setdefault(one.text.partition(":")[0], []).append((comparison.verdict(one.text), beside))
    names: tuple[str, ...] = ("method", "tried", "better than none", "worse", "better than the best fixed one", "worse")
    lines = [names]
    for method, verdicts in found.items():
        counts = [[pair[which] for pair in verdicts].count(what) for which in (0, 1) for what in (BETTER, WORSE)]
        lines.append((code([method]), str(len(verdicts)), *map(str, counts)))
    told = (
        "How often each method, whatever its arguments, was better and worse than no clipping, and than the fixed "
        "threshold with the best median of its task. That threshold was chosen after the fact among those in the "
        "table, as one is by tuning; a rule that adapts was mostly taken as it comes."
    )
    return ["## By method", wrapped(told), table(lines)]


def section(task: Task, comparison: Comparison) -> list[str]:
    """What is said of one task."""
    said = [against_the_first(comparison), beside_the_best(comparison), beyond_fixed(comparison), broken(comparison)]
    return [
        f"## {task.name}",
        wrapped(f"{sentence(task.title)}. {task.about}"),
        markdown(comparison),
        wrapped(" ".join(words for words in said if words)),
        f"![{task.title}](evidence/{task.name}.png)",
        wrapped(made_with(comparison)),
    ]


def markdown(comparison: Comparison) -> str:
    """The table of a comparison."""
    # The seconds are those of a machine that did other things as well: `docs/benchmarks` has the cost of each rule.
    cells = {heading: column for heading, column in columns(comparison).items() if heading != "s"}
    metric = comparison.metric
    return f"{sentence(metric.name)}; {metric.best} is best.\n\n{rows(cells)}"


def rows(cells: Mapping[str, Sequence[str]]) -> str:
    """A table of columns by their headings, of which one has rules."""
    cells = {**cells, "rule": [f"`{rule}`" for rule in cells["rule"]]}
    return table([tuple(cells), *zip(*cells.values(), strict=True)])


def against_the_first(comparison: Comparison) -> str:
    """Which rules are better, worse and no different from the first one."""
    return f"Against {code([comparison.baseline.text])}, {found_of(comparison)}."


def found_of(comparison: Comparison) -> str:
    """What was found of the other rules."""
    others = [one.text for one in comparison.contenders[1:]]
    groups: dict[str, list[str]] = {}
    for text in sorted(others, key=lambda text: ORDER.index(comparison.verdict(text))):
        groups.setdefault(comparison.finding(text), []).append(text)
    return "; ".join(f"{what}: {code(texts)}" for what, texts in groups.items())


def beside_the_best(comparison: Comparison) -> str:
    """The best median, and what cannot be told from it."""
    best, near = comparison.best.text, comparison.as_good_as_the_best()
    said = f"The best median has {code([best])} ({figure(comparison.median(best))})"
    if comparison.verdict(best, best) == TOO_FEW:
        return f"{said}."
    groups = {
        words: [text for text in near if comparison.verdict(text, best) == what]
        for what, words in ((EQUAL, "equal to it"), (WITHIN_NOISE, "within noise of it"))
    }
    told = "; ".join(f"{words}: {code(texts)}" for words, texts in groups.items() if texts)
    seeds, others = len(comparison.seeds), [one.text for one in comparison.contenders if one.text != best]
    everywhere = " on every seed" if all(comparison.wins(best, text) == seeds for text in others) else ""
    return f"{said}; {told or f'every other rule is worse than it{everywhere}'}."


def beyond_fixed(comparison: Comparison) -> str:
    """Which rules that adapt are better than the best of those that clip without."""
    adaptive = [one.text for one in comparison.contenders if adapts(one.text)]
    if not adaptive:
        return ""
    best = best_fixed(comparison)
    better = [text for text in adaptive if comparison.verdict(text, best) == BETTER]
    which = f"{code(better)} {'are' if better[1:] else 'is'}" if better else "none is"
    return f"Of the rules whose threshold adapts, {which} better than the best fixed one, {code([best])}."


def best_fixed(comparison: Comparison) -> str:
    """The rule with the best median among those that clip, do not adapt, and give nothing back later."""
    fixed = [one.text for one in comparison.contenders[1:] if not adapts(one.text) and not carries(one.text)]
    return min(fixed, key=lambda text: comparison.metric.cost(comparison.median(text)))


def broken(comparison: Comparison) -> str:
    """The runs that diverged."""
    return f"Diverged: {', and '.join(diverged_runs(comparison))}." if diverged_runs(comparison) else ""


def made_with(comparison: Comparison) -> str:
    """What the numbers depend on."""
    numbers = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return f"Seeds {', '.join(map(str, comparison.seeds))}; {numbers}."


def adapts(text: str) -> bool:
    """Whether a threshold of the rule follows the past or the weights."""
    return any(one.threshold.adapts for one in rules_in(rule_from_text(text)))


def carries(text: str) -> bool:
    """Whether the rule adds what it cut off to later steps: then it is more than a threshold."""
    return isinstance(rule_from_text(text), Carry)


def code(texts: Sequence[str]) -> str:
    """Texts of rules, as a reader types them."""
    return ", ".join(f"`{text}`" for text in texts)


def sentence(text: str) -> str:
    """`text` with a capital first."""
    return text[:1].upper() + text[1:]


def train(names: Sequence[str]) -> None:
    """Train the tasks under their own rules."""
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        show_comparison(name, None, SEEDS, FOLDER, as_json=False)


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    return make(PAGE, lambda: page(found()), train, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
