"""Which laws hold for which rule, and the two functions that try them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradclip.rules.codec import KINDS
from gradclip.rules.combine import max_of, until
from gradclip.rules.estimators import EMA, Window
from gradclip.rules.history import History
from gradclip.rules.levels import Quantile, Ratio
from gradclip.rules.norm import L1, L2, RMS, Linf, Lp, Norm
from gradclip.rules.recipes import (
    AGC,
    LARC,
    SPAM,
    AdaGC,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByValue,
    EMARatio,
    NormGrowth,
    PercentileClip,
    QuantileClip,
    SkipSpikes,
    StableSPAM,
    UClip,
    ZClip,
)
from gradclip.rules.response import Normalize, Raise, Rescale, Response, SkipStep, Smooth, Zero
from gradclip.rules.rule import AnyRule, Carry, Rule, Rules, rules_in
from gradclip.rules.scope import Element, Global, Group, Row, Scope, Tensor
from gradclip.rules.threshold import Bounds, Constant, Schedule
from gradclip.testing import laws
from gradclip.testing.bench import REFERENCE, Bench, Values
from gradclip.testing.drawn_gradients import adversarial_gradients, ordinary_gradients
from gradclip.testing.laws import Law
from gradclip.testing.rewrite import scalable

SCOPES: tuple[Scope, ...] = (Row(), Tensor(), Group(), Global())
NORMS: tuple[Norm, ...] = (L1(), L2(), Linf(), Lp(3.0), Lp(0.5), RMS())
RESPONSES: tuple[Response, ...] = (
    Rescale(),
    Smooth("reciprocal"),
    Smooth("sqrt"),
    Smooth("tanh"),
    Normalize(),
    Normalize(0.1),
    Zero(),
    SkipStep(),
)


def standard_rules() -> list[AnyRule]:
    """Scopes with norms, scopes with responses, norms with responses; by value, in chains, by name, by schedule; and
    those that adapt.

    >>> len(standard_rules()) > 40
    True
    """
    half, unit = Constant(0.5), Constant(1.0)
    single = [Rule(s, n, half) for s in SCOPES for n in NORMS]
    single += [Rule(Row(1), L2(), half), Rule(Row(-1), Lp(3.0), half, Smooth())]
    single += [Rule(s, L2(), half, r) for s in SCOPES for r in RESPONSES[1:]]
    single += [Rule(Tensor(), n, half, r) for n in NORMS if n != L2() for r in RESPONSES[1:]]
    by_value = [Rule(Element(), Linf(), half, r) for r in RESPONSES if not isinstance(r, SkipStep)]
    bounds = [Rule(Element(), Linf(), Bounds(0.7, -0.2), r) for r in (Rescale(), Smooth("tanh"), Zero())]
    row, tensor, group, everything = (Rule(scope, L2(), unit) for scope in SCOPES)
    chains = [
        tensor >> everything,
        row >> tensor >> group >> Rule(Global(), L2(), half),
        Rule(Tensor(), Linf(), half) >> Rule(Global(), Linf(), Constant(0.1)),
        Rule(Tensor(), Lp(3.0), half) >> Rule(Global(), Lp(3.0), half, Smooth()),
        Rule(Tensor(), L2(), half, Normalize()) >> everything,
        Rule(Tensor(), RMS(), half) >> everything,
        everything >> Rule(Tensor(), L1(), half),
        ClipGradByValue(0.5) >> everything,
        everything >> ClipGradByValue(0.01, -0.02),
    ]
    named = [
        Rules({"t[02]": tensor, "t1": ClipGradByValue(0.1), "*": everything}),
        Rules({"t1": None, "t[3-9]": tensor >> everything, "*": Rule(Group(), Linf(), half)}),
    ]
    return [
        *single,
        *by_value,
        *bounds,
        *chains,
        *named,
        Rules({"*": everything}) >> Rule(Tensor(), L2(), Constant(0.3)),
        Rule(Global(), L2(), Schedule((0, 2.0), (4, 0.5))),
        Rule(Tensor(), L2(), Constant(None)),
        Rule(Global(), L2(), Constant(1e9), Raise()),
        Rule(Tensor(), Linf(), half, Raise()),
        *adaptive_rules(),
        Rule(Row((0, 1)), Lp(3.0), half),
        Rule(Row((-2, -1)), L2(), half, Smooth()),
    ]


def adaptive_rules() -> list[AnyRule]:
    """Each kind of memory and what is fed to it, with warm-ups that a stream of a dozen steps leaves behind."""
    return [
        AGC(0.01, exclude="t2"),
        LARC(0.02, lr=0.1),
        AutoClip(50, window=4),
        ZClip(z=1.5, warmup=3, max_norm=None, readmit=2),
        ZClip(z=1.5, warmup=3, max_norm=2.0, feed="accepted"),
        AdaGC(warmup=2),
        EMARatio(1.2, 0.9),
        SkipSpikes(1.5, window=5, warmup=3, max_norm=0.5),
        PercentileClip(90, window=4),
        NormGrowth(1.01),
        QuantileClip(0.5, 0.3),
        StableSPAM(0.9),
        SPAM(0.5, warmup=2),
        UClip(ClipGradByGlobalNorm(0.5)),
        Rule(Row(), L2(), max_of(0.05, History(EMA(0.5, "debiased"), Ratio(1.1), "clipped"))),
        Rule(Group(), L2(), until(3, 2.0, History(Window(3), Quantile(0.3), "limit", 2, readmit=3))),
    ]


def laws_of(rule: AnyRule) -> list[Law]:
    """The laws of a rule that hold for `rule`, whatever the engine.

    >>> [law.__name__ for law in laws_of(ClipGradByNorm(1.0))][0]
    'shape_and_dtype_stay'
    """
    return [*_laws_of_every(rule), *_laws_of_one(rule)]


def _laws_of_every(rule: AnyRule) -> Iterator[Law]:
    inside = rules_in(rule)
    yield laws.shape_and_dtype_stay
    yield laws.the_order_of_tensors_does_not_matter
    yield laws.it_agrees_with_the_reference
    yield laws.a_restored_clipper_goes_on_bit_for_bit
    yield laws.phi_of_zero_is_one
    yield laws.phi_of_infinity_is_a_number
    yield laws.bad_steps_teach_nothing
    if any(part.threshold.adapts for part in inside):
        yield laws.it_learns_as_the_reference_does
    yield laws.raising_names_the_tensor_and_writes_nothing
    rescales = not isinstance(rule, Carry)  # which writes the bits that were there
    if rescales and all(part.response == Rescale() or isinstance(part.response, Zero) for part in inside):
        yield laws.below_the_threshold_nothing_is_written
    if all(scalable(part.threshold) for part in inside):
        yield laws.scaling_gradients_and_thresholds_scales_the_result
    if all(_writable(part) for part in inside):
        yield laws.it_is_the_same_rule_after_a_round_trip


def _laws_of_one(rule: AnyRule) -> Iterator[Law]:
    """Those that a response or a scope inside the rule may rule out."""
    inside = rules_in(rule)
    stops = any(isinstance(part.response, SkipStep | Raise) for part in inside)
    if not any(isinstance(part.response, Raise) for part in inside):
        yield laws.a_skipped_step_writes_nothing
    if not stops:
        yield laws.the_direction_stays
        if not isinstance(rule, Carry):
            yield laws.a_kept_segment_is_not_written
        yield laws.zeroing_leaves_only_finite_numbers
    bounded = all(part.response.bounded for part in inside) and not any(part.response.enlarges for part in inside[1:])
    if not stops and bounded:
        yield laws.the_bound_holds
    if all(part.response == Rescale() and isinstance(part.threshold, Constant | Bounds) for part in inside):
        yield laws.clipping_twice_is_clipping_once
    by_name = any(isinstance(stage, Rules) for stage in rule.stages)
    if not by_name and not stops and not any(isinstance(part.scope, Global) for part in inside):
        yield laws.groups_do_not_see_each_other


def _writable(rule: Rule) -> bool:
    parts = (rule.scope, rule.norm, rule.threshold, rule.response)
    known = all(type(part).__name__ in KINDS for part in parts)
    return known and not (isinstance(rule.threshold, Schedule) and rule.threshold.function)


def check_rule(rule: AnyRule, bench: Bench = REFERENCE, gradients: list[Values] | None = None) -> None:
    """Try all laws that hold for `rule`; raises `AssertionError` with what was broken.

    >>> check_rule(ClipGradByNorm(1.0))
    """
    arrays = ordinary_gradients() if gradients is None else gradients
    for law in laws_of(rule):
        law(bench, rule, arrays)


def check_engine(bench: Bench, dtypes: Sequence[str] = ("float32",), rules: Sequence[AnyRule] | None = None) -> None:
    """Try an engine on the standard rules, on ordinary and on adversarial gradients of each dtype.

    >>> check_engine(REFERENCE, dtypes=["float64"], rules=[ClipGradByNorm(1.0)])
    """
    chosen = standard_rules() if rules is None else rules
    for dtype in dtypes:
        typed, adversarial = replace(bench, dtype=dtype), adversarial_gradients(dtype)
        for rule in chosen:
            check_rule(rule, typed)
            for arrays in adversarial.values():
                laws.it_agrees_with_the_reference(typed, rule, arrays)
        check_measures(typed)


def check_measures(bench: Bench) -> None:
    """Try what an engine measures, and the ways of its own to write."""
    adversarial = adversarial_gradients(bench.dtype).values()
    for norm in NORMS:
        laws.parts_combine_to_the_whole(bench, Rule(norm=norm), ordinary_gradients())
        for scope in (*SCOPES, Element()):
            for arrays in (ordinary_gradients(), *adversarial):
                laws.every_norm_is_right(bench, Rule(scope, norm), arrays)
    if bench.engine.clamps:
        laws.a_fused_path_equals_the_plain_one(bench, ClipGradByValue(0.5), ordinary_gradients())
