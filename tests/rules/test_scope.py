"""Scopes and segments: which elements are measured together."""

import itertools

import pytest

from gradclip import Element, Global, Group, Row, Tensor
from gradclip.engines.base import UnsupportedGradient, around, row_axes, rows_first
from gradclip.rules.scope import finest, rows_of
from gradclip.rules.segments import Segments, segment_names, segments

SHAPES = [(2, 3), (), (5,), (0, 4), (3, 2, 2)]
GROUPS = [1, 0, 0, 1, 0]


def test_the_rows_of_a_tensor_are_those_of_its_first_axis():
    assert [rows_of(shape) for shape in SHAPES] == [2, 1, 1, 0, 3]


def test_an_axis_is_a_whole_number_or_none():
    assert [Row().axis, Row(1).axis, Row(axis=-2).axis] == [None, 1, -2]
    for wrong in (True, 1.0, "1", (1, 2.0), (0, True), ("1", "2"), {1, 2}):
        with pytest.raises(TypeError, match=r"a whole number, a tuple of them or None.*write Row\(1\)"):
            Row(wrong)


def test_several_axes_are_neighbours_and_have_no_order():
    given = [(2, 1), [1, 2], (-1, -2), (-1, 0)]
    assert [Row(axes).axis for axes in given] == [(1, 2), (1, 2), (-2, -1), (0, -1)]
    assert Row((1,)) == Row(1)
    for wrong, why in {
        (): "none",
        (1, 1): "twice",
        (0, 2): "others lie",
        (-1, -1): "twice",
        (-1, -3): "lie",
    }.items():
        with pytest.raises(ValueError, match=rf"are neighbours, got .*{why}.*: write Row\(\(1, 2\)\)"):
            Row(wrong)


def test_rows_along_another_axis_are_another_scope_and_say_so():
    assert Row(1) != Row()
    assert [scope.words for scope in (Row(), Row(0), Row(-1), Row((1, 2)), Row((0, 1, 2)))] == [
        "each row",
        "each index of axis 0",
        "each index of axis -1",
        "each index of the axes 1 and 2",
        "each index of the axes 0, 1 and 2",
    ]


def test_scopes_are_ordered_from_fine_to_coarse():
    assert [scope.grain for scope in (Element(), Row(), Tensor(), Group(), Global())] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("scopes", "leaf"),
    [
        ([Global()], Global()),
        ([Global(), Global()], Global()),
        ([Group()], Tensor()),
        ([Tensor()], Tensor()),
        ([Group(), Global()], Tensor()),
        ([Tensor(), Global()], Tensor()),
        ([Global(), Row()], Row()),
        ([Row()], Row()),
    ],
)
def test_the_leaf_is_the_finest_scope_that_all_can_be_combined_from(scopes, leaf):
    assert finest(scopes) == leaf


@pytest.mark.parametrize(
    ("scope", "leaf", "expected"),
    [
        (Row(), Row(), Segments(7)),
        (Tensor(), Tensor(), Segments(5)),
        (Tensor(), Row(), Segments(5, [0, 0, 1, 2, 4, 4, 4])),
        (Group(), Tensor(), Segments(2, [1, 0, 0, 1, 0])),
        (Group(), Row(), Segments(2, [1, 1, 0, 0, 0, 0, 0])),
        (Global(), Tensor(), Segments(1, [0, 0, 0, 0, 0])),
        (Global(), Row(), Segments(1, [0] * 7)),
        (Global(), Global(), Segments(1)),
    ],
)
def test_each_measured_segment_belongs_to_one_of_the_stage(scope, leaf, expected):
    assert segments(scope, leaf, SHAPES, GROUPS) == expected


def test_without_groups_all_tensors_are_one_group():
    assert segments(Group(), Tensor(), SHAPES, None) == Segments(1, [0] * 5)


@pytest.mark.parametrize(
    ("scope", "leaf", "sizes"),
    [
        (Row(), Row(), [3, 3, 1, 5, 4, 4, 4]),
        (Tensor(), Row(), [6, 1, 5, 0, 12]),
        (Tensor(), Tensor(), [6, 1, 5, 0, 12]),
        (Group(), Tensor(), [18, 6]),
        (Group(), Row(), [18, 6]),
        (Global(), Row(), [24]),
        (Global(), Global(), [24]),
    ],
)
def test_sizes_count_the_elements_of_each_segment(scope, leaf, sizes):
    assert list(segments(scope, leaf, SHAPES, GROUPS, sized=True).sizes) == sizes


