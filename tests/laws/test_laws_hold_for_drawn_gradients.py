"""The laws on gradients that hypothesis draws, for rules that it draws."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from benches import BENCHES, DTYPES
from gradclip.rules.response import Zero
from gradclip.rules.rule import rules_in
from gradclip.testing import laws_of, standard_rules
from gradclip.testing.rewrite import measuring, segments_by_reference

RULES = standard_rules()
LAWS = {law.__name__: law for rule in RULES for law in laws_of(rule)}
SHAPES = ((), (1,), (3,), (2, 3), (5, 1), (0,), (0, 2), (2, 0), (2, 2, 3), (17,))


@st.composite
def gradients(draw):
    """One to four tensors, each with a size of its own; no element is so large that 4 times it leaves fp16."""
    arrays = []
    for shape in draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4)):
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
    chosen = [rule for rule in RULES if law in laws_of(rule)]
    dtypes = DTYPES if engine != "reference" else ("float64", "float32", "float16")

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, report_multiple_bugs=False)
    @given(rule=st.sampled_from(chosen), arrays=gradients(), dtype=st.sampled_from(dtypes))
    def holds(rule, arrays, dtype):
        bench = replace(BENCHES[engine], dtype=dtype)
        held = [bench.values(tensor) for tensor in bench.tensors(arrays)]
        assume(not at_a_jump(rule, held, bench))
        law(bench, rule, arrays)

    holds()
