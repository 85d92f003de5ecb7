"""For the memory of a clip in Paddle's checkpoints: bugs planted, on which its tests are red."""

from __future__ import annotations

import paddle
import pytest

from gradclip.paddle import model_callback, optimizer_state
from paddle_door import test_model_callback as tests
from planting import Plant, nothing


def plants(tmp_path):
    return [
        Plant("the memory is not saved", tests.test_an_optimizer_that_has_no_state_saves_the_memory,
              (tmp_path,), model_callback, "keep_in_state", nothing, KeyError),
        Plant("the memory is not taken up", tests.test_an_optimizer_that_has_no_state_saves_the_memory,
              (tmp_path,), optimizer_state, "_load", nothing),
        Plant("the memory is not given back", tests.test_a_memory_is_loaded_into_a_training_that_goes_on,
              (tmp_path,), optimizer_state, "_load", nothing),
        Plant("nobody says that a memory begins anew", tests.test_a_checkpoint_without_the_memory_is_told,
              (tests.ADAPTING, tmp_path), optimizer_state, "needs_earlier_steps", lambda clip: False),
        Plant("a rule without a memory is said to begin anew", tests.test_a_rule_that_needs_no_earlier_step_is_silent,
              (tmp_path,), optimizer_state, "needs_earlier_steps", lambda clip: True),
        Plant("the copy of an optimizer saves the memory of the first",
              tests.test_a_copy_of_an_optimizer_saves_the_memory_of_its_own_clip, (), optimizer_state, "partial",
              Shared, KeyError),
    ]  # fmt: skip


class Shared:
    """A function with its arguments, which a copy of what has it shares."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __call__(self, *more):
        return self.function(*self.arguments, *more)

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("number", range(6))
def test_a_planted_bug_turns_the_test_red(number, tmp_path):
    with paddle.utils.unique_name.guard():
        plants(tmp_path)[number].check()
