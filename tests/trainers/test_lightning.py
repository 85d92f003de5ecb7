"""Lightning's Trainer with one line: it clips as a loop of one's own does, remembers, and logs."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

import gradclip
import gradclip.lightning
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.torch.late import LateClippers
from trainers import small
from trainers.lightning_fit import Regression, fit

MODES = ["manual", "manual-together", "accumulated", "bf16", "lbfgs"]


def data():
    return torch.utils.data.DataLoader(small.batches(), batch_size=4)


def trainer(*callbacks, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), accelerator="cpu", **{"max_epochs": 1, **quiet, **options})


def logged_in(folder):
    (path,) = folder.rglob("metrics.csv")
    return list(csv.DictReader(path.open()))


class Interrupted(Exception):
    """What a user does who stops a training."""


def interrupt():
    raise Interrupted


def test_a_fit_that_was_killed_and_resumed_ends_bit_for_bit_as_one_that_went_through(tmp_path):
    small.child("lightning_fit.py", tmp_path, "begin", killed=True)
    small.child("lightning_fit.py", tmp_path, "resume")
    fit(tmp_path, "through", "")
    alike("", tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_a_fit_that_was_interrupted_and_resumed_ends_as_one_that_went_through(mode, tmp_path):
    with pytest.raises(Interrupted):
        fit(tmp_path, "begin", mode, interrupt)
    fit(tmp_path, "resume", mode)
    fit(tmp_path, "through", mode)
    alike(mode, tmp_path)


def test_a_memory_that_is_not_taken_up_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(LateClippers, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError, match=r"net\.0"):
        test_a_fit_that_was_interrupted_and_resumed_ends_as_one_that_went_through("accumulated", tmp_path)


def alike(mode, tmp_path):
    through, resumed = (torch.load(tmp_path / f"{what}.pt", weights_only=True) for what in ("through", "resume"))
    for name, weight in through["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name
    assert through["memory"] == resumed["memory"]
    assert through["memory"]["clippers"].keys() == (
        {"0", "1"} if mode == "manual" else {"all"} if "-" in mode else {"0"}
    )
    last = [rows[-1] for rows in map(logged_in, (tmp_path / "through", tmp_path / "resume"))]
    lasting = [name for name in small.LOGGED if name != "clip/rate"]  # which is that of the last steps of one process
    names = [f"{number}/{name}" for number in "01" for name in lasting] if mode == "manual" else lasting
    assert {name: last[0][name] for name in names} == {name: last[1][name] for name in names}


def test_it_clips_as_a_loop_of_ones_own_does():
    module = Regression("")
    trainer(gradclip.lightning.Clip(small.RULE)).fit(module, data())
    net, clipper = small.model(), gradclip.torch.Clipper(small.RULE)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for x, y in data():
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        clipper.clip_(net)
        optimizer.step()
    assert clipper.step == 8
    assert all(map(torch.equal, net.parameters(), module.net.parameters()))


def test_the_log_has_the_norms_before_and_after_and_the_loss_is_that_of_the_whole_step(tmp_path):
    seen = []
    clip = gradclip.lightning.Clip(
        ClipGradByGlobalNorm(0.5), layers=2, telemetry=gradclip.telemetry.Telemetry(seen.append, tensors=True)
    )
    module, losses = Regression(""), []
    step = module.training_step

    def training_step(batch):
        loss = step(batch, 0)
        losses.append(loss.detach())
        return loss

    module.training_step = training_step
    trainer(clip, accumulate_grad_batches=2, log_every_n_steps=1).fit(module, data())
    assert [event.loss for event in seen] == pytest.approx(
        [float(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)], rel=1e-6
    )
    assert all(event.norm_after <= 0.5 * (1 + 1e-6) for event in seen)


def test_norm_and_rate_are_in_the_progress_bar_and_the_largest_layers_in_the_log():
    clip, made = (
        gradclip.lightning.Clip(ClipGradByGlobalNorm(0.5), layers=1),
        trainer(max_epochs=2, log_every_n_steps=4),
    )
    made.callbacks.append(clip)
    made.fit(Regression(""), data())
    assert {"grad_norm", "clip/rate"} <= made.progress_bar_metrics.keys()
    assert "grad_norm_clipped" not in made.progress_bar_metrics
    assert set(small.LOGGED) <= made.callback_metrics.keys()
    norms = {name: float(norm) for name, norm in made.callback_metrics.items() if name.startswith("grad_norm/")}
    assert len([norm for norm in norms.values() if not math.isnan(norm)]) == 1, "one that was the largest is NaN now"
    assert all(name.removeprefix("grad_norm/") in dict(Regression("").named_parameters()) for name in norms)


def test_a_training_can_be_stopped_where_the_norm_explodes():
    module = Regression("")
    stopping = EarlyStopping("grad_norm", divergence_threshold=100.0, check_on_train_epoch_end=True, patience=10**6)
    made = trainer(gradclip.lightning.Clip(ClipGradByGlobalNorm(0.5)), stopping, max_epochs=50)
    made.fit(module, data())
    assert made.current_epoch < 50


def test_the_memory_goes_on_in_a_second_fit_and_the_hooks_are_gone_in_between():
    clip, module = gradclip.lightning.Clip(small.RULE), Regression("")
    made = trainer(clip)
    made.fit(module, data())
    assert clip.last.step == 7
    assert not any(clipper.attached for clipper in clip.clippers.values())
    made.optimizers[0].step()
    assert clip.last.step == 7
    trainer(clip).fit(module, data())
    assert clip.last.step == 15


def test_optimizers_that_are_changed_in_the_middle_are_clipped():
    class Swaps(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, number):
            if number == 3:
                trainer.strategy.optimizers = [torch.optim.SGD(module.parameters(), 0.01)]

    clip, module = gradclip.lightning.Clip(small.RULE), Regression("")
    trainer(clip, Swaps()).fit(module, data())
    assert clip.last.step == 7
    assert type(clip.clippers["0"].optimizers[0]) is torch.optim.SGD


def test_a_callback_that_is_given_to_another_fit_in_the_middle_lets_no_step_go_unclipped():
    clip, inner = gradclip.lightning.Clip(small.RULE), []

    class Trains(Callback):
        def on_train_batch_end(self, outer, module, outputs, batch, number):
            if number == 3:
                inner.append(trainer(clip))
                inner[0].fit(Regression(""), data())

    with pytest.raises(RuntimeError, match="would not be clipped"):
        trainer(clip, Trains()).fit(Regression("manual"), data())


def test_another_model_begins_anew():
    sums, clip = [], gradclip.lightning.Clip(small.LEARNT)
    for _ in range(2):
        module = Regression("")
        trainer(clip).fit(module, data())
        sums.append([p.detach().clone() for p in module.parameters()])
    assert all(map(torch.equal, *sums))


def test_a_checkpoint_without_a_memory_is_told(tmp_path):
    made = trainer()
    made.fit(Regression(""), data())
    made.save_checkpoint(tmp_path / "without.ckpt")
    with pytest.warns(gradclip.GradclipWarning, match="begins anew"):
        trainer(gradclip.lightning.Clip(small.RULE), max_epochs=2).fit(
            Regression(""), data(), ckpt_path=tmp_path / "without.ckpt"
        )


def test_what_is_read_to_validate_is_not_the_memory_of_the_next_fit(tmp_path):
    made = trainer(gradclip.lightning.Clip(small.RULE))
    made.fit(Regression(""), data())
    made.save_checkpoint(tmp_path / "one.ckpt")
    clip = gradclip.lightning.Clip(small.RULE)
    module = Regression("")
    module.validation_step = lambda batch: None
    other = trainer(clip)
    other.validate(module, data(), ckpt_path=tmp_path / "one.ckpt")
    other.fit(Regression(""), data())
    assert clip.last.step == 7


def test_a_fit_that_fails_leaves_no_hooks():
    clip, module = gradclip.lightning.Clip(small.RULE), Regression("")
    made = trainer(clip)
    module.on_train_batch_end = lambda *arguments: 1 / 0
    with pytest.raises(ZeroDivisionError):
        made.fit(module, data())
    assert not made.optimizers[0]._optimizer_step_pre_hooks


def test_its_own_gradient_clip_val_beside_it_is_refused():
    with pytest.raises(ValueError, match=r"gradient_clip_val=1.0\) would clip first"):
        trainer(gradclip.lightning.Clip(small.RULE), gradient_clip_val=1.0).fit(Regression(""), data())


def test_a_checkpoint_of_another_rule_or_number_of_optimizers_is_refused(tmp_path):
    made = trainer(gradclip.lightning.Clip(small.RULE))
    made.fit(Regression(""), data())
    made.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match="this state belongs to the rule"):
        trainer(gradclip.lightning.Clip(ClipGradByNorm(1.0)), max_epochs=2).fit(
            Regression(""), data(), ckpt_path=tmp_path / "one.ckpt"
        )
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    clip = gradclip.lightning.Clip(small.RULE)
    clip.load_state_dict(saved["callbacks"]["Clip"])
    with pytest.raises(ValueError, match=r"optimizers \['0'\], and there are \['0', '1'\]"):
        trainer(clip).fit(Regression("manual"), data())


def test_a_skipped_step_is_logged_and_too_many_end_the_fit():
    module = Regression("")
    with torch.no_grad():
        module.net[0].weight.fill_(math.nan)
    clip = gradclip.lightning.Clip(small.RULE, on_nonfinite="skip", max_consecutive_skips=2)
    with pytest.raises(gradclip.TooManySkips):
        trainer(clip).fit(module, data())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rule": 1.0}, TypeError, "rule"),
        ({"layers": -1}, ValueError, "layers"),
        ({"together": "yes"}, TypeError, "together"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite"),
        ({"telemetry": print}, TypeError, "Telemetry"),
        ({"gradient_clip": 1.0}, TypeError, "gradient_clip"),
    ],
)
def test_a_wrong_argument_is_told_where_it_is_written(arguments, error, words):
    with pytest.raises(error, match=words):
        gradclip.lightning.Clip(**{"rule": small.RULE, **arguments})


def test_pytorch_lightning_takes_it_as_well():
    import pytorch_lightning

    class Same(pytorch_lightning.LightningModule):
        mode = ""
        training_step, configure_optimizers = Regression.training_step, Regression.configure_optimizers

        def __init__(self):
            super().__init__()
            self.net = small.model()

    clip = gradclip.lightning.Clip(small.RULE)
    pytorch_lightning.Trainer(
        max_epochs=1,
        callbacks=[clip],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    ).fit(Same(), data())
    assert clip.last.step == 7
