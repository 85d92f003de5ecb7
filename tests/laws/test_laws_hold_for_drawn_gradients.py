"""The laws on gradients that hypothesis draws: each law for a share of the rules, and each rule under several laws."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from benches import BENCHES, COMPILED_DTYPES, DTYPES
from effort import EXAMPLES, FEW_SHAPES, LONG
from gradclip.rules.estimators import QuantileTracker
from gradclip.rules.response import Zero
from gradclip.rules.rule import rules_in
from gradclip.testing import laws, laws_of, standard_rules
from gradclip.testing.rewrite import measuring, segments_by_reference

RULES = standard_rules()
LAWS = {law.__name__: law for rule in RULES for law in laws_of(rule)}
SHARES = 8
"""A rule is drawn for an eighth of its laws, which are eight or more."""

SHAPES = ((), (1,), (3,), (2, 3), (5, 1), (0,), (0, 2), (2, 0), (2, 2, 3), (17,))
LAYOUTS = [[(4, 5)], FEW_SHAPES]
"""In the short form: the shapes of the other laws, for which JAX has its programs already."""


def drawn_laws(rule):
    """The laws that drawn gradients can be asked to keep.

    A tracked quantile goes as many steps down as up and meets the norm again from which it came: there rounding
    decides on its next step, and a norm that was drawn may well come again.
    """
    tracks = any(isinstance(getattr(one.threshold, "estimator", None), QuantileTracker) for one in rules_in(rule))
    return [law for law in laws_of(rule) if not (tracks and law is laws.it_learns_as_the_reference_does)]


def rules_for(law):
    """The rules on which `law` is tried: for a rule every eighth of its laws, from another one on for each rule."""
    return [rule for number, rule in enumerate(RULES) if law in drawn_laws(rule)[number % SHARES :: SHARES]]


@st.composite
def gradients(draw):
    """One to four tensors, each with a size of its own; no element is so large that 4 times it leaves fp16."""
    shapes = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4) if LONG else st.sampled_from(LAYOUTS)
    arrays = []
    for shape in draw(shapes):
        count = int(np.prod(shape))
        numbers = draw(st.lists(st.floats(-10, 10, width=16), min_size=count, max_size=count))
        arrays.append(np.array(numbers, dtype=np.float64).reshape(shape) * 10.0 ** draw(st.integers(-3, 3)))
    assume(any(array.size for array in arrays))
    return arrays


def at_a_jump(rule, arrays, bench) -> bool:
    """Whether a measure is so close to the threshold of a response that jumps there, that rounding may decide."""
    if not any(isinstance(one.response, Zero) for one in rules_in(rule)):
        return False
    return any(abs(row.norm_before - 0.5) < 0.005 for row in segments_by_reference(measuring(rule), arrays, bench))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("engine", BENCHES)
def test_the_law_holds(engine, law):
    dtypes = {"reference": ("float64", "float32", "float16"), "jax": COMPILED_DTYPES}.get(engine, DTYPES)

    @settings(max_examples=EXAMPLES, deadline=None, report_multiple_bugs=False)
    @given(arrays=gradients(), dtype=st.sampled_from(dtypes))
    def holds(arrays, dtype):
        bench = replace(BENCHES[engine], dtype=dtype)
        held = [bench.values(tensor) for tensor in bench.tensors(arrays)]
        for rule in rules_for(law):
            if not at_a_jump(rule, held, bench):
                law(bench, rule, held)

    holds()


def test_every_rule_is_drawn():
    assert {repr(rule) for law in LAWS.values() for rule in rules_for(law)} == {repr(rule) for rule in RULES}
