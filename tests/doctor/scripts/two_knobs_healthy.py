"""A Trainer of transformers, which clips by itself."""

import torch
from net import loss_of, net
from transformers import Trainer, TrainingArguments


class Regression(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs, labels):
        return {"loss": loss_of(self.net, (inputs, labels))}


class Training(Trainer):
    def training_step(self, model, *arguments):
        loss = super().training_step(model, *arguments)
        return loss


inputs = torch.randn(256, 8)
data = [{"inputs": one, "labels": 0.3 * one.sum().reshape(1)} for one in inputs]
options = TrainingArguments(
    output_dir="out", per_device_train_batch_size=8, max_steps=60, max_grad_norm=2.0, report_to=[], save_strategy="no"
)
Training(model=Regression(), args=options, train_dataset=data).train()
