"""Each problem in a small script that has it, and the healthy scripts: run as their users run them."""

import json
import re
from pathlib import Path

import pytest

from gradclip.doctor.problems import PROBLEMS
from watching import SCRIPTS, python

STEPS = 60
HEALTHY = sorted(path.stem for path in SCRIPTS.glob("*_healthy.py"))
REMARKED = {"always_exceeded": "always", "never_reached": "never", "own_code": "own code"}
"""Scripts of which the verdict has something to say, and in which nothing is wrong."""
SICK = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem not in (*HEALTHY, *REMARKED, "net", "ranks"))
ALSO = {
    "attached_two_knobs": {"two-knobs"},
    "lightning_never_clipped": {"never-clipped"},
    "lightning_two_knobs": {"micro-step", "two-knobs"},
    "before_reduction_in_no_sync": {"before-reduction"},
    "per_rank_norm_in_total": {"per-rank-norm"},
    "per_rank_norm_of_experts": {"per-rank-norm"},
    "stage_norm_attached": {"stage-norm"},
    "two_knobs": {"two-knobs"},
}
NEW_FROM = {"after_step": 1, "exhausted_iterator": 1, "non_finite": 40, "not_zeroed": 1, "other_model": 1}


def doctor(name: str, folder: Path) -> tuple[int, dict, str]:
    """What `gradclip doctor` says of a script, called in the folder of the scripts."""
    script = [f"{name}.py"]
    if name.startswith("torchrun"):
        script = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *script]
    # the Trainer of transformers writes to the folder "out" where it is started
    links = [(folder / path.name, path) for path in SCRIPTS.glob("*.py")]
    for link, path in links:
        link.symlink_to(path)
    call = "-m", "gradclip", "doctor", "--json", *script
    answer = python(*call, folder=folder, TMPDIR=str(folder), HF_HUB_OFFLINE="1")
    assert answer.stdout, answer.stderr
    return answer.returncode, json.loads(answer.stdout), answer.stderr


def test_every_problem_has_a_script_and_every_script_a_healthy_twin() -> None:
    assert {name.replace("_", "-") for name in SICK if name not in ALSO} | {"two-knobs"} == set(PROBLEMS)
    assert {f"{name}_healthy" for name in SICK if name not in ALSO} <= set(HEALTHY)


@pytest.mark.parametrize("name", SICK)
def test_a_problem_is_found_where_it_is(name: str, tmp_path) -> None:
    code, said, _ = doctor(name, tmp_path)
    findings = said["findings"]
    assert code == 1
    assert {"mistaken", "non-finite"} & {verdict["kind"] for verdict in said["verdicts"].values()}
    assert {finding["problem"] for finding in findings} == ALSO.get(name, {name.replace("_", "-")})
    lines = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8").split("\n")
    (sick,) = [number for number, line in enumerate(lines, 1) if "# sick" in line]
    for finding in findings:
        assert finding["where"] == (f"{name}.py" if name.endswith("never_clipped") else f"{name}.py:{sick}")
        assert finding["since"] == NEW_FROM.get(
            name, finding["since"] if name.endswith(("overflow", "never_clipped")) else 0
        )
        assert 0 < finding["steps"] <= finding["of"]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_script_is_left_in_peace(name: str, tmp_path) -> None:
    code, said, errors = doctor(name, tmp_path)
    assert said["findings"] == []
    assert code == 0, said["verdicts"]
    assert "nothing more is recorded" not in errors


@pytest.mark.parametrize("name", REMARKED)
def test_what_is_no_mistake_is_said_in_the_verdict(name: str, tmp_path) -> None:
    """A recipe that trains well may clip every step, and a guard that was not needed is no error."""
    code, said, _ = doctor(name, tmp_path)
    assert (code, said["findings"]) == (0, [])
    assert [verdict["kind"] for verdict in said["verdicts"].values()] == [REMARKED[name]]


def test_the_words_name_the_line_the_steps_and_the_cure() -> None:
    answer = python("-m", "gradclip", "doctor", "twice.py", folder=SCRIPTS)
    assert answer.returncode == 1
    assert re.search(r"twice\.py:18: clips gradients that were clipped already", answer.stdout)
    assert "in 60 of 60 steps, first in step 0" in answer.stdout
    assert "cure  keep one of the two calls" in answer.stdout
