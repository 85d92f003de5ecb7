"""Events in a real fit of Lightning, through the module's own `log`."""

import csv
import logging
from functools import cache

import pytest
import torch

import gradclip
from gradclip.telemetry import Telemetry, memory
from gradclip.telemetry import lightning as sink_of
from gradclip.torch import attach
from later import Later, only_with

lightning, loggers = Later("lightning"), Later("lightning.pytorch.loggers")
RULE = gradclip.ClipGradByGlobalNorm(1.0)
STEPS = 25


@cache
def net_class():
    """The class of the nets that are trained, which is one of Lightning's."""

    class Net(lightning.LightningModule):
        """One layer, clipped by `attach`, whose events go to Lightning and to `seen`."""

        def __init__(self, every, **options):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(4, 1), memory()
            self.telemetry = Telemetry(sink_of(self, **options), self.seen, every=every)

        def training_step(self, batch, index):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            attach(optimizer, RULE, telemetry=self.telemetry)
            return optimizer

    return Net


def fitted(folder, every=1, **options):
    """The module and the trainer after a fit of 25 steps, and the rows that Lightning's logger wrote."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(STEPS, 4))
    net, logger = net_class()(every, **options), loggers.CSVLogger(folder)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=logger, log_every_n_steps=every, **quiet)
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=1))
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        return net, trainer, list(csv.DictReader(file))


def check_norms(net, rows, steps):
    found = [(int(row["step"]), float(row["grad_norm"])) for row in rows]
    # Lightning keeps numbers in float32, with 24 bits
    assert found == [(step, pytest.approx(net.seen[step].norm_before, rel=2**-23)) for step in steps]


pytestmark = [
    only_with("lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


def test_each_step_of_a_fit_has_its_norm(tmp_path):
    net, trainer, rows = fitted(tmp_path)
    check_norms(net, rows, range(STEPS))
    assert {"grad_norm_clipped", "clip/threshold", "clip/rate", "clip/skipped"} <= rows[0].keys()
    assert "grad_norm" in trainer.callback_metrics


def test_every_tenth_step_of_a_fit_has_its_norm_and_the_rest_is_read_after_it(tmp_path):
    net, _, rows = fitted(tmp_path, every=10)
    check_norms(net, rows, [9, 19])
    net.telemetry.close()
    assert [event.step for event in net.seen] == list(range(STEPS))


def test_names_can_be_left_out_and_options_are_those_of_log(tmp_path):
    _, trainer, rows = fitted(tmp_path, prefix="clipping/", without=["grad_norm"], prog_bar=True)
    assert "clipping/grad_norm" not in rows[0]
    assert "clipping/grad_norm_clipped" in trainer.progress_bar_metrics
