"""The product engine x law x rule, on ordinary and on adversarial gradients, from one list of each.

Tolerances are those of `gradclip.testing.bench`: 1e-6 for the norm, 2^-24 each for a coefficient and a product in
fp32, half a step of the dtype for the element that is stored, doubled where two clips are compared.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from benches import BENCHES, COMPILED_DTYPES, DTYPES, given_to
from effort import LONG
from gradclip import L1, L2, RMS, ClipGradByValue, Constant, Element, Global, Linf, Lp, Raise, Row, Rule, Tensor
from gradclip.rules.rule import rules_in
from gradclip.step.policy import POLICIES
from gradclip.testing import adversarial_gradients, check_engine, laws, laws_of, ordinary_gradients, standard_rules
from gradclip.testing.check import NORMS, SCOPES
from remembering import Following

RULES = [
    *standard_rules(),
    Rule(Global(), L2(), Following()),
    Rule(Tensor(), L2(), Following()),
    Rule(Tensor(), L2(), Following()) >> Rule(Global(), L2(), Following(3.0)),
]
LAWS = {law.__name__: law for rule in RULES for law in laws_of(rule)}
SLOW = ("jax", "paddle on a device")
ENGINES = [name for name in BENCHES if name != "reference"]
NO_BFLOAT16 = ("denormals", "largest and smallest", "largest numbers")
"""Triton's interpreter (3.6) makes other numbers of the denormal ones of bfloat16; compiled kernels do not."""
ADVERSARIAL = {dtype: adversarial_gradients(dtype) for dtype in (*DTYPES, "complex64")}


def rules_for(engine, number):
    """The rules that an engine is tried on under the law, or on the list, of this number: all.

    Engines that take ten times as long meet in the short form every second one, from another one on for each rule, and
    an engine whose kernels run in Python every eighth, or every second in the long form.
    """
    every = 2 if engine in SLOW and not LONG else 1
    every = (2 if LONG else 8) if engine == "triton" else every
    return [(place, rule) for place, rule in enumerate(RULES) if (place + number) % every == 0]


def rules_on(engine):
    """All rules, for an engine whose kernels run in Python those that `rules_for` gives it."""
    return [rule for _, rule in rules_for(engine, 0)] if engine == "triton" else RULES


def adversarial_for(engine, dtype):
    """The lists of gradients of a dtype that an engine is tried on: all that it can be given."""
    left_out = NO_BFLOAT16 if (engine, dtype) == ("triton", "bfloat16") else ()
    return {name: given_to(engine, arrays) for name, arrays in ADVERSARIAL[dtype].items() if name not in left_out}


def ordinary_for(engine):
    """The ordinary gradients as an engine is given them."""
    return given_to(engine, ordinary_gradients())


def measured(engine, number):
    """A rule for each norm over each scope, for the dtype of this number.

    An engine that takes long meets in the short form each scope with each norm, and each of both in each dtype, but not
    each three of them.
    """
    pairs = [(i + j, Rule(scope, norm)) for i, scope in enumerate(SCOPES) for j, norm in enumerate(NORMS)]
    every = {"jax": 1 if LONG else len(DTYPES), "triton": 1 if LONG else 3}.get(engine, 1)
    return [rule for place, rule in pairs if (place + number) % every == 0]


def all_hold(checks) -> None:
    """Run all checks; one assertion that lists the first words of those that failed."""
    broken = []
    for check in checks:
        try:
            check()
        except AssertionError as error:
            broken.append(str(error))
    assert not broken, f"{len(broken)} broken:\n" + "\n".join(dict.fromkeys(broken[:8]))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("engine", BENCHES)
def test_every_engine_keeps_every_law(engine, law):
    bench, arrays = BENCHES[engine], ordinary_for(engine)
    served = [rule for _, rule in rules_for(engine, list(LAWS).index(law.__name__)) if law in laws_of(rule)]
    assert served
    all_hold([lambda rule=rule: law(bench, rule, arrays) for rule in served])


