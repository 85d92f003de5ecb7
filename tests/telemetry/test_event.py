"""An event is plain data: to JSON and back without a loss, and what is no event is refused."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradclip.telemetry import Event
from gradclip.telemetry.event import MOST

EVENT = Event(3, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True)
REQUIRED = ("step", "rule", "engine", "norm_before", "norm_after", "threshold", "coefficient", "clipped")
FIRST = (
    '{"schema": 1, "step": 3, "rule": "all", "engine": "cpu", "norm_before": 5.0, "norm_after": 1.0, "threshold": 1.0, '
    '"coefficient": 0.2, "clipped": true, "skipped": false, "nonfinite": 1, "offenders": ["w"], "time": 7.5, '
    '"tensors": null, "norm": "L2", "not_finite": []}'
)
NAMES = st.text(st.characters())  # surrogates too
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
EVENTS = st.builds(
    Event,
    step=st.integers(0, MOST - 1),
    rule=NAMES,
    engine=NAMES,
    norm_before=FLOATS,
    norm_after=FLOATS,
    threshold=FLOATS,
    coefficient=FLOATS,
    clipped=st.booleans(),
    skipped=st.booleans(),
    nonfinite=st.integers(0, MOST - 1),
    offenders=st.lists(NAMES, max_size=3).map(tuple),
    time=FLOATS,
    tensors=st.none() | st.dictionaries(NAMES, FLOATS, max_size=4),
    loss=st.none() | FLOATS,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def strict(text):
    """JSON as other readers have it: NaN and Infinity are no numbers there."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check_round_trip(event):
    back = Event.from_dict(strict(json.dumps(event.to_dict())))
    assert repr(back) == repr(event)  # of floats repr is exact, and NaN is like NaN


@given(EVENTS)
def test_an_event_comes_back_from_json_that_holds_no_nan(event):
    check_round_trip(event)


def test_a_norm_that_is_not_finite_is_null_and_a_word():
    data = replace(EVENT, norm_before=math.nan, tensors={"w": math.inf, "b": 1.0}).to_dict()
    assert data["norm_before"] is None
    assert data["tensors"] == {"w": None, "b": 1.0}
    assert data["not_finite"] == [["norm_before", "nan"], ["tensors.w", "inf"]]


def test_keys_that_this_version_does_not_know_are_ignored():
    assert Event.from_dict({**EVENT.to_dict(), "weather": 2.0}) == EVENT


def test_an_event_of_a_later_schema_is_refused_by_name():
    with pytest.raises(ValueError, match="schema 3, and this gradclip reads up to 2: upgrade"):
        Event.from_dict({**EVENT.to_dict(), "schema": 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": None}, "not an event"),
        ({"schema": True}, "not an event"),
        ({"step": 1.5}, "'step' of an event is a int, found 1.5"),
        ({"norm_before": None}, "'norm_before' of an event is a float, found None"),
        ({"clipped": 1}, "'clipped'"),
        ({"offenders": [1]}, "'offenders'"),
        ({"tensors": {"w": None}}, "the norm of 'w'"),
        ({"tensors": [1]}, "'tensors'"),
        ({"loss": "low"}, "'loss' of an event is a float, found 'low'"),
        ({"not_finite": 5}, "'not_finite'"),
        ({"not_finite": [["norm_before"]]}, "'not_finite'"),
        ({"not_finite": [["norm_before", "big"]]}, "big"),
    ],
)
def test_what_is_wrong_with_an_event_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        Event.from_dict({**EVENT.to_dict(), **change})


def test_a_missing_field_is_named():
    data = EVENT.to_dict()
    del data["threshold"]
    with pytest.raises(ValueError, match="no 'threshold'"):
        Event.from_dict(data)


def test_what_the_first_gradclip_wrote_is_read_although_it_has_no_loss():
    assert Event.from_dict(json.loads(FIRST)) == replace(EVENT, offenders=("w",), nonfinite=1, time=7.5)


def test_a_field_with_a_default_may_be_missing_so_a_new_one_leaves_older_runs_readable():
    bare = {name: value for name, value in EVENT.to_dict().items() if name in ("schema", *REQUIRED)}
    assert Event.from_dict(bare) == EVENT


@given(ANYTHING, st.sampled_from([*EVENT.to_dict()]))
def test_anything_in_the_place_of_a_field_is_an_event_or_a_value_error(value, name):
    try:
        event = Event.from_dict({**EVENT.to_dict(), name: value})
    except ValueError:
        return
    check_round_trip(event)
