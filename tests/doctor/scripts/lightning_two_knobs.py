"""A Trainer of Lightning, which clips by itself, over two batches a step."""

import warnings

import lightning
import torch
from net import batches, loss_of, net

warnings.simplefilter("ignore")


class Regression(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def training_step(self, batch, number):
        return loss_of(self.net, batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def on_after_backward(self):
        torch.nn.utils.clip_grad_norm_(self.parameters(), 5.0)  # sick


trainer = lightning.Trainer(
    max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=2.0, accelerator="cpu", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Regression(), torch.utils.data.DataLoader(list(batches(240)), batch_size=None))
