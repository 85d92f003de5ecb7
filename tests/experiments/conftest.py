"""One demo, really run, with the character RNN cut short: enough to look at everything that is made of it."""

import pytest

from gradclip.experiments.demo import Demo, Silent, char_experiment, seed_experiment
from gradclip.experiments.direction import run_direction


@pytest.fixture(scope="session")
def demo() -> Demo:
    return Demo(0, seed_experiment(0, Silent()), char_experiment(0, Silent(), seeds=1, steps=6), run_direction(), 1.0)
