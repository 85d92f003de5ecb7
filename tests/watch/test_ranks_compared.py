"""What processes tell each other, and what of it looks wrong: plain data, for what no small script shows."""

import math
import os
import time
from pathlib import Path

import pytest

from gradclip.watch.gradient_norms import GradientNorms
from gradclip.watch.joining import AT_STEP, MADE, REST, Place
from gradclip.watch.journal import BEFORE_REDUCTION, PER_RANK, STAGE, Applied, ClipCall, Examined, Flaw
from gradclip.watch.others import LATE, MOST_WAITING, Others
from gradclip.watch.ranks_compared import flaws_across
from gradclip.watch.shares import MOST_UNREAD, Called, Layout, ShareReader, ShareWriter, StepShare, lock_of
from gradclip.watch.step_events import WatchedStep

WHERE = "train.py:7"


def layout(count: int, sharded: bool = False) -> Layout:
    return Layout([(f"p{place}", (2,), sharded) for place in range(count)])


def part(*norms: float) -> dict[int, tuple[float, float]]:
    return {place: (norm, 0.0) for place, norm in enumerate(norms)}


def flaws(before, after, returned, sends=False, acts=True, names=None) -> list[str]:
    """The names of what is wrong with one clip, of which each process has these norms before, after and returned."""
    shares = [
        StepShare(0, {"0": part(*b), AT_STEP: part(*a)}, [Called(WHERE, "", norm, acts)], True, sends)
        for b, a, norm in zip(before, after, returned, strict=True)
    ]
    layouts = names or [layout(len(before[0]))] * len(before)
    return [flaw.name for flaw in flaws_across(shares, layouts, False, "")]


@pytest.mark.parametrize(
    ("before", "after", "returned", "name"),
    [
        ([(1.0, 2.0), (1.5, 2.5)], [(1.0, 2.0), (1.0, 2.0)], (2.2, 2.9), BEFORE_REDUCTION),
        ([(1.0, 0.0), (1.5, 0.0)], [(1.0, 0.0), (1.0, 0.0)], (1.0, 1.5), BEFORE_REDUCTION),
        ([(1.0, 2.0), (1.0, 2.0)], [(0.5, 1.0), (0.5, 1.0)], (2.2, 2.2), None),  # copies, and clipped as such
        ([(1.0, 2.0), (1.5, 2.5)], [(0.5, 1.0), (0.6, 1.0)], (2.2, 2.9), None),  # ranks that train apart
        ([(1.0, 2.0, 3.0), (1.0, 2.0, 4.0)], [(1.0, 2.0, 3.0), (0.9, 1.8, 3.6)], (3.7, 4.6), PER_RANK),
        ([(1.0, 2.0, 3.0), (1.0, 2.0, 4.0)], [(1.0, 2.0, 3.0), (1.0, 2.0, 4.0)], (5.5, 5.5), None),  # one norm for all
        (
            [(0.0, 0.0, 3.0), (0.0, 0.0, 4.0)],
            [(0.0, 0.0, 3.0), (0.0, 0.0, 4.0)],
            (3.0, 4.0),
            None,
        ),
        ([(1.0, math.nan), (1.5, 2.0)], [(1.0, math.nan), (1.0, math.nan)], (math.nan, 2.5), None),
    ],
)
def test_a_clip_is_judged_by_the_norms_of_all(before, after, returned, name) -> None:
    assert flaws(before, after, returned) == ([name] if name else [])
    assert flaws(before, after, returned, acts=False) == []


def test_one_gradient_of_many_may_be_alike_by_chance() -> None:
    before = [(1.0, *range(2, 9)), (1.0, *range(12, 19))]
    assert flaws(before, before, (14.0, 45.0)) == []
    before = [(1.0, 2.0, *range(3, 9)), (1.0, 2.0, *range(13, 19))]
    assert flaws(before, before, (14.0, 45.0)) == [PER_RANK]


def test_stages_hand_tensors_on_and_have_nothing_alike() -> None:
    before = [(1.0, 2.0), (1.5, 2.5)]
    assert flaws(before, before, (2.2, 2.9), sends=True) == [STAGE]
    assert flaws(before, before, (2.5, 2.5), sends=True) == []
    alike = [(1.0, 2.0), (1.0, 2.0)]
    assert flaws(alike, alike, (2.2, 2.9), sends=True) == []


def own(factors, lefts) -> list[str]:
    """What is wrong where code of the script's own left each process these norms of two shards."""
    shares = [
        StepShare(0, {MADE: part(*(norm / factor for norm in left)), REST: part(*left)}, (), True)
        for factor, left in zip(factors, lefts, strict=True)
    ]
    return [flaw.name for flaw in flaws_across(shares, [layout(2, True)] * len(shares), True, WHERE)]


