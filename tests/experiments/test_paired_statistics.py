"""Intervals, corrections and equality: exact for all outcomes of a few seeds, against definitions written otherwise."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.paired import compared
from gradclip.experiments import Comparison, Metric
from gradclip.experiments.comparison import EQUAL
from gradclip.experiments.holm import corrected_for_number
from gradclip.experiments.paired_difference import EQUAL_AT, PairedDifference, equal_within
from gradclip.experiments.sign_test import BETTER, TOO_FEW, WITHIN_NOISE, WORSE, paired_chance

SEEDS = range(1, 11)
SIDES = (-1.0, 1.0)
THOUSANDTHS = st.integers(-3000, 3000).map(lambda number: number / 1000)
"""Not the least numbers that there are: a share of them is 0."""
NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 1.25, 2.0, 1e300, math.inf, -math.inf, math.nan]) | THOUSANDTHS
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=10)
AGREEING = st.lists(
    st.tuples(THOUSANDTHS, THOUSANDTHS).map(lambda pair: (min(pair), max(pair))), min_size=5, max_size=10
)
"""Pairs that lie the same way, as few of those above do."""
METRICS = st.builds(
    Metric, best=st.sampled_from(["lowest", "highest"]), margin=st.none() | st.floats(0.1, 3), relative=st.booleans()
)
CHANCES = st.lists(st.fractions(0, 1, max_denominator=64), min_size=1, max_size=6)


def check_coverage_is_exact(seeds: int) -> None:
    """Were all signs as likely, which is to say that the median is 0, the interval has it as often as it says."""
    for confidence in (0.95, EQUAL_AT):
        found = [
            PairedDifference.of([side * (3 + place) for place, side in enumerate(sides)], confidence)
            for sides in itertools.product(SIDES, repeat=seeds)
        ]
        assert len({one.confidence for one in found}) == 1
        share = sum(one.low <= 0 <= one.high for one in found) / len(found)
        assert share == found[0].confidence
        assert share >= min(confidence, 1 - 2 / 2**seeds)


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_interval_has_the_median_as_often_as_it_says(seeds: int) -> None:
    check_coverage_is_exact(seeds)


@pytest.mark.parametrize(
    "weights",
    [
        {-1.0: 1, 0.0: 2, 2.0: 1},  # ties
        {-math.inf: 1, 0.5: 1, math.inf: 2},  # runs that diverge: the median is 0.5, or anything above
        {-1e9: 2, 0.0: 1, 1e-9: 1},  # skewed
    ],
    ids=["ties", "diverged", "skewed"],
)
def test_the_interval_has_the_median_at_least_so_often_whatever_is_drawn_from(weights: dict[float, int]) -> None:
    median = {-1.0: 0.0, -math.inf: 0.5, -1e9: 0.0}[min(weights)]
    total = sum(weights.values())
    for seeds in range(1, 8):
        missed = Fraction(0)
        for drawn in itertools.product(weights, repeat=seeds):
            found = PairedDifference.of(drawn)
            if not found.low <= median <= found.high:
                missed += math.prod(Fraction(weights[value], total) for value in drawn)
        assert 1 - missed >= PairedDifference.of([0.0] * seeds).confidence


@pytest.mark.parametrize(
    ("seeds", "low", "high", "confidence"),
    [
        (1, 0, 0, 0.0),
        (4, 0, 3, 0.875),
        (5, 0, 4, 0.9375),
        (6, 0, 5, 0.96875),
        (7, 0, 6, 0.984375),
        (8, 0, 7, 0.9921875),
        (9, 1, 7, 1 - 2 * 10 / 512),
        (10, 1, 8, 1 - 2 * 11 / 1024),
        (12, 2, 9, 1 - 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_the_interval_is_the_narrowest_that_has_the_confidence(
    seeds: int, low: float, high: float, confidence: float
) -> None:
    found = PairedDifference.of([float(place) for place in reversed(range(seeds))])
    assert found == PairedDifference((seeds - 1) / 2, low, high, confidence)


@given(PAIRS.filter(lambda pairs: len(pairs) > 1), METRICS)
def test_the_interval_and_the_chance_are_the_same_test(pairs: list[tuple[float, float]], metric: Metric) -> None:
    # 0 lies outside of the interval exactly where the two-sided sign test falls to the chance that it leaves.
    found = of(pairs, metric)
    difference = found.difference("ours")
    outside = difference.low > 0 or difference.high < 0
    assert outside == (found.chance("ours") <= 1 - difference.confidence)


def of(pairs: list[tuple[float, float]], metric: Metric) -> Comparison:
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return compared(metric, theirs=theirs, ours=ours, third=ours[::-1])


def check_exchanged(pairs: list[tuple[float, float]], metric: Metric) -> None:
    """Exchange the rules, and all that is said of them is turned round; no number is NaN."""
    there, back = of(pairs, metric), of([(theirs, ours) for ours, theirs in pairs], metric)
    one, other = there.difference("ours"), back.difference("ours")
    assert not any(math.isnan(number) for number in (one.median, one.low, one.high))
    assert (one.median, one.low, one.high, one.confidence) == (-other.median, -other.high, -other.low, other.confidence)
    assert one == there.difference("ours", than="theirs")
    turned = {BETTER: WORSE, WORSE: BETTER, EQUAL: EQUAL, WITHIN_NOISE: WITHIN_NOISE, TOO_FEW: TOO_FEW}
    assert there.verdict("theirs", "ours") == turned[there.verdict("ours")]
    for chance in ("equal", "chance", "corrected_chance"):
        assert getattr(there, chance)("ours", "theirs") == getattr(there, chance)("theirs", "ours")
        assert getattr(there, chance)("ours", "third") == getattr(there, chance)("third", "ours")
    assert there.equal("ours") == back.equal("ours")


@given(PAIRS, METRICS)
def test_exchanging_the_rules_turns_everything_round(pairs: list[tuple[float, float]], metric: Metric) -> None:
    check_exchanged(pairs, metric)


@given(PAIRS | AGREEING, METRICS)
def test_the_side_of_a_difference_is_the_side_of_the_verdict(pairs: list[tuple[float, float]], metric: Metric) -> None:
    found = of(pairs, metric)
    down, up = (BETTER, WORSE) if metric.best == "lowest" else (WORSE, BETTER)
    if found.verdict("ours") in (down, up):
        assert (found.difference("ours").median < 0) == (found.verdict("ours") == down)
        assert found.difference("ours").median != 0


@given(PAIRS, METRICS)
def test_a_document_says_what_the_comparison_says(pairs: list[tuple[float, float]], metric: Metric) -> None:
    found = of(pairs, metric)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Comparison.from_json(document).to_json() == document
    first, second, _ = (rule["against_first"] for rule in document["rules"])
    assert first is None
    assert (second["wins"], second["losses"]) == (found.wins("ours", "theirs"), found.wins("theirs", "ours"))
    assert (second["difference"] is None) == math.isinf(found.difference("ours").median)


def test_diverged_runs_differ_infinitely_and_two_of_them_not() -> None:
    found = compared(none=[math.nan, math.inf, 2.0, math.inf, 3.0], ours=[1.0, math.nan, math.inf, 1.0, 3.5])
    assert found.difference("ours") == PairedDifference(0.0, -math.inf, math.inf, 0.9375)
    half = compared(none=[math.nan, 1.0], ours=[1.0, math.nan])
    assert half.difference("ours").median == 0.0  # between the infinities, from either side
    highest = compared(Metric(best="highest"), none=[math.nan, 1.0, 1.0], ours=[1.0, 2.0, 1.0])
    assert highest.difference("ours") == PairedDifference(1.0, 0.0, math.inf, 0.75)


def rejected_one_by_one(chances: list[Fraction], level: Fraction) -> list[bool]:
    """Holm's procedure as he describes it: the smallest of those left, at the level through how many are left."""
    left = list(range(len(chances)))
    while left:
        smallest = min(left, key=lambda number: chances[number])
        if chances[smallest] > level / len(left):
            break
        left.remove(smallest)
    return [number not in left for number in range(len(chances))]


