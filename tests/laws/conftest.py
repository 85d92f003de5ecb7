import pytest

from benches import INTERPRETED

if not INTERPRETED:
    from jax_bench import float64_scalars

    in_float64 = pytest.fixture(autouse=True)(float64_scalars)
