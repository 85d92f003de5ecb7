"""An actor and a critic, whose update clips the actor once more instead of the critic."""

import torch
from net import batches, loss_of, net

actor, critic = net(), net()
acting = torch.optim.Adam(actor.parameters(), lr=0.01)
judging = torch.optim.Adam(critic.parameters(), lr=0.01)
for batch in batches():
    acting.zero_grad()
    loss_of(actor, batch).backward()
    torch.nn.utils.clip_grad_norm_(actor.parameters(), 0.5)
    acting.step()
    judging.zero_grad()
    loss_of(critic, batch).backward()
    torch.nn.utils.clip_grad_norm_(actor.parameters(), 0.5)  # sick
    judging.step()
