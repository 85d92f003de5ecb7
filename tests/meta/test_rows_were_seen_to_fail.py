"""Each of these bugs in the axes of rows turns a test red that is green without it."""

from __future__ import annotations

import pytest
import torch

from benches import BENCHES
from engines import test_cpu
from gradclip import AGC
from gradclip.engines import base, cpu_gather
from gradclip.engines import jax as jax_engine
from gradclip.engines import paddle as paddle_engine
from gradclip.engines import torch as torch_engine
from jax_bench import float64_scalars
from optax_door import test_output_units
from parity import test_adaptive_clipping as parity
from planting import Plant
from rules import test_scope

in_float64 = pytest.fixture(autouse=True)(float64_scalars)


def swapped(coefficient, tensors, targets, axes, row_factors=torch_engine.row_factors):
    """The coefficients of two axes in the order of the second one."""

    def turned(factor, tensor, kept):
        sizes = [tensor.shape[axis] for axis in kept or ()]
        return factor.reshape(sizes[::-1]).T.reshape(-1) if len(sizes) == 2 else factor

    counts = [base.around(tensor.shape, kept)[1] for tensor, kept in zip(tensors, axes, strict=True)]
    every = map(turned, torch.split(coefficient, counts), tensors, axes)
    return row_factors(torch.cat(list(every)), tensors, targets, axes)


PLANTS = [
    Plant(
        "heads are merged",
        test_output_units.test_a_quiet_head_is_left_alone_beside_a_loud_one,
        (),
        jax_engine,
        "unit_axis",
        lambda shape: len(shape) - 1,
    ),
    Plant(
        "an axis of size 1 has units",
        parity.clips_as_the_original,
        (BENCHES["jax"], AGC(0.1), [(4, 1), (1, 4)], parity.of_nfnets),
        jax_engine,
        "unit_axis",
        lambda shape: (1, 2) if len(shape) == 3 else len(shape) - 1,
    ),
    Plant(
        "the units of Paddle's Linear on the first axis",
        parity.test_the_units_of_each_framework_are_those_of_its_original,
        ("paddle on a device",),
        paddle_engine,
        "unit_axis",
        lambda shape: 0,
    ),
    Plant(
        "coefficients of heads and columns exchanged",
        parity.test_several_axes_are_kept_where_they_are_named,
        ("torch", (1, 2)),
        torch_engine,
        "row_factors",
        swapped,
    ),
    Plant(
        "axes that memory mixes are taken for runs",
        test_cpu.test_weights_in_another_order_of_memory_have_the_rows_of_their_axes,
        ((0, 1),),
        cpu_gather,
        "_is_mixed",
        lambda kept, order: False,
    ),
    Plant(
        "what was copied in order stays out of date",
        test_cpu.test_a_batch_may_be_measured_along_axes_that_another_order_of_memory_mixes,
        (torch.float32,),
        cpu_gather.Table,
        "changed",
        lambda table: None if hasattr(table, "rows") else forget(table),
    ),
    Plant(
        "axes with others between them are taken",
        test_scope.test_axes_that_are_no_neighbours_in_a_shape_are_refused_with_its_place,
        (),
        base,
        "wrong_axes",
        lambda axes: "",
    ),
    Plant(
        "a weight of several axes that is one unit counts by its first",
        test_scope.test_a_framework_may_have_several_axes_of_units_or_none,
        (),
        base,
        "_merged",
        lambda shape, kept: shape,
    ),
]
forget = cpu_gather.Table.changed


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.what for plant in PLANTS])
def test_the_test_is_green_and_with_the_bug_red(plant):
    plant.check()
