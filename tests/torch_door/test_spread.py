"""Stages and experts, of which each process has its own: real processes, over gloo, that go through each case."""

import json
import re
from pathlib import Path

import pytest

from watching import python

SCRIPT = Path(__file__).parents[1] / "spread_cases.py"
CASES = re.findall(r"^        (\w+),$", SCRIPT.read_text(), flags=re.M)


@pytest.fixture(scope="module", params=[2, 4], ids="{} processes".format)
def ended(request, tmp_path_factory):
    done = python(str(SCRIPT), str(request.param), folder=tmp_path_factory.mktemp("group"))
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_processes_clip_what_each_has_as_one(ended, case):
    assert not ended[case], "\n".join(ended[case])


def test_each_case_was_run(ended):
    assert list(ended) == CASES