@pytest.mark.parametrize("scope", [Row(), Tensor(), Group(), Global()], ids=str)
def test_the_sizes_of_all_segments_add_up_to_the_elements(scope):
    for leaf in (Row(), Tensor(), Global()):
        if leaf.grain <= scope.grain:
            found = segments(scope, leaf, SHAPES, GROUPS, sized=True)
            assert sum(found.sizes) == 24
            assert found.number == len(found.sizes)


def test_each_segment_has_a_name():
    names = ["w", "s", "b", "none", "c"]
    of = {
        scope: segment_names(scope, names.__getitem__, SHAPES, count)
        for scope, count in ((Row(), 7), (Tensor(), 5), (Group(), 2), (Global(), 1))
    }
    assert of[Row()] == ["w[0]", "w[1]", "s", "b", "c[0]", "c[1]", "c[2]"]
    assert of[Tensor()] == names
    assert of[Group()] == ["group 0", "group 1"]
    assert of[Global()] == ["all"]


def test_there_is_a_name_for_each_segment():
    for scope, shapes in itertools.product((Row(), Tensor(), Global()), (SHAPES, SHAPES[:1], [(0, 4)], [()])):
        count = segments(scope, scope, shapes, None).number
        assert len(segment_names(scope, str, shapes, count)) == count


@pytest.mark.parametrize(
    ("scope", "axes", "fronted"),
    [
        (Row(), [(1,), None, None, (1,), (2,)], [(3, 2), (), (5,), (4, 0), (2, 3, 2)]),
        (Row(0), [(0,), None, None, (0,), (0,)], SHAPES),
        (Row(1), [(1,), None, None, (1,), (1,)], [(3, 2), (), (5,), (4, 0), (2, 3, 2)]),
        (Row(-2), [(0,), None, None, (0,), (1,)], [(2, 3), (), (5,), (0, 4), (2, 3, 2)]),
        (Row((0, 1)), [(0, 1), None, None, (0, 1), (0, 1)], [(6, 1), (), (5,), (0, 1), (6, 2)]),
        (Row((-2, -1)), [(0, 1), None, None, (0, 1), (1, 2)], [(6, 1), (), (5,), (0, 1), (4, 3)]),
        (Tensor(), [None] * 5, SHAPES),
    ],
)
def test_rows_lie_along_the_axis_of_the_scope_or_of_the_framework(scope, axes, fronted):
    found = row_axes(scope, SHAPES, lambda shape: len(shape) - 1)
    assert found == axes
    assert rows_first(SHAPES, found) == fronted


def test_a_shape_without_the_axis_is_refused_with_its_place():
    for axis in (2, -3):
        with pytest.raises(UnsupportedGradient, match=rf"shape \(2, 3\) has no axis {axis}") as caught:
            row_axes(Row(axis), [(3, 2, 2), (5,), (2, 3)], len)
        assert caught.value.index == 2


def test_a_tensor_is_seen_around_the_axis_of_its_rows():
    found = [around((2, 3, 4, 5), kept) for kept in (None, (), (0,), (2,), (3,), (1, 2), (0, 1, 2, 3))]
    whole = (1, 1, 120)
    assert found == [whole, whole, (1, 2, 60), (6, 4, 5), (24, 5, 1), (2, 12, 5), (1, 120, 1)]


def test_axes_that_are_no_neighbours_in_a_shape_are_refused_with_its_place():
    """The last axis is next to the first of a matrix, and of nothing else; axis -2 of three is axis 1."""
    assert row_axes(Row((0, -1)), [(2, 3)], len) == [(0, 1)]
    for axes, why in (((0, -1), "between which others lie"), ((1, -2), "one of which is there twice")):
        with pytest.raises(UnsupportedGradient, match=rf"shape \(2, 3, 4\) are .*, {why}, and") as caught:
            row_axes(Row(axes), [(5,), (2, 3, 4)], len)
        assert caught.value.index == 1


def test_a_framework_may_have_several_axes_of_units_or_none():
    shapes = [(4, 1), (2, 3, 4)]
    found = row_axes(Row(), shapes, lambda shape: (1, 2) if len(shape) == 3 else ())
    assert found == [(), (1, 2)]
    assert rows_first(shapes, found) == [(4,), (12, 2)]
    assert segments(Row(), Row(), rows_first(shapes, found), None, sized=True) == Segments(13, None, [4] + [2] * 12)


def test_axes_from_both_ends_are_neighbours_where_the_tensor_says_so():
    assert row_axes(Row((-3, 1, -1)), [(2, 3, 4)], len) == [(0, 1, 2)]
    with pytest.raises(UnsupportedGradient, match="between which others lie"):
        row_axes(Row((-3, 1, -1)), [(2, 3, 4, 5, 6)], len)
