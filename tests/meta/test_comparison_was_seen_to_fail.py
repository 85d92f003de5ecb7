"""For what is said of a comparison: bugs planted, on which its tests are red."""

from __future__ import annotations

import itertools
import statistics

import pytest

import gradclip.experiments.comparison
import gradclip.experiments.paired_difference
from experiments import test_paired_statistics as oracles
from gradclip.experiments import Comparison, Metric
from gradclip.experiments.paired_difference import PairedDifference, covered
from planting import Plant

DIFFERENCE, COMPARISON = gradclip.experiments.paired_difference, gradclip.experiments.comparison


def one_place_too_narrow(cls, differences, confidence=0.95):
    """The `k`-th counted from 0."""
    found, ordered = OF(differences, confidence), sorted(differences)
    cut = min(ordered.index(found.low) + 1, len(ordered) // 2)
    return cls(found.median, ordered[cut], ordered[-1 - cut], found.confidence)


def one_sided(k, number):
    return (1 + covered(k, number)) / 2


def as_wide_as_it_gets(cls, differences, confidence=0.95):
    return cls(statistics.median(differences), min(differences), max(differences), covered(1, len(differences)))


def times_the_number(chances):
    return [min(1, len(chances) * chance) for chance in chances]


def in_no_order(chances):
    """The steps without what keeps a larger chance from being corrected to a smaller one."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    return [min(1, (len(chances) - order.index(number)) * chance) for number, chance in enumerate(chances)]


def from_the_largest(chances):
    """The steps go up, which assumes that the comparisons do not hang together (Hochberg)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    steps = [(len(chances) - place) * chances[number] for place, number in enumerate(order)]
    return [min(1, *steps[order.index(number) :], 1) for number in range(len(chances))]


def by_costs(self, ours, theirs):
    """Infinity less infinity is no number."""
    return self.cost(ours) - self.cost(theirs)


def up_to_the_margin(self, margin):
    return -margin <= self.low and self.high <= margin


def with_any_confidence(differences, margin):
    return OF(differences, 0.9).within(margin)


def at_95(differences, margin):
    found = OF(differences, 0.95)
    return found.confidence >= 0.95 and found.within(margin)


def by_the_median(differences, margin):
    """What a test that shows nothing is often taken for."""
    return abs(OF(differences).median) < margin and len(differences) > 4


def of_the_best_alone(self, pair):
    return [(one.text, (pair - {one.text}).pop()) for one in self.contenders if one.text in pair][:1]


def always_all(self, pair):
    return list(itertools.combinations([one.text for one in self.contenders], 2))


OF = PairedDifference.of
PAIRS = [(float("nan"), float("inf")), (1.0, float("nan")), (float("nan"), 1.0), (1.0, 2.0), (2.0, 1.0)]
PLANTS = [
    *(
        Plant(f"an interval of {seeds} seeds is one place too narrow", oracles.check_coverage_is_exact, (seeds,),
              PairedDifference, "of", classmethod(one_place_too_narrow))
        for seeds in (5, 7, 9)
    ),
    Plant("the chance of one side is taken for that of both", oracles.check_coverage_is_exact, (7,),
          DIFFERENCE, "covered", one_sided),
    Plant("an interval is wider than it need be", oracles.test_the_interval_is_the_narrowest_that_has_the_confidence,
          (9, 1, 7, 1 - 2 * 10 / 512), PairedDifference, "of", classmethod(as_wide_as_it_gets)),
    *(
        Plant(f"a correction is {bug.__name__}", oracles.test_the_correction_is_holms, (), oracles,
              "corrected_for_number", bug)
        for bug in (times_the_number, in_no_order, from_the_largest)
    ),
    *(
        Plant(f"the comparisons are counted {bug.__name__}",
              oracles.test_a_comparison_is_corrected_for_the_rules_beside_it, (), Comparison, "_compared_with", bug)
        for bug in (of_the_best_alone, always_all)
    ),
    Plant("infinities are subtracted", oracles.check_exchanged, (PAIRS, Metric()), Metric, "difference", by_costs),
    Plant("a median lies between infinities", oracles.test_diverged_runs_differ_infinitely_and_two_of_them_not, (),
          DIFFERENCE, "_middle", statistics.median),
    Plant("the highest is best, and nobody turns it round",
          oracles.test_the_side_of_a_difference_is_the_side_of_the_verdict, (), Metric, "difference", by_costs),
    Plant("the margin itself is within it", oracles.check_equality, (7,), PairedDifference, "within", up_to_the_margin),
    Plant("four seeds show that rules are equal", oracles.check_equality, (4,), oracles, "equal_within",
          with_any_confidence),
    Plant("equality is shown at 95 %", oracles.check_equality, (5,), oracles, "equal_within", at_95),
    Plant("a median within the margin is taken for equality", oracles.check_equality, (7,), oracles, "equal_within",
          by_the_median),
    Plant("a verdict calls noise equal", oracles.test_equal_is_not_the_same_as_within_noise_nor_the_contrary_of_better,
          (), COMPARISON, "equal_within", by_the_median),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()
