"""`gradclip watch`, called as a user calls it."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradclip.telemetry import read_run
from gradclip.telemetry.runs import folders_of
from gradclip.watch.launch import folder_for, with_python
from watching import SCRIPTS, SOURCE, python, watch

EXACT = [
    "after_step", "before_unscale_healthy", "closure_healthy", "odd_steps_healthy", "gan_healthy", "micro_step",
    "non_finite", "overflow", "twice_healthy", "attached_healthy", "own_functions_healthy",
    "lightning_trainer_healthy", "two_knobs_healthy",
]  # fmt: skip


def watched_beside_plain(script: str, folder: Path, cold: bool = False) -> str:
    """What is said of a script that does with its parameters, bit by bit, what it does when nobody watches."""
    plain = python(script, folder=folder)
    watched = watch("--out", "run", script, folder=folder, cold=cold)
    assert plain.returncode == watched.returncode == 0, watched.stderr
    assert "nothing more is recorded" not in watched.stderr
    (before,), (after,) = (
        [line for line in said.stdout.split("\n") if "parameters" in line] for said in (plain, watched)
    )
    assert after == before
    assert len(read_run(folder / "run")) >= 60
    return watched.stderr


@pytest.mark.parametrize("name", EXACT)
def test_no_bit_of_the_parameters_changes(name: str, tmp_path: Path) -> None:
    watched_beside_plain(str(SCRIPTS / f"{name}.py"), tmp_path)


COMPILED = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPTS)!r})
kept = runpy.run_path({str(SCRIPTS / "compiled_healthy.py")!r})
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def step(x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
step = torch.compile(step, backend="eager")
for _ in range(40):
    step(torch.randn(4, 3))
"""


def test_no_bit_changes_where_parts_of_a_step_or_the_whole_of_it_are_compiled(tmp_path: Path) -> None:
    """Nor does the compiler speak of the watcher. What it takes by name when it is imported is patched before."""
    (tmp_path / "compiled.py").write_text(COMPILED, encoding="utf-8")
    assert "Dynamo" not in watched_beside_plain("compiled.py", tmp_path, cold=True)
    assert [len(read_run(place)) for place in folders_of(tmp_path / "run")] == [60, 40]


def test_a_run_has_the_norms_the_names_and_what_the_script_clipped(tmp_path: Path) -> None:
    answer = watch("--out", "run", str(SCRIPTS / "after_step_healthy.py"), folder=tmp_path)
    run = read_run(tmp_path / "run")
    assert [event.step for event in run] == list(range(60))
    assert run[0].rule.startswith("clip_grad_norm_(max_norm=2) at ")
    assert list(run[0].tensors) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert run.about["optimizer"] == "SGD"
    assert run.about["parameters"]["0.weight"] == [16, 8]
    clipped = [event for event in run if event.clipped]
    assert clipped
    assert all(event.norm_before > 2.0 >= event.norm_after > 1.99 for event in clipped)
    assert all(event.norm_before == event.norm_after <= 2.0 for event in run if not event.clipped)
    assert ":12): run" in answer.stderr
    assert "see it: gradclip report run" in answer.stderr


def test_each_optimizer_has_a_run(tmp_path: Path) -> None:
    watch("--out", "run", str(SCRIPTS / "gan_healthy.py"), folder=tmp_path)
    judge, maker = read_run(tmp_path / "run"), read_run(tmp_path / "run" / "run-2")
    assert len(judge) == len(maker) == 60
    assert (judge[0].threshold, maker[0].threshold) == (0.3, 0.2)


@pytest.mark.parametrize("name", ["non_finite_healthy", "fused_scaler_healthy"])
def test_steps_that_a_grad_scaler_leaves_out_are_recorded_as_skipped(name: str, tmp_path: Path) -> None:
    watch("--out", "run", str(SCRIPTS / f"{name}.py"), folder=tmp_path)
    run = read_run(tmp_path / "run")
    assert len(run) == 60
    skipped = [event for event in run if event.skipped]
    assert [event.step for event in skipped] == list(range(len(skipped))) != []
    assert all(event.nonfinite and not event.clipped and event.norm_after == 0.0 for event in skipped)
    # 100 times a loss near 1, whose gradient has a norm near 1; a scale that was left on would be 2^100 and more
    assert all(1.0 < event.norm_before < 1000.0 for event in run if not event.skipped)


