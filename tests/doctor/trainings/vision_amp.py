"""A small convolutional net tells three kinds of patterns apart, in bfloat16 and under a loss scale."""

import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
STEPS, BATCH = 60, 16
LIMIT = {"zero": 0.0, "huge": 1000.0}.get(variant, 0.4)
SCALE = 2.0**127 if variant == "overflowing" else 65536.0


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes of three directions under noise."""
    labels = torch.randint(3, (BATCH,))
    down, right = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    kinds = torch.stack([down, right, down + right])
    return (kinds[labels] * 1.5 + torch.rand(BATCH, 1, 1)).sin().unsqueeze(1) + 0.3 * torch.randn(
        BATCH, 1, 8, 8
    ), labels


model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
)  # fmt: skip
trained = list(model.parameters())
if variant == "frozen":
    for p in model[:4].parameters():
        p.requires_grad_(False)
    trained = [p for p in trained if p.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, nesterov=True)
scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=20)

for _ in range(STEPS):
    inputs, labels = pictures()
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(inputs), labels)
    if variant == "overflowing":
        loss = 4.0 * loss  # which is infinite with the scale of the start
    scaler.scale(loss).backward()
    if variant == "before_unscale":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_unscale
    elif variant == "scaled":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: scaled
    elif variant == "scaled_limit":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT * scaler.get_scale())
    if variant not in ("scaled", "scaled_limit"):
        scaler.unscale_(optimizer)
    if variant not in ("before_unscale", "scaled", "scaled_limit", "after_step", "none"):
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: zero
    if variant == "twice":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: twice
    scaler.step(optimizer)
    if variant == "after_step":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: after_step
    scaler.update()
