"""`gradclip watch --rule`: a script that nobody changed is trained as if its own clipping were this rule."""

import shutil
from pathlib import Path

import pytest

from gradclip.telemetry import read_run
from watching import SCRIPTS, python, watch

LINES = {
    "after_step_healthy": ["torch.nn.utils.clip_grad_norm_("],
    "before_unscale_healthy": ["torch.nn.utils.clip_grad_norm_("],
    "closure_healthy": ["torch.nn.utils.clip_grad_norm_("],
    "twice": ["torch.nn.utils.clip_grad_norm_("],
    "own_functions_healthy": [
        "clipper.clip_(", "gradclip.torch.clip_grad_norm_(", "torch.nn.utils.clip_grads_with_norm_(",
    ],
}  # fmt: skip
"""The calls that clip in each script."""
MADE = "optimizer = "


def by_hand(name: str, rule: str) -> str:
    """The script as its user would change it: no clip of its own, and the rule attached."""
    lines = []
    for line in (SCRIPTS / f"{name}.py").read_text(encoding="utf-8").splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(f"{indent}pass" if any(call in line for call in LINES[name]) else line)
        if line.startswith(MADE):
            lines.append(f"import gradclip; gradclip.attach(optimizer, gradclip.{rule})")
    return "\n".join(lines) + "\n"


def parameters_in(stdout: str) -> str:
    (line,) = (line for line in stdout.split("\n") if line.startswith("parameters"))
    return line


@pytest.mark.parametrize("name", LINES)
def test_a_script_trains_as_if_the_rule_were_written_in_it(name: str, tmp_path: Path) -> None:
    shutil.copy(SCRIPTS / "net.py", tmp_path)
    (tmp_path / "changed.py").write_text(by_hand(name, "ClipGradByGlobalNorm(0.1)"), encoding="utf-8")
    changed = python("changed.py", folder=tmp_path)
    unchanged = watch("--out", "run", "--rule", "global:0.1", str(SCRIPTS / f"{name}.py"), folder=tmp_path)
    own = python(str(SCRIPTS / f"{name}.py"), folder=tmp_path)
    assert changed.returncode == unchanged.returncode == own.returncode == 0, changed.stderr + unchanged.stderr
    assert parameters_in(unchanged.stdout) == parameters_in(changed.stdout) != parameters_in(own.stdout)
    run = read_run(tmp_path / "run")
    assert {event.rule for event in run} == {"all tensors together: an L2 norm above 0.1 is rescaled to it"}
    assert all(event.norm_after <= 0.1 * (1 + 1e-12) for event in run)
    assert all(event.loss is not None for event in run)


def test_a_trainer_that_clips_by_itself_clips_by_the_rule(tmp_path: Path) -> None:
    script = str(SCRIPTS / "lightning_trainer_healthy.py")
    answer = watch("--out", "run", "--rule", "global:0.1", script, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    run = read_run(tmp_path / "run")
    assert len(run) == 120
    assert {event.threshold for event in run} == {0.1}


def test_the_rule_none_measures_what_the_script_clips(tmp_path: Path) -> None:
    watch("--out", "run", "--rule", "none", str(SCRIPTS / "after_step_healthy.py"), folder=tmp_path)
    run = read_run(tmp_path / "run")
    assert not any(event.clipped for event in run)
    assert any(event.norm_before > 2.0 for event in run)


def test_a_clipper_that_the_script_attached_is_replaced(tmp_path: Path) -> None:
    source = (SCRIPTS / "attached_healthy.py").read_text(encoding="utf-8")
    source = (
        source.replace("gradclip.attach(", "clipper = gradclip.attach(")
        + "    print('norm', clipper.last.norm_after)\n"
    )
    assert "clipper = " in source
    shutil.copy(SCRIPTS / "net.py", tmp_path)
    (tmp_path / "own.py").write_text(source, encoding="utf-8")
    (tmp_path / "changed.py").write_text(source.replace("max_norm = 2.0", "max_norm = 0.1"), encoding="utf-8")
    changed = python("changed.py", folder=tmp_path)
    unchanged = watch("--out", "run", "--rule", "global:0.1", "own.py", folder=tmp_path)
    assert unchanged.stdout == changed.stdout
    assert unchanged.stdout.count("norm") == 60
    assert {event.threshold for event in read_run(tmp_path / "run")} == {0.1}


def test_an_error_that_the_script_asked_for_is_still_raised(tmp_path: Path) -> None:
    script = """
import torch
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
p.grad = torch.full((2,), float("nan"))
torch.nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
"""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    answer = watch("--rule", "global:1", "script.py", folder=tmp_path)
    assert answer.returncode == 1
    assert "is non-finite" in answer.stderr


def test_a_rule_that_there_is_not_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("", encoding="utf-8")
    answer = watch("--rule", "zclp", "script.py", folder=tmp_path, cold=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("gradclip watch: --rule: ")
    assert "did you mean 'ZClip'?" in answer.stderr
    assert answer.stderr.count("\n") == 1


NESTED = """
import hashlib, sys, torch
class Combined(torch.optim.Optimizer):
    def __init__(self, parameters):
        parameters = list(parameters)
        super().__init__(parameters, {})
        self.weights = torch.optim.SGD([p for p in parameters if p.ndim > 1], lr=0.1)
        self.biases = torch.optim.Adam([p for p in parameters if p.ndim < 2], lr=0.01)
    def step(self, closure=None):
        self.weights.step()
        self.biases.step()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = Combined(model.parameters())
if sys.argv[1:]:
    import gradclip
    gradclip.attach(optimizer, gradclip.AutoClip())
for _ in range(30):
    optimizer.zero_grad()
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
"""


def test_an_optimizer_that_steps_by_others_is_clipped_once(tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(NESTED, encoding="utf-8")
    attached = python("nested.py", "attached", folder=tmp_path)
    watched = watch("--rule", "autoclip", "nested.py", folder=tmp_path)
    plain = python("nested.py", folder=tmp_path)
    assert watched.stdout == attached.stdout != plain.stdout