def test_own_code_is_wrong_where_it_cuts_each_rank_to_one_norm_by_other_factors() -> None:
    assert own((0.5, 0.25), [(0.6, 0.8), (0.8, 0.6)]) == [PER_RANK]
    assert own((0.5, 0.25, 1.0), [(0.6, 0.8), (0.8, 0.6), (0.3, 0.4)]) == [PER_RANK]
    assert own((0.5, 0.5), [(0.6, 0.8), (0.8, 0.6)]) == []  # shards of one norm by chance, under one factor for all
    assert own((0.5, 0.25), [(0.6, 0.8), (0.3, 0.4)]) == []  # no limit that both keep
    assert own((0.5, 0.25, 1.0), [(0.6, 0.8), (0.8, 0.6), (3.0, 4.0)]) == []  # which a third one does not keep
    assert own((0.5, 1.0), [(0.6, 0.8), (0.3, 0.4)]) == []  # one alone may have any reason


def share(step: int, norm: float = 1.0) -> StepShare:
    return StepShare(step, {"0": {0: (norm, 0.0)}}, [Called(WHERE, "", None, True)], True, False)


def test_what_is_told_is_read_once_and_whole(tmp_path: Path) -> None:
    reader, writer = ShareReader(tmp_path, [1, 2], time.time()), ShareWriter(tmp_path, 1)
    assert reader.waiting_for(0, None) == {1, 2}
    writer.write(layout(1), [share(0, math.nan), share(1, math.inf)])
    time.sleep(0.06)
    assert reader.waiting_for(0, None) == {2}
    assert reader.waiting_for(1, [1]) == set()
    assert math.isnan(reader.of(0)[1].parts["0"][0][0])
    assert reader.of(1) == {1: share(1, math.inf)}
    assert reader.layouts == {1: layout(1)}
    assert not list(tmp_path.glob("*.json"))
    reader.forget(0)
    assert (reader.of(0), len(reader.of(1))) == ({}, 1)


def test_nobody_waits_for_a_process_that_has_ended(tmp_path: Path) -> None:
    reader, writer = ShareReader(tmp_path, [1], time.time()), ShareWriter(tmp_path, 1)
    assert reader.waiting_for(0, None) == {1}
    writer.write(layout(1), [share(0)])
    writer.close()
    assert reader.waiting_for(0, None) == set()
    assert reader.of(0) == {1: share(0)}  # what it told before its end is heard
    assert reader.waiting_for(1, None) == set()
    assert lock_of(tmp_path, 1).exists()


def test_what_another_job_told_is_none_of_this_one(tmp_path: Path) -> None:
    writer = ShareWriter(tmp_path, 1)
    writer.write(layout(1), [share(0)])
    writer.close()
    for old in tmp_path.iterdir():
        os.utime(old, (0, 0))
    reader = ShareReader(tmp_path, [1], time.time())
    assert reader.waiting_for(0, None) == {1}
    assert reader.of(0) == {}


def test_what_nobody_reads_does_not_grow(tmp_path: Path) -> None:
    writer = ShareWriter(tmp_path, 1)
    for step in range(2 * MOST_UNREAD):
        writer.write(layout(1), [share(step)])
    assert len(list(tmp_path.glob("*.json"))) == MOST_UNREAD


def others(folder: Path) -> Others:
    return Others(Place(0, {7: 0}, layout(1)), ShareReader(folder, [1], time.time()))


def step(number: int, compares: bool = True) -> WatchedStep:
    """A step of which rank 0 has clipped a copy of norm 1, and has one of norm 3 afterwards."""
    clip = ClipCall("clip", "norm", 1.0, 2.0, WHERE, norms_before=GradientNorms([7], 2.0, [1.0], [0]), norm=1.0)
    rest, left = (GradientNorms([7] * len(norms), 2.0, norms, [0] * len(norms)) for norms in ([], [3.0]))
    return WatchedStep(number, 0.0, Examined([Applied(clip)], []), rest, 1.0, at_step=left, compares=compares)


def test_what_is_wrong_stays_so_until_the_processes_are_compared_again(tmp_path: Path) -> None:
    known, writer = others(tmp_path), ShareWriter(tmp_path, 1)
    told = {"0": {0: (2.0, 0.0)}, AT_STEP: {0: (3.0, 0.0)}}
    writer.write(layout(1), [StepShare(0, told, [Called(WHERE, "", 2.0, True)], True)])
    assert not known.may_tell(step(0), 1)
    assert known.flaws(step(0)) == [Flaw(BEFORE_REDUCTION, WHERE)]
    assert known.flaws(step(1, compares=False)) == [Flaw(BEFORE_REDUCTION, WHERE)]
    time.sleep(0.06)
    writer.write(layout(1), [StepShare(2, {**told, "0": {0: (1.0, 0.0)}}, [Called(WHERE, "", 1.0, True)], True)])
    assert not known.may_tell(step(2), 1)
    assert known.flaws(step(2)) == []


def test_a_process_that_tells_nothing_is_given_up(tmp_path: Path, monkeypatch, capsys) -> None:
    known = others(tmp_path)
    assert known.may_tell(step(0), MOST_WAITING)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LATE + 1.0)
    assert known.may_tell(step(0), 1)  # a step may take long: it is late once others were made
    assert not known.may_tell(step(0), 9)
    assert "rank 1 tells nothing of step 0" in capsys.readouterr().err
    assert not known.may_tell(step(1), 1)
