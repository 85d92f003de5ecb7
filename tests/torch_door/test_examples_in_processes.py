"""The examples of training in several processes print the norms that one process has, which has everything itself."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from effort import only_long
from watching import SOURCE, python

ROOT = Path(__file__).parents[2]
LAUNCHER = str(ROOT / "tests" / "launched.py")
SYMBOLS = 32


def next_of(symbols):
    return (5 * symbols + 3) % SYMBOLS


def trained(parameters, loss_of, size, rate, limit):
    """The loss and the norm of each of ten steps, in float64, by the textbook."""
    velocity, found = [torch.zeros_like(p) for p in parameters], []
    for _ in range(10):
        loss = loss_of(torch.randint(SYMBOLS, size))
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in gradients]).square().sum().sqrt().item()
        found.append((loss.item(), norm))
        with torch.no_grad():
            for p, v, g in zip(parameters, velocity, gradients, strict=True):
                v.mul_(0.9).add_(g * min(1.0, limit / norm))
                p.sub_(rate * v)
    assert found[0][1] > limit > 0  # there is something to clip
    return found


def in_layers(names):
    model = names["make_model"]().double()
    return trained(
        list(model.parameters()), lambda symbols: cross_entropy(model(symbols), next_of(symbols)), (256,), 0.5, 0.5
    )


def with_its_loss(names):
    model = names["Model"]().double()
    return trained(list(model.parameters()), model, (32, 8), 0.1, 1.0)


def with_all_experts(names):
    models = [names["Model"](rank, 2).double() for rank in (1, 0)]  # the numbers drawn next are those of any of them
    model, experts = models[-1], [other.experts for other in reversed(models)]

    def loss_of(symbols):
        x = model.embedding(symbols)
        share, expert = model.router(x).softmax(1).max(1)
        answers = torch.stack([each(x) for each in experts])[expert, torch.arange(len(symbols))]
        return cross_entropy(model.head(x + share[:, None] * answers), next_of(symbols))

    return trained([*model.parameters(), *models[0].experts.parameters()], loss_of, (256,), 0.3, 0.5)


TRUTH = {
    "fsdp2": in_layers,
    "pipeline": in_layers,
    "fsdp2_tensor_parallel": with_its_loss,
    "experts": with_all_experts,
}


def printed(script):
    """The loss and the norm of each step as the script prints them, in as many processes as it says itself."""
    line = re.search(rf"torchrun --nproc-per-node=(\d) examples/{script.name}\n", script.read_text())
    done = python(LAUNCHER, line.group(1), str(script), folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    lines = [re.fullmatch(r"step (\d)  loss ([\d.]+)  norm ([\d.]+)", line) for line in done.stdout.splitlines()]
    assert [int(line.group(1)) for line in lines] == list(range(10)), done.stdout
    return [(float(line.group(2)), float(line.group(3))) for line in lines]


def check(script):
    """What the script prints is what one process has."""
    torch.manual_seed(0)
    expected = TRUTH[script.stem](runpy.run_path(str(ROOT / "examples" / script.name)))
    for (loss, norm), (true_loss, true_norm) in zip(printed(script), expected, strict=True):
        assert norm == pytest.approx(true_norm, rel=1e-5)
        assert loss == pytest.approx(true_loss, abs=1e-4)


@only_long
def test_torchrun_runs_an_example_as_it_says():
    """The other tests call it by forks of one Python, which takes a tenth of the time."""
    command = re.search(r"torchrun (.*)\n", (ROOT / "examples" / "fsdp2.py").read_text()).group(1)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *command.split()], cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert len(done.stdout.splitlines()) == 10


@pytest.mark.parametrize("name", TRUTH)
def test_an_example_prints_the_norms_that_one_process_has(name):
    check(ROOT / "examples" / f"{name}.py")


LOCAL = """
from gradclip.engines import torch_sharded
torch_sharded.reduced = lambda lots, routes, sets, flags: ([lot.as_one() for lot in lots], flags)
"""
COPIES = """
from gradclip.engines.torch_placement import Placed
Placed.counts = True
"""
UNWRITTEN = """
from gradclip.engines.torch_sharded import ShardedEngine
ShardedEngine.apply_ = lambda *arguments: None
"""
EACH_COUNTS = """
from gradclip.engines.torch_route import Lot
Lot.from_one = lambda self, counted: self
"""
PLANTED = {
    "each process has a norm of its own": ("fsdp2", "\nimport gradclip\n", f"\nimport gradclip\n{LOCAL}"),
    "nothing is written": ("fsdp2", "\nimport gradclip\n", f"\nimport gradclip\n{UNWRITTEN}"),
    "each copy counts": ("fsdp2_tensor_parallel", "\nimport gradclip\n", f"\nimport gradclip\n{COPIES}"),
    "without pipeline=": ("pipeline", ", pipeline=dist.group.WORLD", ""),
    "without groups=": ("experts", ', groups={"experts.*": dist.group.WORLD}', ""),
    "what all have alike counts for each": ("experts", "\nimport gradclip\n", f"\nimport gradclip\n{EACH_COUNTS}"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_with_a_planted_bug_the_norms_are_others(what, tmp_path):
    name, before, after = PLANTED[what]
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert text.count(before) == 1
    script = tmp_path / f"{name}.py"
    script.write_text(text.replace(before, after))
    with pytest.raises(AssertionError, match="comparison failed"):
        check(script)
