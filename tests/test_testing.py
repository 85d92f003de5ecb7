"""The laws as third parties use them."""

import doctest

import numpy as np
import pytest

import gradclip.testing
from gradclip import L2, ClipGradByGlobalNorm, Global, Response, Rule, Tensor
from gradclip.engines.reference import ReferenceEngine
from gradclip.testing import Bench, adversarial_gradients, check_engine, check_rule, laws_of, standard_rules
from gradclip.testing.bench import differences, same_bits
from remembering import Following


def test_it_shows_an_example():
    """Which is run with those of all modules, by tests/docs."""
    assert sum(len(found.examples) for found in doctest.DocTestFinder().find(gradclip.testing)) > 5


@pytest.mark.parametrize("rule", [Rule(), Rule(Tensor(), L2(), Following()), ClipGradByGlobalNorm(0.1)], ids=repr)
def test_a_rule_is_checked_in_one_call(rule):
    check_rule(rule)


def test_a_response_of_a_third_party_that_turns_gradients_round_is_found():
    class Backwards(Response):
        def coefficient(self, ratio, xp):
            return xp.where(ratio > 0.0, -1.0 / xp.maximum(ratio, 1.0), 1.0)

    with pytest.raises(AssertionError, match="changed the direction of t"):
        check_rule(Rule(response=Backwards()))


def test_an_engine_of_a_third_party_that_rounds_its_norms_is_found():
    class Rounding(ReferenceEngine):
        def measure(self, batch, scope, norm):
            measure = super().measure(batch, scope, norm)
            return measure._replace(total=np.asarray(measure.total).astype(np.float16))

    bench = Bench(Rounding(), make=lambda values, dtype: values.astype(dtype), read=np.asarray)
    with pytest.raises(AssertionError, match="differs from the reference"):
        check_engine(bench, rules=[ClipGradByGlobalNorm(0.3)])


def test_a_threshold_that_remembers_has_the_laws_of_memory_and_not_those_of_constants():
    names = {law.__name__ for law in laws_of(Rule(Global(), L2(), Following()))}
    assert "bad_steps_teach_nothing" in names
    assert "clipping_twice_is_clipping_once" not in names
    assert "scaling_gradients_and_thresholds_scales_the_result" not in names


def test_every_rule_has_laws():
    assert min(len(laws_of(rule)) for rule in standard_rules()) >= 8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_adversarial_gradients_are_within_the_range_of_their_dtype(dtype):
    largest = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38, "float64": 1.7e308}[dtype]
    for arrays in adversarial_gradients(dtype).values():
        for array in arrays:
            assert np.abs(array[np.isfinite(array)]).max(initial=0.0) <= largest


def test_bits_tell_a_zero_from_a_negative_zero_and_no_nan_from_another():
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert same_bits(np.array([np.nan]), np.array([-np.nan]))
    assert not same_bits(np.zeros(2), np.zeros((2, 1)))
    assert not same_bits(np.array(0j), np.array(-0j))


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(1.0, 2.0), (np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1e300), (1e300, np.inf)],
)
def test_differences_are_found(actual, expected):
    assert differences(np.array([actual]), np.array([expected]), 1e-6, 0.0)


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf, -np.inf, 0.0])
def test_equals_do_not_differ(value):
    assert not differences(np.array([value]), np.array([value]), 0.0, 0.0)
