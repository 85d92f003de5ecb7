"""A generator of points on a ring and a discriminator, with two optimizers of one class."""

import sys

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as surprise

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
STEPS, BATCH = 100, 32
G = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
D = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
optimizer_g = torch.optim.RMSprop(G.parameters(), lr=0.002)
optimizer_d = torch.optim.RMSprop(D.parameters(), lr=0.002)
real, fake = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

for _ in range(STEPS):
    angle = 6.2832 * torch.rand(BATCH)
    points = torch.stack([angle.cos(), angle.sin()], dim=1)
    made = G(torch.randn(BATCH, 4))
    optimizer_d.zero_grad()
    if variant == "g_in_d_attached":
        loss_d = surprise(D(points), real) + surprise(D(made), fake)
        loss_d.backward(retain_graph=True)
        nn.utils.clip_grad_norm_(G.parameters(), 0.1)  # planted: g_in_d_attached
    else:
        loss_d = surprise(D(points), real) + surprise(D(made.detach()), fake)
        loss_d.backward()
    if variant == "g_in_d":
        nn.utils.clip_grad_norm_(G.parameters(), 0.1)  # planted: g_in_d
    elif variant not in ("g_only", "none", "g_in_d_attached"):
        nn.utils.clip_grad_norm_(D.parameters(), 0.1)  # planted: d_only
    optimizer_d.step()
    optimizer_g.zero_grad()
    loss_g = surprise(D(made), real) if variant != "g_in_d_attached" else surprise(D(G(torch.randn(BATCH, 4))), real)
    loss_g.backward()
    if variant not in ("d_only", "none"):
        nn.utils.clip_grad_norm_(G.parameters(), 0.1)  # planted: g_only
    if variant == "twice":
        nn.utils.clip_grad_norm_([*G.parameters(), *D.parameters()], 0.1)  # planted: twice
    optimizer_g.step()
    if variant == "g_after_step":
        nn.utils.clip_grad_norm_(G.parameters(), 0.1)  # planted: g_after_step