@pytest.mark.parametrize("gradients", ADVERSARIAL["float32"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_adversarial_gradients(engine, gradients):
    """Each rule meets each list of gradients in one of the dtypes; over the rules each list meets all dtypes."""
    checks = []
    dtypes = COMPILED_DTYPES if engine == "jax" else DTYPES
    rules = rules_for(engine, list(ADVERSARIAL["float32"]).index(gradients))
    for turn, (_, rule) in enumerate(rules):
        dtype = dtypes[turn // 2 % len(dtypes)]
        bench, arrays = replace(BENCHES[engine], dtype=dtype), adversarial_for(engine, dtype).get(gradients)
        if arrays is not None:
            checks.append(lambda b=bench, r=rule, a=arrays: laws.it_agrees_with_the_reference(b, r, a))
    assert len(checks) >= len(rules) // 2
    all_hold(checks)


@pytest.mark.parametrize("gradients", ["ordinary", "1e25", "denormals", "a NaN", "NaN and inf"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_complex_gradients(engine, gradients):
    """Real and imaginary parts are drawn apart; a complex number has no order, so there is no clipping by value."""
    bench, members = replace(BENCHES[engine], dtype="complex64"), ADVERSARIAL["complex64"]
    real = given_to(engine, members.get(gradients, ordinary_gradients(1)))
    arrays = [array + 1j * np.flip(array) for array in real]
    by_norm = [rule for rule in rules_on(engine) if not any(isinstance(one.scope, Element) for one in rules_in(rule))]
    all_hold([lambda r=rule: laws.it_agrees_with_the_reference(bench, r, arrays) for rule in by_norm])


FLUSHING = ("jax", "paddle on a device")
"""On a CPU these frameworks take denormal numbers for zero in their arithmetic."""
FAR_OUT = {
    "squares above fp64": [np.full((3, 2), 2e200), np.full((2, 3), 2e200), np.array([1e190, -1e199])],
    "squares below fp64": [np.full((3, 2), 2e-200), np.full((2, 3), 2e-200), np.array([1e-190, -1e-199])],
    "the largest": [np.full((3, 2), 1.7e308), np.full((2, 3), 1.7e308), np.full(2, 1.7e308)],
    "from end to end": [
        np.array([[1e200, 1e-200], [0.0, 1.0], [1.0, 1.0]]),
        np.array([[0.0, 0.0, 0.0], [3e-170, 4e-170, 0.0]]),
        np.array([0.0, 1.0]),
    ],
    "small beside zeros": [np.zeros((3, 2)), np.zeros((2, 3)), np.array([3e-200, 4e-200])],
    "rows from end to end": [
        np.array([[1e200, 1e200, 1.0], [2e-180, 1.0, 1e160]]).T,
        np.full((3, 2), 1e170).T,
        np.array([1e200, 1e-200]),
    ],
}
FAR_OUT = {name: [*arrays, np.zeros(0)] for name, arrays in FAR_OUT.items()}
"""Finite fp64 gradients whose squares are no fp64 numbers; of the same shapes, for which JAX compiles programs."""


def true_norm(x: np.ndarray, norm) -> np.longdouble:
    """In long double, whose exponents go on to 4932; in units of the largest, or a power may still leave them."""
    sizes = np.abs(x.astype(np.longdouble)).ravel()
    largest = sizes.max(initial=0.0)
    if norm.p == np.inf or largest == 0.0:
        return largest
    total = np.sum((sizes / largest) ** np.longdouble(norm.p))
    return largest * (total / max(x.size if isinstance(norm, RMS) else 1, 1)) ** (1 / np.longdouble(norm.p))


def clips_to_the_true_norm(bench, rule, arrays, segments) -> None:
    """`segments` are views of one list of arrays, those that have one norm together in one list.

    The tolerance is for sums of a few powers in fp64, each within 2 of its last steps: 1e-13. 1e-307 is the smallest
    number that JAX does not take for zero.
    """
    outcome = bench.clip(rule, arrays)
    for before, after in zip(segments(arrays), segments(outcome.after), strict=True):
        norm = true_norm(np.concatenate([x.ravel() for x in before]), rule.norm)
        limit = np.longdouble(rule.threshold.limit)
        for x, got in zip(before, after, strict=True):
            wanted = (x * (limit / norm) if norm > limit else x.astype(np.longdouble)).astype(np.float64)
            if norm > 1e307 * limit:  # the coefficient is no normal number: fewer digits, or zero
                assert np.all(np.abs(got) <= np.abs(wanted) * 1.001), (rule, x, got, wanted)
                continue
            assert np.allclose(got, wanted, rtol=1e-13, atol=1e-307), (rule, x, got, wanted)
    assert outcome.result.nonfinite == 0


@pytest.mark.parametrize("limit", [1e-170, 1e-30, 1.0, 1e30, 1e170, 1e307])
@pytest.mark.parametrize("engine", BENCHES)
def test_every_finite_fp64_gradient_is_clipped_by_its_true_norm(engine, limit):
    bench, checks = replace(BENCHES[engine], dtype="float64"), []
    segments = {
        Global(): lambda arrays: [arrays],
        Tensor(): lambda arrays: [[x] for x in arrays],
        Row(axis=0): lambda arrays: [[row] for x in arrays for row in (x if x.ndim > 1 else [x])],
        Row(axis=-1): lambda arrays: [[row] for x in arrays for row in (x.T if x.ndim > 1 else [x])],
    }
    for scope, norm in product(segments, [L1(), L2(), RMS(), Lp(3.5), Lp(0.5), Linf()]):
        rule = Rule(scope, norm, Constant(limit))
        checks += [
            lambda r=rule, a=arrays: clips_to_the_true_norm(bench, r, a, segments[r.scope])
            for arrays in FAR_OUT.values()
        ]
    all_hold(checks)


@pytest.mark.parametrize("engine", BENCHES)
def test_the_norm_of_a_small_order_may_be_no_fp64_number(engine):
    """1000^(1 / 0.1) is 1e30, times 1e290 is 1e320; 1 / 1e320 is 2024 of the smallest steps: half of one is 2.5e-4."""
    bench = replace(BENCHES[engine], dtype="float64")
    alike, written = [np.full((1, 1000), 1e290), np.zeros(3)], 0.0 if engine == "jax" else 1e-30
    for scope in (Global(), Tensor(), Row(0)):
        outcome = bench.clip(Rule(scope, Lp(0.1), Constant(1.0)), alike)
        np.testing.assert_allclose(outcome.after[0], written, rtol=3e-4)
        assert not np.any(outcome.after[1])
        assert outcome.result.nonfinite == 0
        assert outcome.result.norm_after == (0.0 if engine == "jax" else 1.0)  # no error of a float's power


@pytest.mark.parametrize("engine", [name for name in BENCHES if name not in FLUSHING])
def test_every_order_is_right_of_denormal_numbers(engine):
    """1e-312 is 2e11 of the smallest steps: 1e-11 and less for each rounding."""
    bench, tiny = replace(BENCHES[engine], dtype="float64"), np.array([[1e-310, 2e-310]])
    for scope, order in product((Global(), Tensor(), Row(0)), (0.3, 0.7, 3.0, 7.5, 200.0, 1000.0)):
        after, zeros = bench.clip(Rule(scope, Lp(order), Constant(1e-311)), [tiny, np.zeros((2, 3))]).after
        norm = true_norm(tiny, Lp(order))
        np.testing.assert_allclose(
            after, (tiny * (1e-311 / norm)).astype(float), rtol=3e-11, err_msg=f"{scope} {order}"
        )
        assert not np.any(zeros)


@pytest.mark.parametrize("engine", [name for name in BENCHES if name not in FLUSHING])
def test_a_coefficient_may_be_a_denormal_number(engine):
    """1e-3 / 1.7e308 has 34 bits left: 2^-34 = 6e-11."""
    bench = replace(BENCHES[engine], dtype="float64")
    for norm in (Linf(), L2(), L1(), Lp(3.0)):
        (after,) = bench.clip(Rule(Global(), norm, Constant(1e-3)), [np.array([1.7e308])]).after
        assert after == pytest.approx([1e-3], rel=6e-11), norm


@pytest.mark.parametrize("engine", BENCHES)
def test_a_norm_too_large_for_fp64_is_not_learnt_and_clips(engine):
    """The norm of four times 1.7e308 is 3.4e308; the threshold of `Following` is what it saw before."""
    bench = replace(BENCHES[engine], dtype="float64")
    outcome = bench.clip(Rule(Global(), L2(), Constant(None)), [np.full(4, 1.7e308)])
    assert outcome.wrote == [False]
    assert outcome.result.nonfinite == 0


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "keep"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_what_to_do_with_non_finite_gradients(engine, policy):
    arrays, bench = adversarial_for(engine, "float32")["NaN and inf"], BENCHES[engine]
    all_hold(
        [
            lambda r=rule: laws.it_agrees_with_the_reference(bench, r, arrays, on_nonfinite=policy)
            for rule in rules_on(engine)
        ]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_norm_of_every_scope_is_right_on_adversarial_gradients(engine, dtype):
    bench, every = replace(BENCHES[engine], dtype=dtype), adversarial_for(engine, dtype).values()
    rules = [*measured(engine, DTYPES.index(dtype)), ClipGradByValue(1.0)]
    all_hold([lambda r=rule, a=arrays: laws.every_norm_is_right(bench, r, a) for rule in rules for arrays in every])


@pytest.mark.parametrize("engine", BENCHES)
def test_parts_combine_to_the_whole(engine):
    adversarial = adversarial_for(engine, "float32")
    all_hold(
        [
            lambda n=norm, a=arrays: laws.parts_combine_to_the_whole(BENCHES[engine], Rule(norm=n), a)
            for norm in NORMS
            for arrays in (ordinary_for(engine), adversarial["1e25"], adversarial["1e-25"])
        ]
    )


@pytest.mark.parametrize("engine", [name for name, bench in BENCHES.items() if bench.engine.waits])
def test_an_engine_that_waits_for_a_device_never_waits_while_it_clips(engine):
    silent = [rule for rule in RULES if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
    for rule in silent:
        laws.no_number_is_read_on_the_host(BENCHES[engine], rule, ordinary_for(engine))


@pytest.mark.parametrize("engine", [name for name, bench in BENCHES.items() if bench.engine.clamps])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_clamp_equals_measure_and_map(engine, dtype):
    bench = replace(BENCHES[engine], dtype=dtype)
    for arrays in (ordinary_for(engine), *adversarial_for(engine, dtype).values()):
        for rule in (ClipGradByValue(0.5), ClipGradByValue(2.0, -0.1)):
            laws.a_fused_path_equals_the_plain_one(bench, rule, arrays)


@pytest.mark.parametrize("scope", [*SCOPES, Element()], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_longer_than_a_chunk_are_measured_and_scaled_as_short_ones(engine, scope):
    """300,000 elements are several chunks of every engine; the last one is not full."""
    random = np.random.default_rng(5)
    arrays = [random.standard_normal((3, 100_003)), random.standard_normal(300_001)]
    rule = ClipGradByValue(0.5) if isinstance(scope, Element) else Rule(scope)
    laws.it_agrees_with_the_reference(BENCHES[engine], rule, arrays)
    laws.every_norm_is_right(BENCHES[engine], rule, arrays)


def test_an_engine_of_a_third_party_is_checked_in_one_call():
    check_engine(BENCHES["reference"], ("float64",), rules=[Rule(Tensor()), Rule(Tensor()) >> Rule(Global())])
