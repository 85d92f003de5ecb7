"""The product engine x law x rule, on ordinary and on adversarial gradients, from one list of each.

Tolerances are those of `gradclip.testing.bench`: 1e-6 for the norm, 2^-24 each for a coefficient and a product in
fp32, half a step of the dtype for the element that is stored, doubled where two clips are compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benches import BENCHES, COMPILED_DTYPES, DTYPES
from effort import LONG
from gradclip import L2, ClipGradByValue, Element, Global, Raise, Rule, Tensor
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
ADVERSARIAL = {dtype: adversarial_gradients(dtype) for dtype in (*DTYPES, "complex64")}


def rules_for(engine, number):
    """The rules that an engine is tried on under the law, or on the list, of this number: all.

    Engines that take ten times as long meet in the short form every second one, from another one on for each rule.
    """
    every = 2 if engine in SLOW and not LONG else 1
    return [(place, rule) for place, rule in enumerate(RULES) if (place + number) % every == 0]


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
    bench, arrays = BENCHES[engine], ordinary_gradients()
    served = [rule for _, rule in rules_for(engine, list(LAWS).index(law.__name__)) if law in laws_of(rule)]
    assert served
    all_hold([lambda rule=rule: law(bench, rule, arrays) for rule in served])


@pytest.mark.parametrize("gradients", ADVERSARIAL["float32"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_adversarial_gradients(engine, gradients):
    """Each rule meets each list of gradients in one of the dtypes; over the rules each list meets all dtypes."""
    checks = []
    dtypes = COMPILED_DTYPES if engine == "jax" else DTYPES
    for place, rule in rules_for(engine, list(ADVERSARIAL["float32"]).index(gradients)):
        dtype = dtypes[place // 2 % len(dtypes)]
        bench, arrays = replace(BENCHES[engine], dtype=dtype), ADVERSARIAL[dtype].get(gradients)
        if arrays is not None:
            checks.append(lambda b=bench, r=rule, a=arrays: laws.it_agrees_with_the_reference(b, r, a))
    assert len(checks) >= len(RULES) // 4
    all_hold(checks)


@pytest.mark.parametrize("gradients", ["ordinary", "1e25", "denormals", "a NaN", "NaN and inf"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_complex_gradients(engine, gradients):
    """Real and imaginary parts are drawn apart; a complex number has no order, so there is no clipping by value."""
    bench, members = replace(BENCHES[engine], dtype="complex64"), ADVERSARIAL["complex64"]
    real = members.get(gradients, ordinary_gradients(1))
    arrays = [array + 1j * np.flip(array) for array in real]
    by_norm = [rule for rule in RULES if not any(isinstance(one.scope, Element) for one in rules_in(rule))]
    all_hold([lambda r=rule: laws.it_agrees_with_the_reference(bench, r, arrays) for rule in by_norm])


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("engine", BENCHES)
def test_fp64_gradients_whose_squares_leave_fp64_are_non_finite_on_every_engine(engine, scope):
    """2e200 squared is no fp64 number: PyTorch reports infinity there, and its users rely on the error."""
    bench = replace(BENCHES[engine], dtype="float64")
    outcome = bench.clip(Rule(scope, L2()), [np.full((2, 2), 2e200)])
    assert {row.norm_before for row in outcome.result.segments} == {np.inf}
    assert {row.action for row in outcome.result.segments} == {"keep"}
    assert outcome.wrote == [False]


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "keep"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_what_to_do_with_non_finite_gradients(engine, policy):
    arrays, bench = ADVERSARIAL["float32"]["NaN and inf"], BENCHES[engine]
    all_hold(
        [lambda r=rule: laws.it_agrees_with_the_reference(bench, r, arrays, on_nonfinite=policy) for rule in RULES]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_norm_of_every_scope_is_right_on_adversarial_gradients(engine, dtype):
    bench, every = replace(BENCHES[engine], dtype=dtype), ADVERSARIAL[dtype].values()
    rules = [Rule(scope, norm) for scope in SCOPES for norm in NORMS] + [ClipGradByValue(1.0)]
    all_hold([lambda r=rule, a=arrays: laws.every_norm_is_right(bench, r, a) for rule in rules for arrays in every])


@pytest.mark.parametrize("engine", BENCHES)
def test_parts_combine_to_the_whole(engine):
    all_hold(
        [
            lambda n=norm, a=arrays: laws.parts_combine_to_the_whole(BENCHES[engine], Rule(norm=n), a)
            for norm in NORMS
            for arrays in (ordinary_gradients(), ADVERSARIAL["float32"]["1e25"], ADVERSARIAL["float32"]["1e-25"])
        ]
    )


@pytest.mark.parametrize("engine", [name for name, bench in BENCHES.items() if bench.engine.waits])
def test_an_engine_that_waits_for_a_device_never_waits_while_it_clips(engine):
    silent = [rule for rule in RULES if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
    for rule in silent:
        laws.no_number_is_read_on_the_host(BENCHES[engine], rule, ordinary_gradients())


@pytest.mark.parametrize("engine", [name for name, bench in BENCHES.items() if bench.engine.clamps])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_clamp_equals_measure_and_map(engine, dtype):
    bench = replace(BENCHES[engine], dtype=dtype)
    for arrays in (ordinary_gradients(), *ADVERSARIAL[dtype].values()):
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
