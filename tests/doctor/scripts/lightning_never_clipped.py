"""A Trainer of Lightning that is told to clip, and a module that takes that over and does not."""

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

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        pass  # sick: self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


trainer = lightning.Trainer(
    max_epochs=1, gradient_clip_val=0.3, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Regression(), torch.utils.data.DataLoader(list(batches(60)), batch_size=None))