def test_the_example_is_watched(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "char_lm.py"
    answer = watch(str(example), "--steps", "10", folder=tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("char_lm-")
    assert len(read_run(folder)) == 10
    assert f"see it: gradclip report runs/{folder.name}" in answer.stderr


def test_a_script_with_an_optimizer_for_each_parameter_is_recorded_for_some(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import torch\nps = [torch.nn.Parameter(torch.ones(2)) for _ in range(20)]\n"
        "optimizers = [torch.optim.SGD([p], lr=0.1) for p in ps]\n"
        "for p, optimizer in zip(ps, optimizers):\n    p.grad = torch.ones(2)\n    optimizer.step()\n",
        encoding="utf-8",
    )
    answer = watch("--out", "run", "script.py", folder=tmp_path)
    assert "more than 16 optimizers" in answer.stderr
    assert len(list((tmp_path / "run").glob("run-*"))) == 15


def test_what_a_killed_script_has_done_can_be_read(tmp_path: Path) -> None:
    killed = """
import os, time, torch
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
for number in range(170):
    p.grad = torch.ones(2)
    optimizer.step()
os.kill(os.getpid(), 9)
"""
    (tmp_path / "killed.py").write_text(killed, encoding="utf-8")
    answer = watch("--out", "run", "killed.py", folder=tmp_path)
    assert answer.returncode == -signal.SIGKILL
    # the first step, then fifty at a time: of 170 the last 19 were waiting (more only if it took longer than a second)
    steps = [event.step for event in read_run(tmp_path / "run")]
    assert 151 <= len(steps) < 170
    assert steps == list(range(len(steps)))


def test_a_script_is_stopped_after_as_many_steps_as_were_asked_for(tmp_path: Path) -> None:
    answer = watch("--out", "run", "--steps", "7", str(SCRIPTS / "after_step_healthy.py"), folder=tmp_path)
    assert answer.returncode == 0
    assert len(read_run(tmp_path / "run")) == 7


def test_a_script_keeps_its_arguments_its_output_and_its_exit_code(tmp_path: Path) -> None:
    script = "import sys\nprint(sys.argv[1:], __name__)\nsys.exit(5)\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("script.py", "--lr", "3", "--json", folder=tmp_path, cold=True)
    assert answer.stdout == "['--lr', '3', '--json'] __main__\n"
    assert answer.returncode == 5
    assert "no optimizer of PyTorch made a step" in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_json_is_the_only_thing_on_the_output(tmp_path: Path) -> None:
    answer = watch("--json", "--steps", "5", "--out", "run", str(SCRIPTS / "twice.py"), folder=tmp_path)
    told = json.loads(answer.stdout)
    assert told["exit"] == 0
    assert told["runs"]["run"]["steps"] == 5
    assert [finding["problem"] for run in told["runs"].values() for finding in run["findings"]] == ["twice"]


def test_where_nothing_is_recorded_it_is_said_what_was_looked_for_and_the_exit_code_is_2(tmp_path: Path) -> None:
    script = "import torch\nw = torch.ones(2, requires_grad=True)\nw.sum().backward()\nw.data -= w.grad\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("script.py", folder=tmp_path)
    assert answer.returncode == 2
    assert (
        "no optimizer of PyTorch made a step in sight, and of an update that the script writes itself" in answer.stderr
    )


def test_each_optimizer_has_its_name_in_the_script_and_the_line_of_its_step(tmp_path: Path) -> None:
    script = """
import torch

class Trainer:
    def __init__(self):
        self.critic = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])

    def step(self, optimizer):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(2)
        optimizer.step()

class Wrapper:
    def __init__(self, inner):
        self.inner = inner

class Proxy:
    @property
    def __dict__(self):
        raise RuntimeError("nobody may ask")

    def __getattribute__(self, name):
        raise RuntimeError("nobody may ask")

proxy = Proxy()
trainer = Trainer()
actor = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
wrapped = Wrapper(torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]))
for _ in range(3):
    for each in (actor, trainer.critic, wrapped.inner):
        trainer.step(each)
around = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
around._optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
trainer.step(around._optimizer)
several = {"enc": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])}
trainer.step(several["enc"])
listed = [torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])]
trainer.step(listed[0])
trainer.step(torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]))
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("--out", "run", "script.py", folder=tmp_path)
    runs = [read_run(place) for place in folders_of(tmp_path / "run")]
    known = [run.optimizer for run in runs]
    names = "actor", "trainer.critic", "wrapped.inner", "around", "several['enc']", "listed[0]", "optimizer"
    assert known == [f"Adam {name} (script.py:11)" for name in names]
    assert "3 steps of Adam actor (script.py:11): run" in answer.stderr
    assert "Adam trainer.critic (script.py:11): Only 3 steps with a finite norm: too few to judge" in answer.stderr


def test_an_optimizer_that_takes_the_place_of_another_goes_on_with_its_run(tmp_path: Path) -> None:
    script = """
import torch
p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
for epoch in range(3):
    mine = torch.optim.SGD([p], lr=0.1)
    for _ in range(4):
        mine.zero_grad()
        (p.sum() * (epoch + 1)).backward()
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        mine.step()
other = torch.optim.SGD([p, q], lr=0.1)
other.step()
of_another_kind = torch.optim.Adam([p])
of_another_kind.step()
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("--out", "run", "script.py", folder=tmp_path)
    run, *others = [read_run(place) for place in folders_of(tmp_path / "run")]
    assert [event.step for event in run] == list(range(12))
    roots = [(epoch + 1) * 2**0.5 for epoch in range(3) for _ in range(4)]
    assert [event.norm_before for event in run] == pytest.approx(roots, rel=1e-6)  # float32
    assert [len(other) for other in others] == [1, 1]
    assert "12 steps of SGD mine" in answer.stderr


def test_norms_of_parts_that_are_clipped_each_by_itself_are_told_together(tmp_path: Path) -> None:
    script = """
import torch
p, q, r = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
optimizer = torch.optim.SGD([p, q], lr=0.1)
for step in range(2):
    optimizer.zero_grad()
    (3.0 * p + 4.0 * q + 12.0 * r).sum().backward()
    torch.nn.utils.clip_grad_norm_([p, q], float("inf"))
    torch.nn.utils.clip_grad_norm_([p], 2.0)
    torch.nn.utils.clip_grad_norm_([q], 1.0)
    if not step:
        optimizer.add_param_group({"params": [r]})
    optimizer.step()
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("--out", "run", "script.py", folder=tmp_path)
    run = read_run(tmp_path / "run")
    # 2 and 1 are the norms of the parts after it, 12 is that of the one that nothing clips; PyTorch adds 1e-6
    assert [event.norm_before for event in run] == pytest.approx([13.0, 13.0], rel=1e-6)
    assert [event.norm_after for event in run] == pytest.approx([(2**2 + 1 + 12**2) ** 0.5] * 2, rel=1e-6)
    assert set(run[1].tensors) == {"group 0, parameter 0", "group 0, parameter 1", "group 1, parameter 0"}
    assert "leaves a whole parameter group of the optimizer unclipped: group 1, parameter 0" in answer.stderr


def test_optimizers_of_which_one_sentence_is_true_have_it_once(tmp_path: Path) -> None:
    script = """
import torch
for fold in range(3):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    said = watch("--out", "run", "script.py", folder=tmp_path).stderr
    assert said.count("Only 4 steps with a finite norm") == 1
    assert "so in 3 runs" in said


def test_a_call_that_is_wrong_fails_as_it_does_without_us(tmp_path: Path) -> None:
    script = "import torch\ntorch.nn.utils.clip_grad_norm_([torch.nn.Parameter(torch.ones(1))])\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("script.py", folder=tmp_path)
    assert answer.returncode == 1
    assert "missing 1 required positional argument: 'max_norm'" in answer.stderr
    assert "nothing more is recorded" not in answer.stderr


def test_a_forked_child_writes_nothing_of_its_parents(tmp_path: Path) -> None:
    script = """
import os, sys, torch
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
for number in range(30):
    p.grad = torch.ones(2)
    optimizer.step()
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    assert watch("--out", "run", "script.py", folder=tmp_path).returncode == 0
    lines = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) - 1 == len(read_run(tmp_path / "run")) == 30  # and a line of names


def test_what_is_remembered_of_the_past_does_not_grow(tmp_path: Path) -> None:
    script = """
import torch
from gradclip.watch import patches
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
for number in range(300):
    p.sum().backward()
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    optimizer.step()
print(len(patches._recorders[0]._log._entries))
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    # what the last step has read is kept for an optimizer that may be new: a backward pass and a clip
    assert watch("script.py", folder=tmp_path).stdout == "2\n"


def test_a_sitecustomize_that_was_there_still_runs(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('mine')\n", encoding="utf-8")
    (tmp_path / "script.py").write_text("import sitecustomize\nprint(sitecustomize.__file__)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(tmp_path / "site")])}
    answer = subprocess.run(
        [sys.executable, "-m", "gradclip", "watch", "script.py"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.stdout.split("\n")[-3:] == ["mine", str(tmp_path / "site" / "sitecustomize.py"), ""]
    assert "Error" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a script to run"),
        (("nowhere.py",), "there is no script nowhere.py"),
        (("no-such-program",), "neither a script, a run nor a program"),
        (("--out", ".", "script.py"), "there is something already"),
        (("--steps", "many", "script.py"), "expected a whole number above 0"),
    ],
)
def test_a_mistake_gets_one_line(arguments, said, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("", encoding="utf-8")
    answer = watch(*arguments, folder=tmp_path, cold=True)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_what_is_run() -> None:
    assert with_python(["train.py", "--lr", "1"]) == [sys.executable, "train.py", "--lr", "1"]
    assert with_python(["-m", "package.train"]) == [sys.executable, "-m", "package.train"]
    assert with_python(["torchrun", "train.py"]) == ["torchrun", "train.py"]
    assert folder_for(["torchrun", "here/train.py"]).parts[0] == "runs"
    assert folder_for(["torchrun", "here/train.py"]).name.startswith("train-")
    assert folder_for(["-m", "package.train"]).name.startswith("train-")


def test_runs_that_are_started_in_one_second_have_folders_of_their_own() -> None:
    assert len({folder_for(["train.py"]) for _ in range(20)}) >= 19  # of 65,536 words two may be one


BY_HAND = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
for step in range({steps}):
    model.zero_grad()
    loss = model(torch.randn(4, 3)).square().mean()
    loss.backward()
    {clip}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
"""


@pytest.mark.parametrize("steps", [5, 40])
def test_updates_by_hand_are_recorded_where_the_clip_reads_the_norms(tmp_path: Path, steps: int) -> None:
    clip = "torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)"
    (tmp_path / "hand.py").write_text(BY_HAND.format(steps=steps, clip=clip), encoding="utf-8")
    answer = watch("--out", "run", "hand.py", folder=tmp_path)
    run = read_run(tmp_path / "run")
    assert (answer.returncode, len(run), run.optimizer) == (0, steps, "updates by hand (hand.py:9)")
    assert [event.step for event in run] == list(range(steps))
    assert all(event.threshold == 0.1 and event.loss is not None for event in run)
    assert run[0].tensors.keys() == {"weight", "bias"}
    assert math.hypot(*run[0].tensors.values()) == pytest.approx(run[0].norm_before)
    assert not list(run.path.glob("run-*"))


def test_updates_by_hand_without_a_clip_are_not_seen_which_is_said(tmp_path: Path) -> None:
    (tmp_path / "hand.py").write_text(BY_HAND.format(steps=5, clip="pass"), encoding="utf-8")
    answer = watch("--out", "run", "hand.py", folder=tmp_path)
    assert answer.returncode == 2
    assert "the norms are known only where it calls a clipping function" in answer.stderr


LATE = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(40):
    model(torch.randn(4, 3)).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    if step % 20 == 19:
        optimizer.step()
        optimizer.zero_grad()
"""


def test_an_optimizer_that_steps_late_is_no_update_by_hand(tmp_path: Path) -> None:
    """An accumulation has clips before the first step of the optimizer, which has them all."""
    (tmp_path / "late.py").write_text(LATE, encoding="utf-8")
    watch("--out", "run", "late.py", folder=tmp_path)
    assert [read_run(place).optimizer for place in folders_of(tmp_path / "run")] == ["SGD optimizer (late.py:9)"]
