"""What a result tells of a clip."""

import copy
import math
import pickle
import weakref

import pytest
import torch

import gradclip
from doors import DOORS, parameter
from gradclip import (
    RMS,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    GradclipWarning,
    Group,
    Linf,
    Lp,
    Row,
    Rule,
    Rules,
    Tensor,
)
from gradclip.step.gradients import Gradients
from gradclip.torch import Clipper

pytestmark = pytest.mark.parametrize("door", DOORS, ids=repr)


def two():
    return {"a": parameter(3.0, 4.0), "b": parameter(12.0)}


def test_before_anything_was_clipped_there_is_no_last_result(door):
    with pytest.raises(RuntimeError, match="nothing was clipped yet"):
        _ = Clipper(ClipGradByNorm(1.0), engine=door.engine).last


def test_a_clipped_step(door):
    result = door.clip_(two(), ClipGradByGlobalNorm(6.5))
    assert (result.norm_before, result.norm_after) == pytest.approx((13.0, 6.5))
    assert (result.threshold, result.coefficient) == (6.5, 0.5)
    assert (result.clipped, result.skipped, result.nonfinite, result.step) == (True, False, 0, 0)
    assert float(result) == 13.0
    assert result.segments == [("all", 13.0, 6.5, 6.5, 0.5, "scale")]


def test_a_step_that_is_not_clipped(door):
    result = door.clip_(two(), ClipGradByGlobalNorm(20.0))
    assert (result.norm_before, result.norm_after, result.coefficient) == (13.0, 13.0, 1.0)
    assert not result.clipped
    assert result.segments[0].action == "pass"


def test_a_result_reads_as_a_line(door):
    assert repr(door.clip_(two(), ClipGradByGlobalNorm(6.5))) == (
        f"<step 0: clipped, norm 13 -> 6.5, threshold 6.5, coefficient 0.5, 0 non-finite, {door.engine} engine>"
    )


def test_each_tensor_has_its_row(door):
    result = door.clip_(two(), ClipGradByNorm(6.0))
    assert [row.name for row in result.segments] == ["a", "b"]
    assert [row.action for row in result.segments] == ["pass", "scale"]
    assert [row.norm_after for row in result.segments] == [5.0, 6.0]
    assert (result.threshold, result.coefficient) == (6.0, 0.5)
    assert result.norm_after == pytest.approx(math.hypot(5.0, 6.0))


def test_each_row_of_a_matrix_has_its_row(door):
    p = parameter(grad=torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    result = door.clip_({"w": p, "b": parameter(2.0)}, Rule(Row(), threshold=Constant(2.5)))
    assert [row.name for row in result.segments] == ["w[0]", "w[1]", "b"]
    assert [row.coefficient for row in result.segments] == [0.5, 1.0, 1.0]


def test_each_group_has_its_row(door):
    p, q = two().values()
    optimizer = torch.optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.1)
    result = door.clip_(optimizer, Rule(Group(), threshold=Constant(2.5)))
    assert [(row.name, row.norm_before) for row in result.segments] == [("group 0", 5.0), ("group 1", 12.0)]


def test_by_value_each_tensor_has_a_row_for_each_side(door):
    p = parameter(3.0, -4.0, 0.5)
    result = door.clip_({"w": p}, ClipGradByValue(1.5, -1.0))
    above, below = result.segments
    assert above == ("w above 0", 3.0, 1.5, 1.5, 0.5, "scale")
    assert below == ("w below 0", 4.0, 1.0, 1.0, 0.25, "scale")
    assert (result.norm_before, result.norm_after) == (4.0, 1.5)


def test_each_stage_of_a_chain_has_its_rows(door):
    result = door.clip_(two(), ClipGradByNorm(4.0) >> ClipGradByGlobalNorm(2.0))
    assert [row.name for row in result.segments] == ["a", "b", "all"]
    assert result.segments[2].norm_before == pytest.approx(32**0.5)
    assert result.norm_before == pytest.approx(13.0)
    assert result.norm_after == pytest.approx(2.0)


def test_the_norms_of_patterns_join(door):
    result = door.clip_(two(), Rules({"a": ClipGradByGlobalNorm(1.0), "b": ClipGradByGlobalNorm(100.0)}))
    assert result.norm_before == pytest.approx(13.0)
    assert result.norm_after == pytest.approx(math.hypot(1.0, 12.0))


@pytest.mark.parametrize("norm", [Linf(), Lp(3.0), RMS()], ids=str)
def test_the_norm_of_the_whole_does_not_depend_on_the_scope(door, norm):
    tensors = two()
    tensors["c"] = parameter(grad=torch.tensor([[1.0, 2.0], [-7.0, 0.0]]))
    rules = [Rule(scope, norm, Constant(None)) for scope in (Row(), Tensor(), Global())]
    assert len({round(door.clip_(tensors, rule).norm_before, 9) for rule in rules}) == 1


def test_the_norm_of_the_whole_does_not_overflow(door):
    p, q = parameter(1e308, dtype=torch.float64), parameter(1e307, dtype=torch.float64)
    result = door.clip_([p, q], Rule(Tensor(), Linf(), Constant(None)))
    assert result.norm_before == 1e308


