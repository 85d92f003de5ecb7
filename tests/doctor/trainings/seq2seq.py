"""An encoder and a decoder of GRUs that learn to turn sequences round, with an optimizer each."""

import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
TOKENS, LENGTH, BATCH, WIDTH, STEPS = 10, 6, 16, 32, 80
RATE = {"high_rate": 30.0}.get(variant, 0.3)
LIMIT = {"tiny": 0.001, "huge": 1000.0, "high_rate": 0.5}.get(variant, 0.25)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(TOKENS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, tokens):
        return self.gru(self.embedding(tokens))[1]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(TOKENS + 1, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens, hidden):
        return self.out(self.gru(self.embedding(tokens), hidden)[0])


encoder, decoder = Encoder(), Decoder()
encoder_optimizer = torch.optim.SGD(encoder.parameters(), lr=RATE, momentum=0.9)
decoder_optimizer = torch.optim.SGD(decoder.parameters(), lr=RATE, momentum=0.9)

for _ in range(STEPS):
    source = torch.randint(TOKENS, (BATCH, LENGTH))
    target = source.flip(1)
    shifted = torch.cat([torch.full((BATCH, 1), TOKENS), target[:, :-1]], dim=1)
    encoder_optimizer.zero_grad()
    decoder_optimizer.zero_grad()
    scores = decoder(shifted, encoder(source))
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), target.flatten())
    loss.backward()
    if variant in ("together", "high_rate"):
        nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], LIMIT)
    elif variant != "none":
        nn.utils.clip_grad_norm_(encoder.parameters(), LIMIT)  # planted: encoder_only encoder_twice
        if variant == "encoder_twice":
            nn.utils.clip_grad_norm_(encoder.parameters(), LIMIT)  # planted: encoder_twice
        elif variant != "encoder_only":
            nn.utils.clip_grad_norm_(decoder.parameters(), LIMIT)
    encoder_optimizer.step()
    decoder_optimizer.step()
