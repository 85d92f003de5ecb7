"""What tests in every folder are tried on: each of the forms that clip PyTorch gradients, and each engine."""

import gc
import os

from effort import LONG, QUICK_PROGRAMS

if not LONG:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_PROGRAMS}".strip()

from hypothesis import settings

import forked

# The same draws in each run, so that a change is red by its own fault; --hypothesis-profile=default draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Three frameworks and a thousand compiled programs are millions of objects, and to look through them takes seconds.
gc.set_threshold(50_000, 20, 1_000)


def pytest_configure(config):
    """The folder of all processes of this run; and the frameworks, unless others run the tests."""
    forked.shared_folder()
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("frameworks")


def pytest_unconfigure():
    """Pytest looks through all objects at the end, twice: there is nothing to find in what the frameworks have."""
    gc.freeze()