def closed(chances: list[Fraction]) -> list[Fraction]:
    """The largest chance of any set that each is in, by Bonferroni: the closure principle, of which Holm is a short
    form."""
    every = range(len(chances))
    sets = [some for size in range(1, len(chances) + 1) for some in itertools.combinations(every, size)]
    return [
        max(min(Fraction(1), len(some) * min(chances[one] for one in some)) for some in sets if number in some)
        for number in every
    ]


def check_corrected(chances: list[Fraction]) -> None:
    """The correction is that of all sets, and says what the procedure rejects."""
    corrected = corrected_for_number(chances)  # type: ignore[arg-type]
    assert corrected == closed(chances)
    for level in {*map(Fraction, corrected), Fraction(1, 20), Fraction(1, 3)} - {Fraction(1)}:
        assert [one <= level for one in corrected] == rejected_one_by_one(chances, level)


@given(CHANCES)
def test_the_correction_is_holms(chances: list[Fraction]) -> None:
    check_corrected(chances)


def test_a_comparison_is_corrected_for_the_rules_beside_it() -> None:
    low, high = [1.0] * 7, [2.0] * 7
    two = compared(none=high, ours=low)
    assert two.chance("ours") == two.corrected_chance("ours") == 1 / 64
    assert two.finding("ours") == "better, also corrected"
    five = compared(none=high, ours=low, a=low, b=low, c=[*low[:3], *high[:4]], d=high)
    assert five.corrected_chance("ours") == 5 / 64
    assert five.finding("ours") == "better"
    assert five.finding("c") == "within noise"
    assert five.corrected_chance("ours", than="d") == 15 / 64  # of all pairs, since d is not the first
    assert five.corrected_chance("d", than="d") == 1.0


