"""A classifier under the Trainer of Lightning, which clips by itself or by the module's own steps."""

import sys
import warnings

import lightning
import torch
from torch import nn

warnings.simplefilter("ignore")
variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def training_step(self, batch, number):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if variant == "before_backward":
            nn.utils.clip_grad_norm_(self.parameters(), 0.5)  # planted: before_backward
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class ByHandToo(Classifier):
    def on_before_optimizer_step(self, optimizer):
        nn.utils.clip_grad_norm_(self.parameters(), 0.3)  # planted: two_knobs


class Forgotten(Classifier):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        pass


class Manual(Classifier):
    """Makes its steps itself, for which the Trainer does not clip."""

    automatic_optimization = False

    def training_step(self, batch, number):
        optimizer = self.optimizers()
        loss = super().training_step(batch, number)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if variant == "manual":
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
        optimizer.step()
        if variant == "manual_after_step":
            self.clip_gradients(optimizer, gradient_clip_val=0.5)  # planted: manual_after_step


class Adversaries(lightning.LightningModule):
    """A generator and a discriminator, whose steps alternate."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
        self.discriminator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, number):
        one, other = self.optimizers()
        surprise = nn.functional.binary_cross_entropy_with_logits
        real, made = torch.ones(len(batch[0]), 1), self.generator(torch.randn(len(batch[0]), 4))
        self.toggle_optimizer(other)
        loss = surprise(self.discriminator(batch[0]), real)
        loss = loss + surprise(self.discriminator(made.detach()), 0.0 * real)
        other.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(other, gradient_clip_val=0.2)  # planted: one_adversary
        other.step()
        self.untoggle_optimizer(other)
        self.toggle_optimizer(one)
        one.zero_grad()
        self.manual_backward(surprise(self.discriminator(self.generator(torch.randn(len(batch[0]), 4))), real))
        if variant == "adversaries":
            self.clip_gradients(one, gradient_clip_val=0.2)
        one.step()
        self.untoggle_optimizer(one)

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=0.002) for part in (self.generator, self.discriminator)]


inputs = torch.randn(640, 8)
labels = inputs[:, :4].argmax(dim=1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=8, shuffle=True)
kinds = {
    "two_knobs": ByHandToo,
    "forgotten": Forgotten,
    "manual": Manual,
    "manual_after_step": Manual,
    "adversaries": Adversaries,
    "one_adversary": Adversaries,
}
by_trainer = variant in ("healthy", "by_value", "accumulated", "two_knobs", "forgotten")
trainer = lightning.Trainer(
    max_epochs=1, accelerator="cpu", gradient_clip_val=0.5 if by_trainer else None,
    gradient_clip_algorithm="value" if variant == "by_value" else None, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
    accumulate_grad_batches=2 if variant == "accumulated" else 1,
)  # fmt: skip
trainer.fit(kinds.get(variant, Classifier)(), loader)
