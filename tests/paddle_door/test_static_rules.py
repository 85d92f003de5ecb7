"""Every rule in a static graph against the reference engine, on ordinary and on adversarial gradients.

Each rule meets some of the lists of gradients, each in one dtype; over the rules each list meets every dtype.
"""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from benches import DTYPES
from effort import LONG
from few import few_shapes
from gradclip import Linf, Lp, Raise, Row, Rule, SkipStep, Tensor
from gradclip.clipper import Clipper
from gradclip.errors import GradclipWarning
from gradclip.paddle.static import clip_in_graph
from gradclip.rules.rule import rules_in
from gradclip.step.gradients import Gradients
from gradclip.testing import REFERENCE, adversarial_gradients, ordinary_gradients, standard_rules
from gradclip.testing.bench import differences
from gradclip.testing.check import adaptive_rules
from paddle_bench import ON_A_DEVICE
from paddle_graph import MODES, graph

RULES = [
    rule
    for rule in standard_rules()
    if rule not in adaptive_rules() and not any(isinstance(one.response, SkipStep | Raise) for one in rules_in(rule))
]
"""Those that adapt are in `test_static_adaptive.py`."""

LISTS = ["ordinary", *adversarial_gradients()]
SAMPLES = {"pir": (1, 2), "legacy": (3, 2)} if LONG else {"pir": (1, 1), "legacy": (5, 1)}
"""For each mode: every how many rules, and how many lists each of them meets."""


def lists_of(number: int, count: int) -> list[tuple[str, str]]:
    """The lists of gradients that the rule with this number meets, and their dtypes."""
    places = [number * count + i for i in range(count)]
    return [(LISTS[k % len(LISTS)], DTYPES[(k + k // len(LISTS)) % len(DTYPES)]) for k in places]


def arrays_of(name: str, dtype: str) -> list[np.ndarray]:
    lists = {"ordinary": ordinary_gradients(), **adversarial_gradients(dtype)}
    return few_shapes(lists.get(name, ordinary_gradients(1)))


def values_in_graph(arrays, prefix, feed):
    """Values of the program for float64 arrays that are fed to it."""
    feed.update({f"{prefix}{i}": array for i, array in enumerate(arrays)})
    return [paddle.static.data(f"{prefix}{i}", list(array.shape), "float64") for i, array in enumerate(arrays)]


class Clipped:
    """A list of gradients in a program, clipped by a rule there, and what the reference engine makes of it."""

    def __init__(self, rule, name, dtype, feed, **options):
        self.what, self.rule, self.dtype, self.options = f"{rule!r}: {name} ({dtype})", rule, dtype, options
        arrays = arrays_of(name, dtype)
        before = [paddle.cast(value, dtype) for value in values_in_graph(arrays, f"{name} {dtype} ", feed)]
        pairs = [(SimpleNamespace(name=f"t{i}"), value) for i, value in enumerate(before)]
        after, self.graph = clip_in_graph(Clipper(rule, **options), pairs, lambda parameter: True)
        self.fetch = [paddle.cast(value, "float64") for value in (*before, *(gradient for _, gradient in after))]

    def check(self, fetched):
        """Compare with the reference, of which the bound of the laws holds: two clips, twice the tolerance of one."""
        half = len(fetched) // 2
        truth = [array.copy() for array in fetched[:half]]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", GradclipWarning)
            gradients = Gradients(truth, lambda i: f"t{i}")
            expected = Clipper(self.rule, **self.options).clip_gradients(gradients, ON_A_DEVICE.oracle.engine)
        bench = replace(REFERENCE, dtype=self.dtype)
        for found, right in zip(fetched[half:], truth, strict=True):
            wrong = differences(found, right, 2 * bench.tolerance, bench.smallest)
            assert not wrong, f"{self.what}: {wrong}"
        self.check_result(expected, 4 * bench.tolerance, bench.smallest)

    def check_result(self, expected, tolerance, smallest):
        for row, truth in zip(self.graph.last.segments, expected.segments, strict=True):
            for field in ("norm_before", "threshold"):
                found, right = (np.array(getattr(one, field)) for one in (row, truth))
                wrong = differences(found, right, tolerance, 2 * smallest)
                assert not wrong, f"{self.what}: {field} of {row.name}: {wrong}"
        assert bool(self.graph.last.nonfinite) == bool(expected.nonfinite), self.what


def check_in_graph(mode, rule, lists, **options):
    with graph(mode) as made:
        feed = {}
        clipped = [Clipped(rule, name, dtype, feed, **options) for name, dtype in lists]
        fetched = made.run(feed, [value for one in clipped for value in one.fetch])
        for one in clipped:
            one.check([np.asarray(fetched.pop(0)) for _ in one.fetch])


@pytest.mark.parametrize("mode", SAMPLES)
def test_every_rule_gives_the_numbers_of_the_reference(mode):
    every, count = SAMPLES[mode]
    for number, rule in enumerate(RULES[::every]):
        check_in_graph(mode, rule, lists_of(number, count))


@pytest.mark.parametrize("mode", MODES)
def test_zeroed_gradients_are_those_of_the_reference(mode):
    """Each rule meets both lists, one in each mode."""
    lists = [("NaN and inf", "float32"), ("a NaN", "float16")]
    for number, rule in enumerate(RULES[::12], MODES.index(mode)):
        check_in_graph(mode, rule, lists if LONG else [lists[number % 2]], on_nonfinite="zero")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [Rule(Row()), Rule(Row(1), Linf()), Rule(Row(-1), Lp(3.0)) >> Rule(Tensor(), Lp(3.0))])
def test_rows_in_a_graph_lie_along_the_axis_that_they_are_asked_for(mode, rule):
    check_in_graph(mode, rule, [("ordinary", "float32"), ("exactly the limit", "float32")])
