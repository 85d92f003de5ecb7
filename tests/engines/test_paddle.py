"""The engine of plain Paddle operations and its arrays, in dynamic mode and in graphs of both kinds."""

from contextlib import contextmanager

import numpy as np
import paddle
import pytest

from gradclip import L2, ClipGradByGlobalNorm, ClipGradByNorm, Global, Row, Rule, Tensor
from gradclip.clipper import Clipper
from gradclip.engines.base import Slot, UnsupportedGradient
from gradclip.engines.paddle import ENGINE
from gradclip.engines.paddle_arrays import FUNCTIONS, Wide
from gradclip.paddle.clipper import cpu_engine
from gradclip.step.gradients import Gradients
from paddle_bench import tensor_of, unread
from paddle_graph import MODES, graph

everywhere = pytest.mark.parametrize("mode", ["dynamic", *MODES])


class Calculator:
    """Gives arrays of the mode for NumPy ones, and NumPy ones for those."""

    def __init__(self, made=None):
        self.made, self.feed = made, {}

    def wide(self, values):
        values = np.asarray(values, dtype="float64")
        if self.made is None:
            return Wide(paddle.to_tensor(values))
        name = f"fed {len(self.feed)}"
        self.feed[name] = values
        return Wide(paddle.static.data(name, list(values.shape), "float64"))

    def numbers(self, array):
        return array.value.numpy() if self.made is None else self.made.run(self.feed, [array.value])[0]


@contextmanager
def calculator(mode):
    if mode == "dynamic":
        yield Calculator()
        return
    with graph(mode) as made:
        yield Calculator(made)


def clipped(rule, *tensors, **options):
    """The values that a rule leaves of eager tensors."""
    slots = [Slot(tensor) for tensor in tensors]
    Clipper(rule, **options).clip_gradients(Gradients(slots, str), ENGINE)
    return [slot.value for slot in slots]


NUMBERS = [0.1, 1.0, 3e-200, -0.0, 7.0]
OPERATIONS = {
    "times a number": lambda x: x * 0.1,
    "a number times": lambda x: 1e300 * x,
    "over a number": lambda x: x / 0.3,
    "a number over": lambda x: 0.3 / (x + 1.0),
    "minus a number": lambda x: x - 0.1,
    "a number minus": lambda x: 0.1 - x,
    "negative": lambda x: -x,
    "is": lambda x: x == 0.1,
    "is not": lambda x: x != 0.1,
    "above": lambda x: x > 0.1,
    "not above": lambda x: x <= 0.1,
}


@pytest.mark.parametrize("operation", OPERATIONS)
@everywhere
def test_no_number_is_rounded_to_fp32(mode, operation):
    """In a graph Paddle itself multiplies by the fp32 number nearest to 0.1, and 1e300 is infinite there."""
    function = OPERATIONS[operation]
    with calculator(mode) as own:
        np.testing.assert_array_equal(own.numbers(function(own.wide(NUMBERS))), function(np.array(NUMBERS)))


@everywhere
def test_numbers_that_differ_little_are_not_equal(mode):
    """To Paddle numbers are equal that differ by less than 1e-15: a coefficient of 1e-16 would be 0."""
    with calculator(mode) as own:
        assert own.numbers(own.wide([1e-16, 0.0]) == 0.0).tolist() == [False, True]
        assert own.numbers(own.wide([np.nan, 1.0]) != own.wide([np.nan, 1.0])).tolist() == [True, False]


@pytest.mark.parametrize("mode", MODES)
def test_paddle_itself_rounds_and_calls_numbers_equal(mode):
    with calculator(mode) as own:
        x = own.wide([1.0, 1e-16]).value
        assert own.numbers(Wide(x * 0.1))[0] == np.float32(0.1)
        assert own.numbers(Wide(x == 0.0)).tolist() == [False, True]


@everywhere
def test_where_keeps_the_sign_of_zero(mode):
    with calculator(mode) as own:
        found = own.numbers(FUNCTIONS.where(own.wide([1.0, 1.0]) > 0.0, own.wide([-0.0, 2.0]), 1.0))
        assert np.signbit(found).tolist() == [True, False]


@everywhere
def test_parts_combine_to_their_sum_and_their_largest_and_nan_stays(mode):
    with calculator(mode) as own:
        parts = own.wide([1.0, np.nan, 2.0, 4.0])
        index = FUNCTIONS.indices([2, 0, 0, 2], parts)
        np.testing.assert_array_equal(own.numbers(FUNCTIONS.combine(parts, index, 3, "sum")), [np.nan, 0.0, 5.0])
        np.testing.assert_array_equal(own.numbers(FUNCTIONS.combine(parts, index, 3, "max")), [np.nan, 0.0, 4.0])


