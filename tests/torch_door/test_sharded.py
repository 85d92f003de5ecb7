"""Gradients in several processes: real ones, over gloo, that go through each case; one that hangs is a failure."""

import json
import re
from pathlib import Path

import pytest

from effort import LONG
from watching import python

TESTS = Path(__file__).parents[1]
WORLDS = (2, 4)
LAWS = "sharded_laws.py"
TRIED = [
    (4, 61, ["mixed, cpu", "mixed otherwise, torch on a device", "sums, cpu", "strided, torch"]),
]
"""In so many processes every how many laws are kept, in which layouts; the long form keeps more of them in all."""
TRIED = [(2, 13, []), (4, 29, [])] if LONG else TRIED


def in_processes(script, world, *names, **environment):
    """How the cases of a script ended in so many processes: what went wrong in each of them, case by case.

    In the short form they are forks of a process that has what each of them would import and load.
    """
    done = python(
        str(TESTS / script), str(world), *names, folder=TESTS, cold=LONG, longest=3000, OMP_NUM_THREADS="1",
        TORCH_CPP_LOG_LEVEL="ERROR", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


CASES = re.findall(r"^        (\w+),$", (TESTS / "sharded_cases.py").read_text(), flags=re.M)
IN_TWO = [case for case in CASES if "trains_as_one" not in case and "pytorch" not in case]
"""Those that two processes go through in the short form, too."""


def test_processes_clip_as_one(tmp_path):
    """Two processes and then four, which resume what the two have saved: each case is one that they go through."""
    broken = []
    for world in WORLDS:
        names = CASES if LONG or world > 2 else IN_TWO
        found = in_processes("sharded_cases.py", world, *names, FOLDER=str(tmp_path))
        assert list(found) == names
        broken += [f"{case} in {world} processes: {words}" for case, every in found.items() for words in every[:1]]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(("world", "every", "names"), TRIED, ids=str)
def test_the_laws_are_kept_in_several_processes(world, every, names):
    found = in_processes(LAWS, world, *names, EVERY=str(every))
    assert found
    assert not any(found.values()), "\n".join(words for case in found.values() for words in case[:1])
