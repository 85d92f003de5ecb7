"""One demo, really run, with the character RNN cut short: enough to look at everything that is made of it."""

import pytest

from gradclip.cli.demo_command import DEMO_NEEDS
from gradclip.experiments.demo import Demo, char_rnns, exploding_nets
from gradclip.experiments.training.direction import run_direction
from gradclip.experiments.training.framework import Framework, framework_called


@pytest.fixture(scope="session")
def torch_nets() -> Framework:
    return framework_called("torch")


@pytest.fixture(scope="session", params=list(DEMO_NEEDS))
def framework(request: pytest.FixtureRequest) -> Framework:
    return framework_called(request.param)


@pytest.fixture(scope="session")
def demo(torch_nets: Framework) -> Demo:
    return Demo(
        ("torch", torch_nets.version()),
        0,
        exploding_nets(torch_nets, 0),
        char_rnns(torch_nets, 0, seeds=1, steps=6),
        run_direction(torch_nets),
        1.0,
    )