@pytest.mark.parametrize("mode", MODES)
def test_python_cannot_branch_on_a_number_of_a_graph(mode):
    with calculator(mode) as own, pytest.raises(TypeError, match="unknown while the graph is built"):
        bool(own.wide([1.0]) > 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_coefficient_of_1_leaves_every_16_bit_number_as_it_is(dtype):
    every = paddle.to_tensor(np.arange(-(2**15), 2**15).astype("int16")).view(dtype)
    (after,) = clipped(ClipGradByGlobalNorm(None), every)
    before, after = (tensor.astype("float64").numpy() for tensor in (every, after))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(np.signbit(after[before == 0.0]), np.signbit(before[before == 0.0]))


def test_a_coefficient_below_every_fp32_number_still_counts():
    """1e38 * 1000^(1/2) against 1e-6: the coefficient is 3e-46, which fp32 knows as 0."""
    (after,) = clipped(ClipGradByGlobalNorm(1e-6), tensor_of(np.full(1000, 1e38), "float32"))
    np.testing.assert_allclose(after.numpy(), 1e-6 / 1000**0.5, rtol=1e-6)


def test_shapes_without_an_axis_or_an_element_stay():
    after = clipped(ClipGradByGlobalNorm(1.0), tensor_of(3.0, "float32"), paddle.zeros([0, 3]), paddle.to_tensor([4.0]))
    assert [list(tensor.shape) for tensor in after] == [[], [0, 3], [1]]
    np.testing.assert_allclose([after[0].item(), after[2].item()], [0.6, 0.8], rtol=1e-6)


def test_rows_of_complex_numbers_are_scaled_each_by_its_own_norm():
    """The columns of a matrix, as `Linear` keeps (in, out): norms 5 and (0.04 + 0.01)^(1/2)."""
    (after,) = clipped(Rule(Row(), L2()), tensor_of(np.array([[3.0 + 4.0j, 0.1j], [0.0, 0.2]]), "complex64"))
    np.testing.assert_allclose(after.numpy(), [[0.6 + 0.8j, 0.1j], [0.0, 0.2]], rtol=1e-6)


def test_rows_are_the_last_axis_of_a_matrix_and_the_first_of_all_others():
    """`Linear` keeps (in, out), `Conv2D` (out, in, height, width); the compiled engine goes by it too."""
    shapes = {(2, 3): [2.0, 2.0, 2.0], (2, 3, 5): [15.0, 15.0], (2, 3, 1, 1): [3.0, 3.0], (4,): [4.0]}
    for shape, totals in shapes.items():
        measure = ENGINE.measure(ENGINE.gather([Slot(paddle.ones(shape))]), Row(), L2())
        assert ENGINE.to_host(measure.total) == totals
        tensor = paddle.ones(shape)
        own = Clipper(Rule(Row(), L2())).clip_gradients(Gradients([tensor], str), cpu_engine())
        assert [row.norm_before**2 for row in own.segments] == pytest.approx(totals)


def test_a_complex_number_that_is_half_nan_is_zeroed_as_a_whole():
    (after,) = clipped(
        ClipGradByNorm(9.0) >> ClipGradByGlobalNorm(9.0), tensor_of(1j, "complex64"), on_nonfinite="zero"
    )
    assert after.numpy() == 1j
    slot = Slot(tensor_of(np.array([complex(np.nan, 1.0), 2.0]), "complex64"))
    ENGINE.zero_nonfinite_(ENGINE.gather([slot]))
    assert slot.value.numpy().tolist() == [0.0, 2.0]


def test_the_slots_given_are_what_is_written_and_the_tensors_are_not():
    gradient = paddle.to_tensor([3.0, 4.0])
    (after,) = clipped(ClipGradByGlobalNorm(1.0), gradient)
    assert gradient.tolist() == [3.0, 4.0]
    np.testing.assert_allclose(after.numpy(), [0.6, 0.8], rtol=1e-6)


def test_a_slot_given_twice_counts_and_is_scaled_once():
    slot = Slot(paddle.to_tensor([3.0, 4.0]))
    result = Clipper(ClipGradByGlobalNorm(1.0)).clip_gradients(Gradients([slot, slot], str), ENGINE)
    assert result.norm_before == 5.0
    np.testing.assert_allclose(slot.value.numpy(), [0.6, 0.8], rtol=1e-6)


def test_integers_are_refused():
    with pytest.raises(UnsupportedGradient, match="its dtype is int32"):
        ENGINE.gather([Slot(paddle.to_tensor([1, 2], dtype="int32"))])


def test_reading_a_number_is_seen():
    """What the laws use to prove that nothing is read."""
    tensor = paddle.to_tensor([1.0])
    with unread(), pytest.raises(AssertionError, match="read on the host"):
        tensor.item()
    assert tensor.item() == 1.0


def test_a_norm_over_all_is_that_over_the_norms_of_each():
    tensors = [tensor_of(np.full(shape, 2.0), "float32") for shape in ((3,), (2, 2), ())]
    for scope in (Tensor(), Global()):
        measure = ENGINE.measure(ENGINE.gather([Slot(tensor) for tensor in tensors]), scope, L2())
        assert sum(ENGINE.to_host(measure.total)) == 32.0
