"""A loop of accelerate over two batches a step, which clips through the accelerator."""

import sys

import torch
from accelerate import Accelerator
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
LIMIT = {"tiny": 0.001, "huge": 1000.0}.get(variant, 1.0)
inputs = torch.randn(480, 8)
outputs = inputs[:, :1] * inputs[:, 1:2] + 0.1 * torch.randn(480, 1)
data = torch.utils.data.TensorDataset(inputs, outputs)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)

for _ in range(2):
    for given, wanted in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(given), wanted)
            if variant == "before_backward":
                accelerator.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_backward
            accelerator.backward(loss)
            if variant == "micro_step":
                accelerator.clip_grad_norm_(model.parameters(), LIMIT)  # planted: micro_step
            elif variant == "by_value" and accelerator.sync_gradients:
                accelerator.clip_grad_value_(model.parameters(), 0.1)
            elif accelerator.sync_gradients and variant not in ("before_backward", "none", "after_step"):
                accelerator.clip_grad_norm_(model.parameters(), LIMIT)
            if variant == "twice" and accelerator.sync_gradients:
                nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: twice
            optimizer.step()
            if variant == "after_step" and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), LIMIT)  # planted: after_step
            schedule.step()
            optimizer.zero_grad()
