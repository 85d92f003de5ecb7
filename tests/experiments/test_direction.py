"""The direction example: the textbook numbers."""

import pytest

from gradclip.experiments.training.direction import DirectionExample, run_direction
from gradclip.experiments.training.framework import Framework


def test_by_value_cuts_one_element_and_by_norm_scales_both(framework: Framework) -> None:
    clipped = run_direction(framework).clipped
    assert clipped["by value 1.0"] == pytest.approx((0.8, 1.0))
    assert clipped["by norm 1.0"] == pytest.approx((0.00899, 0.99996), abs=1e-5)


def test_by_value_turns_the_gradient_and_by_norm_does_not(framework: Framework) -> None:
    example = run_direction(framework)
    assert example.turned("by value 1.0") == pytest.approx(38.1, abs=0.1)
    assert example.turned("by norm 1.0") == pytest.approx(0.0, abs=1e-4)


def test_other_numbers_are_a_shortfall(framework: Framework) -> None:
    assert run_direction(framework).shortfalls() == []
    (reason,) = DirectionExample({"by norm 1.0": (0.8, 1.0)}).shortfalls()
    assert "[0.8, 1.0]" in reason
