"""An actor and a critic that share one call: all parameters are clipped after each backward pass, as many do."""

import torch
from net import batches, loss_of, net

actor, critic = net(), net()
acting = torch.optim.Adam(actor.parameters(), lr=0.01)
judging = torch.optim.Adam(critic.parameters(), lr=0.01)
both = [*actor.parameters(), *critic.parameters()]
for batch in batches():
    acting.zero_grad()
    loss_of(actor, batch).backward()
    torch.nn.utils.clip_grad_norm_(both, 0.5)
    acting.step()
    judging.zero_grad()
    loss_of(critic, batch).backward()
    torch.nn.utils.clip_grad_norm_(both, 0.5)
    judging.step()
