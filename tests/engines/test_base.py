"""What an engine inherits from the protocol where it does no better."""

import numpy as np

from gradclip.engines.base import Engine
from gradclip.engines.reference import NUMPY, ReferenceEngine
from gradclip.rules.norm import L2
from gradclip.rules.scope import Global

ENGINE = ReferenceEngine()


def test_a_clamp_that_is_not_fused_measures_what_was_and_writes():
    gradient = np.array([3.0, -0.5, -2.0])
    measure = ENGINE.clamp_(ENGINE.gather([gradient]), -1.0, 2.0)
    assert measure.total.tolist() == [3.0, 2.0]
    assert gradient.tolist() == [2.0, -0.5, -1.0]


def test_measures_and_arrays_stay_as_they_are():
    measure = ENGINE.measure(ENGINE.gather([np.array([3.0, 4.0])]), Global(), L2())
    assert ENGINE.in_arrays(measure) is measure
    assert ENGINE.in_floats(measure) is measure
    assert ENGINE.on_host([measure.total])[0] is measure.total
    assert measure.xp is NUMPY


def test_an_engine_does_no_better_unless_it_says_so():
    assert (Engine.clamps, Engine.moves) == (False, False)
    assert (ENGINE.clamps, ENGINE.moves) == (False, False)
