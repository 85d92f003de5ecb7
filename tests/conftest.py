"""What tests in every folder are tried on: each of the forms that clip PyTorch gradients, and each engine."""

import os

from effort import LONG, QUICK_PROGRAMS

if not LONG:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_PROGRAMS}".strip()

import jax
import pytest

from benches import BENCHES
from doors import DOORS


@pytest.fixture(params=DOORS, ids=repr)
def door(request):
    return request.param


@pytest.fixture(params=list(BENCHES))
def bench(request):
    with jax.enable_x64(True):
        yield BENCHES[request.param]