def test_of_different_norms_the_largest_stands_for_all(door):
    result = door.clip_(two(), Rules({"a": ClipGradByGlobalNorm(1.0), "b": ClipGradByGlobalNorm(2.0, 1)}))
    assert [row.norm_before for row in result.segments] == [5.0, 12.0]
    assert (result.norm_before, result.norm_after) == pytest.approx((12.0, 2.0))


def test_a_skipped_step_has_the_norm_0_afterwards(door):
    tensors = {"a": parameter(math.nan)}
    result = door.clip_(tensors, ClipGradByGlobalNorm(1.0), on_nonfinite="skip")
    assert result.skipped
    assert not result.clipped
    assert math.isnan(result.norm_before)
    assert result.norm_after == 0.0
    assert "skipped" in repr(result)


def test_a_kept_segment_is_told(door):
    with pytest.warns(GradclipWarning):
        result = door.clip_({"a": parameter(math.nan, math.inf), "b": parameter(12.0)}, ClipGradByNorm(6.0))
    assert [row.action for row in result.segments] == ["keep", "scale"]
    assert result.nonfinite == 2
    assert result.clipped


def test_rows_are_plain_numbers(door):
    result = door.clip_(two(), ClipGradByNorm(6.0) >> ClipGradByGlobalNorm(1.0))
    rows = pickle.loads(pickle.dumps(result.segments))
    assert all(type(number) is float for row in rows for number in row[1:5])


def test_a_result_keeps_no_gradient_alive(door):
    p = parameter(3.0, 4.0)
    result = door.clip_([p], ClipGradByNorm(1.0))
    alive = weakref.ref(p.grad)
    p.grad = None
    assert alive() is None
    assert result.norm_before == 5.0


def test_a_result_does_not_change_with_the_next_step(door):
    clipper = Clipper(ClipGradByNorm(1.0), engine=door.engine)
    first = clipper.clip_(two())
    clipper.clip_({"a": parameter(100.0), "b": parameter(100.0)})
    assert [row.norm_before for row in first.segments] == [5.0, 12.0]
    assert clipper.last.step == 1


def test_some_of_the_gradients_keep_their_names_groups_and_weights(door):
    given = Gradients([0, 1, 2], "t{}".format, [7, 8, 9], lambda: [10, 11, 12])
    some = given.only([2, 0])
    assert some.tensors == [2, 0]
    assert [some.name(0), some.name(1)] == ["t2", "t0"]
    assert some.groups == [9, 7]
    assert some.weights() == [12, 10]


def test_a_global_stage_after_rules_by_name_counts_each_gradient_once(door):
    """[3, 4] is clipped to norm 1 by its own rule and [12] is not; together they have norm sqrt(145), then 1."""
    first, second = parameter(3.0, 4.0), parameter(12.0)
    rule = Rules({"a": ClipGradByNorm(1.0), "b": ClipGradByNorm(100.0)}) >> ClipGradByGlobalNorm(1.0)
    result = door.clip_({"a": first, "b": second}, rule)
    assert result.norm_before == pytest.approx(13.0)
    assert result.norm_after == pytest.approx(1.0)
    assert torch.cat([first.grad, second.grad]).norm().item() == pytest.approx(1.0)


def test_a_chain_of_two_norms_in_one_read_gives_the_first_norm_after_the_stage_that_measured_it(door):
    rule = Rule(Tensor(), RMS(), Constant(2.0)) >> ClipGradByGlobalNorm(1.0)
    result = door.clip_([parameter(3.0, 4.0)], rule)
    assert (result.norm_before, result.norm_after) == pytest.approx((math.sqrt(12.5), 2.0))


@pytest.mark.parametrize(
    "rule",
    [
        ClipGradByGlobalNorm(1.0),
        gradclip.AutoClip(50, window=3),
        gradclip.UClip(ClipGradByNorm(1.0)),
        Rules({"a": ClipGradByNorm(1.0), "*": gradclip.AdaGC()}) >> ClipGradByGlobalNorm(0.5),
    ],
    ids=repr,
)
def test_a_clipper_and_its_result_may_be_copied_and_saved(door, rule):
    """As part of a module that is averaged, or saved as a whole."""
    clipper = Clipper(rule, engine=door.engine)
    for size in (1.0, 2.0):
        clipper.clip_({"a": parameter(3.0 * size, 4.0), "b": parameter(12.0 * size)})
    for copied in (copy.deepcopy(clipper), pickle.loads(pickle.dumps(clipper))):
        assert copied.last.segments == clipper.last.segments
        one, other = two(), two()
        assert copied.clip_(one).segments == copy.deepcopy(clipper).clip_(other).segments
        assert [p.grad.tolist() for p in one.values()] == [p.grad.tolist() for p in other.values()]
    result = pickle.loads(pickle.dumps(clipper.last))
    assert (result.norm_before, result.segments, repr(result)) == (
        clipper.last.norm_before,
        clipper.last.segments,
        repr(clipper.last),
    )
