"""What is laid out is kept, and a structure that was not met before gets a layout of its own."""

import numpy as np
import pytest

from gradclip import AGC, L2, AdaGC, ClipGradByGlobalNorm, ClipGradByNorm, Constant, Group, Row, Rule, Rules, ZClip
from gradclip.clipper import Clipper
from gradclip.engines.base import Across
from gradclip.engines.reference import ReferenceEngine
from gradclip.step import layout
from gradclip.step.gradients import Gradients
from gradclip.step.layout import LineUp
from gradclip.step.policy import KEEPS

ENGINE = ReferenceEngine()
BY_NAME = Rules({"a*": ClipGradByNorm(1.0), "b*": ClipGradByGlobalNorm(2.0)})


def gradients(names, shapes=None, groups=None):
    shapes = shapes or [(2, 3)] * len(names)
    tensors = [np.full(shape, float(place + 1)) for place, shape in enumerate(shapes)]
    return Gradients(tensors, list(names).__getitem__, groups, weights=lambda: tensors)


def clipped(clipper, *arguments):
    own = gradients(*arguments)
    clipper.clip_gradients(own, ENGINE)
    return own.tensors


STEPS = [
    (("a0", "b0", "b1"),),
    (("a0", "b1"),),  # b0 has no gradient today
    (("a0", "b0", "b1"),),
    (("b0", "a0", "b1"),),  # the same shapes, others' names
    (("a0", "b0", "b1", "a1"),),  # a layer unfrozen
    (("a0", "b0", "b1"), [(4, 3), (2, 3), (6,)]),  # the same names, other shapes
    (("a0", "b0", "b1"), None, [0, 0, 1]),
    (("a0", "b0", "b1"), None, [0, 1, 1]),
    (("a0", "b0", "b1"),),
]
RULES = [
    BY_NAME,
    ClipGradByNorm(3.0) >> ClipGradByGlobalNorm(1.0),
    Rule(Row(), L2(), Constant(1.0)) >> ClipGradByGlobalNorm(1.0),
    Rule(Group(), L2(), Constant(2.0)),
    AGC(0.01),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_kept_layout_is_never_that_of_another_structure(rule):
    """Step by step what a clipper does that has met nothing before; these rules remember nothing."""
    clipper = Clipper(rule)
    for step in STEPS:
        for one, expected in zip(clipped(clipper, *step), clipped(Clipper(rule), *step), strict=True):
            np.testing.assert_array_equal(one, expected)


REMEMBERING = [
    AdaGC(),
    Rule(Row(), L2(), ZClip(warmup=1).threshold),
    Rule(Group(), L2(), ZClip(warmup=1).threshold),
    Rules({"a*": AdaGC(), "b*": ZClip(warmup=1)}),
]


@pytest.mark.parametrize("rule", REMEMBERING, ids=repr)
def test_what_is_remembered_does_not_depend_on_the_kept_layouts(rule):
    """As by a clipper that lays out anew in each step."""
    keeping, forgetting = Clipper(rule), Clipper(rule)
    for step in STEPS:
        forgetting.line = LineUp(forgetting.rule, KEEPS)
        for one, expected in zip(clipped(keeping, *step), clipped(forgetting, *step), strict=True):
            np.testing.assert_array_equal(one, expected)
    assert keeping.state_dict() == forgetting.state_dict()


def test_what_processes_share_is_laid_out_apart():
    """Rows, which cannot be summed up over processes, are refused as well where the same names were clipped alone."""
    alone = gradients(["a0", "b0"])
    clipper = Clipper(Rules({"*": Rule(Row(), L2(), Constant(1.0))}))
    clipper.clip_gradients(alone, ENGINE)
    shared = alone._replace(across=Across(lambda array, how: array, lambda array, how: array))
    with pytest.raises(ValueError, match="shared among processes"):
        clipper.clip_gradients(shared, ENGINE)


@pytest.mark.parametrize("rule", [BY_NAME, AGC(0.01), AdaGC()], ids=repr)
def test_the_same_structure_is_laid_out_once(rule, monkeypatch):
    clipper, made = Clipper(rule), []
    for _ in range(3):
        clipped(clipper, *STEPS[0])

    def noted(store, key, make, of=layout.Layouts.of):
        made.append(key)
        return of(store, key, lambda: pytest.fail("it was laid out again"))

    monkeypatch.setattr(layout.Layouts, "of", noted)
    clipped(clipper, *STEPS[0])
    assert made


def test_the_number_of_kept_layouts_is_bounded():
    clipper = Clipper(BY_NAME >> ClipGradByNorm(1.0) >> ClipGradByGlobalNorm(1.0))
    for number in range(3 * layout.MOST):
        clipped(clipper, (f"a{number}", "b"), [(number + 1,), (2,)])
    columns = clipper.line._columns._store
    stores = [columns, *(c._segments._store for phases in columns.values() for phase in phases for c in phase)]
    assert max(map(len, stores)) == layout.MOST


def test_the_oldest_goes_first():
    store = layout.Layouts()
    for key in range(layout.MOST + 1):
        assert store.of(key, lambda key=key: [key]) == [key]
    assert list(store._store) == list(range(1, layout.MOST + 1))
    assert store.of(3, lambda: pytest.fail("it is kept")) == [3]
