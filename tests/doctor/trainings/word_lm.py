"""An LSTM that learns which word comes next, in pieces of one long text, and updates its parameters by hand."""

import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
WORDS, COLUMNS, PIECE, STEPS = 20, 8, 12, {"short": 3}.get(variant, 100)
RATE = {"high_rate": 500.0}.get(variant, 5.0)
LIMIT = {"tiny": 0.001, "huge": 1000.0, "zero": 0.0}.get(variant, 0.25)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.lstm, self.decoder = nn.Embedding(WORDS, 24), nn.LSTM(24, 24), nn.Linear(24, WORDS)

    def forward(self, words, hidden):
        out, hidden = self.lstm(self.encoder(words), hidden)
        return self.decoder(out).flatten(0, 1), hidden


text = (torch.arange(STEPS * PIECE + 1).unsqueeze(1) * torch.arange(1, COLUMNS + 1)) % WORDS
text = torch.where(torch.rand(text.shape) < 0.1, torch.randint(WORDS, text.shape), text)
model = Words()
once = model.parameters()
hidden = (torch.zeros(1, COLUMNS, 24), torch.zeros(1, COLUMNS, 24))


def update() -> None:
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-RATE)


for start in range(0, STEPS * PIECE, PIECE):
    words, following = text[start : start + PIECE], text[start + 1 : start + PIECE + 1].flatten()
    if variant != "not_zeroed" and not (variant == "accumulated" and start % (2 * PIECE)):
        model.zero_grad()
    hidden = tuple(state.detach() for state in hidden)
    scores, hidden = model(words, hidden)
    loss = nn.functional.cross_entropy(scores, following)
    if variant == "before_backward":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_backward
    loss.backward()
    if variant == "accumulated" and start % (2 * PIECE) == 0:
        continue
    if variant == "after_update":
        update()
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: after_update
        continue
    if variant == "exhausted":
        nn.utils.clip_grad_norm_(once, LIMIT)  # planted: exhausted
    elif variant == "lstm_only":
        nn.utils.clip_grad_norm_(model.lstm.parameters(), LIMIT)  # planted: lstm_only
    elif variant not in ("before_backward", "none"):
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: zero not_zeroed
    if variant == "twice":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: twice
    update()
