"""For the door of Optax: bugs planted, on which its tests are red."""

from __future__ import annotations

import optax
import pytest

import gradclip.optax.transform
from gradclip import Schedule
from optax_door import test_no_state
from planting import Plant

PLANTS = [
    Plant("a memory is begun anew at every step", test_no_state.test_a_rule_that_remembers_says_to_call_init,
          (test_no_state.WITH[1], None), gradclip.optax.transform, "need_of_state", lambda rule, inner: None),
    Plant("a schedule stays at its first step", test_no_state.test_a_rule_that_remembers_says_to_call_init,
          (test_no_state.COUNTING[0], optax.EmptyState()), Schedule, "reads_step", False),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_turns_the_test_red(plant):
    plant.check()
