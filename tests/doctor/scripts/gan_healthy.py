"""Two nets against each other, each with an optimizer and a norm of its own."""

import torch
from net import batches, net

maker, judge = torch.nn.Linear(4, 8), net()
making = torch.optim.Adam(maker.parameters(), lr=0.003)
judging = torch.optim.Adam(judge.parameters(), lr=0.003)
right = torch.nn.functional.binary_cross_entropy_with_logits
for inputs, _ in batches():
    fake = maker(torch.randn(16, 4))
    judging.zero_grad()
    loss = right(judge(inputs), torch.ones(16, 1)) + right(judge(fake.detach()), torch.zeros(16, 1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(judge.parameters(), 0.3)
    judging.step()
    making.zero_grad()
    right(judge(fake), torch.ones(16, 1)).backward()
    torch.nn.utils.clip_grad_norm_(maker.parameters(), 0.2)
    making.step()
