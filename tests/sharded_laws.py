"""The laws in several processes: run as a script by `test_sharded.py`, which says how many and every how many laws.

Each case is a layout and an engine; all processes keep the laws at once, as one process does with whole tensors.
"""

from __future__ import annotations

import os
from functools import partial

import group
from gradclip import Element, Raise
from gradclip.rules.rule import Carry, Rule, rules_in
from gradclip.testing import adversarial_gradients, laws, laws_of, ordinary_gradients, standard_rules
from gradclip.testing.check import NORMS, SCOPES
from sharded_bench import INNER, LAYOUTS, SUMS, bench_of, meshes

EVERY = int(os.environ.get("EVERY", "1"))
"""Of the pairs of a rule and a law, and of a rule and a list of gradients, every how many is tried."""


def looks_at_elements(rule):
    return isinstance(rule, Carry) or any(isinstance(one.scope, Element) for one in rules_in(rule))


def keeps_the_laws(layout, inner):
    bench = bench_of(layout, meshes(), INNER[inner]())
    rules = [rule for rule in standard_rules() if not (layout in SUMS and looks_at_elements(rule))]
    start, broken, tried = list(LAYOUTS).index(layout), [], 0
    checks = [partial(law, bench, rule, ordinary_gradients()) for rule in rules for law in laws_of(rule)]
    if bench.engine.waits:
        silent = [rule for rule in rules if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
        checks += [partial(laws.no_number_is_read_on_the_host, bench, rule, ordinary_gradients()) for rule in silent]
    checks += [
        partial(laws.every_norm_is_right, bench, Rule(scope, norm), ordinary_gradients())
        for scope in SCOPES for norm in NORMS
    ]  # fmt: skip
    if layout not in SUMS:  # where parts of denormal numbers do not make them
        lists = adversarial_gradients(bench.dtype).values()
        checks += [
            partial(laws.it_agrees_with_the_reference, bench, rule, arrays) for rule in rules for arrays in lists
        ]
    for check in checks[start % EVERY :: EVERY]:
        tried += 1
        group.still_alive()
        try:
            check()
        except AssertionError as error:
            broken.append(str(error))
    assert tried > 3
    assert not broken, f"{len(broken)} of {tried} broken:\n" + "\n".join(dict.fromkeys(broken[:8]))


CASES = {f"{layout}, {inner}": partial(keeps_the_laws, layout, inner) for layout in LAYOUTS for inner in INNER}

if __name__ == "__main__":
    group.main(CASES)