def test_a_false_verdict_among_several_is_as_rare_as_the_correction_says() -> None:
    # Three rules that change nothing, on 7 seeds: the signs of each are fair coins, of which 2 in 128 agree.
    once = Fraction(2, 128)
    rejecting = [corrected_for_number([1 / 64] * agree + [1.0] * (3 - agree))[0] <= 0.05 for agree in (1, 2, 3)]
    assert rejecting == [True] * 3
    assert 1 - (1 - once) ** 3 <= Fraction(1, 20)
    assert paired_chance([0.0] * 7, [1.0] * 7) == once


def check_equality(seeds: int) -> None:
    """A difference as large as the margin is called equal in one of twenty at most; none, where none is."""
    at_the_margin = [
        equal_within([1.0 + 0.5 * side for side in sides], 1.0) for sides in itertools.product(SIDES, repeat=seeds)
    ]
    assert sum(at_the_margin) <= len(at_the_margin) / 20
    assert not equal_within([1.0] * seeds, 1.0)
    assert equal_within([0.5, *[-0.5] * (seeds - 1)], 1.0) == (seeds >= 5)


@pytest.mark.parametrize("seeds", SEEDS)
def test_rules_that_differ_are_seldom_shown_to_be_equal(seeds: int) -> None:
    check_equality(seeds)


@pytest.mark.parametrize("seeds", [5, 6, 7])
def test_of_five_to_seven_seeds_all_have_to_lie_within_the_margin(seeds: int) -> None:
    assert equal_within([0.9] * seeds, 1.0)
    assert not equal_within([0.9] * (seeds - 1) + [-math.inf], 1.0)


@pytest.mark.parametrize("seeds", [8, 9, 10])
def test_of_eight_seeds_and_more_one_may_lie_outside(seeds: int) -> None:
    assert equal_within([0.9] * (seeds - 1) + [math.inf], 1.0)
    assert not equal_within([0.9] * (seeds - 2) + [math.inf] * 2, 1.0)


def test_equal_is_not_the_same_as_within_noise_nor_the_contrary_of_better() -> None:
    none = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]
    near = [value + (0.01 if seed % 2 else -0.01) for seed, value in enumerate(none)]
    lower = [value - 0.01 for value in none]
    far = [value + by for value, by in zip(none, [0.3, -0.3, 0.3, -0.3, 0.3, -0.3, 0.0], strict=True)]
    found = compared(Metric(margin=0.02), none=none, near=near, lower=lower, far=far)
    assert [found.verdict(text) for text in ("near", "lower", "far")] == [EQUAL, BETTER, WITHIN_NOISE]
    assert found.finding("lower") == "better by less than the margin, also corrected"
    assert compared(none=none, near=near).verdict("near") == WITHIN_NOISE  # no margin was stated
    assert compared(Metric(margin=0.02), none=none[:4], near=near[:4]).verdict("near") == TOO_FEW
    assert found.best.text == "lower"
    assert found.as_good_as_the_best() == ["near", "far"]


def test_a_relative_margin_is_a_share_of_the_better_run() -> None:
    metric = Metric("perplexity", margin=0.02, relative=True)
    found = compared(metric, none=[100.0, 50.0, 200.0, 100.0, 10.0], ours=[101.5, 50.9, 197.0, 101.0, 10.1])
    assert found.difference("ours").median == pytest.approx(0.01)
    assert found.difference("ours").low == pytest.approx(-3 / 197)
    assert found.verdict("ours") == EQUAL
    assert [metric.difference(0.0, 0.0), metric.difference(1.0, 0.0), metric.difference(0.0, 1.0)] == [
        *(0.0, math.inf, -math.inf)
    ]
    reward = Metric("return", best="highest", margin=0.1, relative=True)
    assert reward.difference(80.0, 100.0) == -0.2
    assert reward.difference(-100.0, -80.0) == -0.25


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf, "0.1", True])
def test_a_margin_is_above_0(margin: Any) -> None:
    with pytest.raises(ValueError, match=r"a difference above 0 that does not matter, got .*: write 0\.02"):
        Metric(margin=margin)


def test_a_document_of_before_is_read_without_a_margin() -> None:
    document = compared(none=[1.0] * 5, ours=[2.0] * 5).to_json()
    del document["metric"]["margin"], document["metric"]["relative"]
    for rule in document["rules"]:
        del rule["against_first"]
    again = Comparison.from_json(document)
    assert again.metric == Metric()
    assert again.verdict("ours") == WORSE
