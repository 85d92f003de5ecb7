"""The memory of segments that come and go."""

import numpy as np
import pytest

from gradclip import EMA, L2, ClipGradByValue, Constant, Global, Group, History, Ratio, Row, Rule, Tensor
from gradclip.clipper import Clipper
from gradclip.engines.reference import NUMPY, ReferenceEngine
from gradclip.step.gradients import Gradients
from gradclip.step.memory import Remembered

ENGINE = ReferenceEngine()
TWICE_THE_LAST = History(EMA(0.0), Ratio(2.0))


def step(clipper, groups=None, **norms):
    """The threshold of each segment, after a clip of tensors with these norms."""
    names = list(norms)
    tensors = [np.array([float(norm)]) for norm in norms.values()]
    result = clipper.clip_gradients(Gradients(tensors, names.__getitem__, groups), ENGINE)
    return {segment.name: segment.threshold for segment in result.segments}


def test_a_tensor_that_was_away_goes_on_with_its_memory():
    clipper = Clipper(Rule(Tensor(), L2(), TWICE_THE_LAST))
    step(clipper, a=1, b=10, c=100)
    assert step(clipper, a=2, c=200) == {"a": 2.0, "c": 200.0}
    assert step(clipper, a=3, b=30, c=300) == {"a": 4.0, "b": 20.0, "c": 400.0}


def test_a_new_tensor_begins_with_nothing_and_takes_nothing_from_others():
    clipper = Clipper(Rule(Tensor(), L2(), TWICE_THE_LAST))
    step(clipper, b=10)
    assert step(clipper, a=1, b=20) == {"a": np.inf, "b": 20.0}
    assert step(clipper, c=5, a=1, b=20) == {"c": np.inf, "a": 2.0, "b": 40.0}


def test_the_order_of_the_tensors_does_not_matter():
    clipper = Clipper(Rule(Tensor(), L2(), TWICE_THE_LAST))
    step(clipper, a=1, b=10)
    assert step(clipper, b=20, a=2) == {"b": 20.0, "a": 2.0}
    assert step(clipper, a=1, b=10) == {"a": 4.0, "b": 40.0}


def test_rows_belong_to_their_tensor():
    clipper = Clipper(Rule(Row(), L2(), TWICE_THE_LAST))
    clip = lambda names, *tensors: [  # noqa: E731
        one.threshold for one in clipper.clip_gradients(Gradients(list(tensors), names.__getitem__), ENGINE).segments
    ]
    matrix = np.array([[3.0, 4.0], [6.0, 8.0]])
    clip("ab", np.array([1.0]), matrix.copy())
    assert clip("b", matrix.copy()) == [10.0, 20.0]
    assert clip("ba", matrix.copy(), np.array([1.0])) == [10.0, 20.0, 2.0]


def test_groups_keep_their_memory_when_one_has_no_gradient():
    clipper = Clipper(Rule(Group(), L2(), TWICE_THE_LAST))
    step(clipper, groups=[0, 1], a=1, b=10)
    assert step(clipper, groups=[0], a=2) == {"group 0": 2.0}
    assert step(clipper, groups=[0, 1], a=1, b=1) == {"group 0": 4.0, "group 1": 20.0}


def test_a_saved_memory_is_found_by_name():
    first, second = (Clipper(Rule(Tensor(), L2(), TWICE_THE_LAST)) for _ in range(2))
    step(first, a=1, b=10)
    second.load_state_dict(first.state_dict())
    assert step(second, b=1, new=1, a=1) == {"b": 20.0, "new": np.inf, "a": 2.0}


def test_arrays_with_several_rows_are_arranged_by_their_last_axis():
    memory = Remembered({"norms": np.array([[1.0, 2.0], [3.0, 4.0]])}, (("a", 1), ("b", 1)))
    found = memory.of((("b", 1), ("c", 1)), np.zeros(2), NUMPY)
    assert found["norms"].tolist() == [[2.0, 0.0], [4.0, 0.0]]
    merged = memory.after({"norms": np.array([[7.0], [8.0]])}, (("b", 1),), np.zeros(1), NUMPY)
    assert merged.owners == (("a", 1), ("b", 1))
    assert merged.state["norms"].tolist() == [[1.0, 7.0], [3.0, 8.0]]


@pytest.mark.parametrize("live", [(), (("a", 1),)])
def test_a_memory_whose_owners_are_not_known_is_taken_as_it_is(live):
    state = {"mean": np.ones(1)}
    assert Remembered(state).of(live, np.zeros(1), NUMPY) is state


@pytest.mark.parametrize("first", [ClipGradByValue(5.0), Rule(Tensor(), L2(), Constant(5.0))], ids=repr)
def test_what_an_earlier_part_of_the_rule_made_finite_teaches_nothing(first):
    """By value an infinity becomes its bound, and under "zero" a broken tensor becomes zeros: neither is a gradient."""
    clipper = Clipper(first >> Rule(Global(), L2(), TWICE_THE_LAST), on_nonfinite="zero")
    step(clipper, a=1, b=1)
    before = clipper.state_dict()["thresholds"]
    step(clipper, a=np.inf, b=3)
    assert clipper.state_dict()["thresholds"] == before
    step(clipper, a=1, b=1)
    assert clipper.state_dict()["thresholds"] != before
