"""The loss of each step is recorded: what backward passes made the gradient of, that the optimizer got."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from gradclip.telemetry import read_run
from gradclip.watch.backward_pass import losses_in
from gradclip.watch.journal import Backward, Loss, Scaled, Unscaled, Zeroed, examine
from gradclip.watch.step_events import loss_of
from watching import SCRIPTS, watch

MINE, OTHERS = frozenset({1}), frozenset({2})
OPTIMIZER = 7
TOLD = """
import atexit, json
LOSSES = []
atexit.register(lambda: print("losses", json.dumps(LOSSES)))
def told(loss):
    LOSSES.append(loss.item())
    return loss
"""


def watched_losses(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """The losses that the script computes, in their order, and those of its run."""
    source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    told = source.replace("loss_of(model, batch)", "told(loss_of(model, batch))")
    (folder / "script.py").write_text(TOLD + told, encoding="utf-8")
    shutil.copy(SCRIPTS / "net.py", folder)
    answer = watch("--out", "run", "script.py", folder=folder)
    (line,) = (line for line in answer.stdout.split("\n") if line.startswith("losses"))
    return json.loads(line.removeprefix("losses")), [event.loss for event in read_run(folder / "run")]


@pytest.mark.parametrize("name", ["after_step_healthy", "before_unscale_healthy", "attached_healthy"])
def test_the_loss_of_a_step_is_recorded(name: str, tmp_path: Path) -> None:
    computed, recorded = watched_losses(name, tmp_path)
    assert recorded == computed  # a loss scale is a power of two, and takes no bit away
    assert len(recorded) == 60


def test_the_losses_of_an_accumulated_step_add_up_as_their_gradients_do(tmp_path: Path) -> None:
    computed, recorded = watched_losses("micro_step_healthy", tmp_path)
    sums = [sum(computed[start : start + 4]) / 4 for start in range(0, 240, 4)]
    assert recorded == pytest.approx(sums, rel=1e-6)  # each quarter is rounded to float32


def test_of_a_closure_that_is_evaluated_again_the_first_loss_counts(tmp_path: Path) -> None:
    computed, recorded = watched_losses("closure_healthy", tmp_path)
    assert recorded[0] == computed[0]
    assert len(computed) > len(recorded) == 60
    assert set(recorded) <= set(computed)


def losses(*entries) -> float | None:
    return loss_of(examine(entries, OPTIMIZER, MINE).losses)


def test_losses_whose_gradients_were_given_up_do_not_count() -> None:
    assert losses(Backward((5.0,)), Zeroed(MINE), Backward((2.0,)), Zeroed(OTHERS)) == 2.0


def test_each_loss_has_the_scale_that_was_on_it() -> None:
    entries = Scaled(8.0), Backward((16.0,)), Backward((1.0, 0.5)), Scaled(torch.tensor(4.0)), Backward((4.0,))
    assert losses(*entries, Unscaled(OPTIMIZER)) == 2.0 + 1.5 + 1.0


def test_a_loss_whose_gradient_went_elsewhere_does_not_count() -> None:
    assert losses(Backward((5.0,), missed={OPTIMIZER}), Backward((2.0,), missed={99})) == 2.0
    assert losses(Backward((5.0,), missed={OPTIMIZER})) is None


def test_gradients_that_were_taken_away_by_hand_were_given_up() -> None:
    assert losses(Backward((5.0,)), Backward((2.0,), fresh=[OPTIMIZER])) == 2.0


def test_losses_that_were_scaled_together_are_both_unscaled() -> None:
    assert losses(Scaled(8.0, 2), Backward((16.0,)), Backward((8.0,)), Backward((1.0,))) == 2.0 + 1.0 + 1.0


TWO = """
import torch
from net import batches, loss_of, net
nets = [net(), net()]
optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in nets]
told = [[], []]
for number, batch in enumerate(batches(20)):
    for model, optimizer, losses in zip(nets, optimizers, told):
        loss = (1 + len(losses)) * loss_of(model, batch)
        losses.append(loss.item())
        loss.backward(torch.tensor(0.5))
        optimizer.step()
        optimizer.zero_grad()
print("losses", told)
"""


def test_each_of_two_nets_has_its_own_losses(tmp_path: Path) -> None:
    """`zero_grad` after the step: between two steps of one net lies the backward pass of the other."""
    (tmp_path / "script.py").write_text(TWO, encoding="utf-8")
    shutil.copy(SCRIPTS / "net.py", tmp_path)
    answer = watch("--out", "run", "script.py", folder=tmp_path)
    (line,) = (line for line in answer.stdout.split("\n") if line.startswith("losses"))
    for folder, told in zip((tmp_path / "run", tmp_path / "run" / "run-2"), json.loads(line[7:]), strict=True):
        recorded = [event.loss for event in read_run(folder)]
        # nobody knew the second net at its first step, before which the first had one
        assert recorded[1:] == [loss / 2 for loss in told[1:]]


SHARED = """
import torch
from net import batches, loss_of, net
model = net()
optimizers = [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (model[0], model[2])]
for batch in batches(20):
    loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
"""


def test_two_optimizers_of_one_loss_have_it_and_its_clip_from_the_first_step_on(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHARED, encoding="utf-8")
    shutil.copy(SCRIPTS / "net.py", tmp_path)
    watch("--out", "run", "script.py", folder=tmp_path)
    first, second = read_run(tmp_path / "run"), read_run(tmp_path / "run" / "run-2")
    assert len(first) == len(second) == 20
    assert [event.loss for event in first] == [event.loss for event in second]
    assert None not in [event.loss for event in second]
    assert all(event.clipped for event in second)


def test_losses_that_are_infinite_add_up_without_an_error() -> None:
    assert math.isnan(losses(Backward((math.inf, -math.inf))))
    assert losses(Backward((1e308, 1e308))) == math.inf


def test_a_step_without_a_loss_has_none() -> None:
    assert losses() is losses(Backward()) is None
    assert loss_of([Loss(float("nan"))]) != loss_of([])


def test_a_loss_has_the_factor_that_backward_was_given() -> None:
    loss = torch.ones(1) * 3.0
    assert losses_in(loss, torch.tensor([0.5])) == (1.5,)
    assert losses_in([loss, loss], [None, torch.tensor(2.0)]) == (3.0, 6.0)


def test_a_loss_is_a_tensor_of_one_element() -> None:
    loss = torch.ones(1, 1, requires_grad=True) * 3.0
    assert losses_in(loss) == losses_in([loss, torch.ones(2)]) == (3.0,)
    assert losses_in([torch.ones(2), torch.ones(0)]) == ()
