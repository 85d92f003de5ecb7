"""A small transformer that learns a language of 16 letters: accumulation, bfloat16, a loss scale and a cosine rate."""

import math
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
LETTERS, CONTEXT, WIDTH, HEADS, BATCH, ACCUMULATE = 16, 16, 32, 2, 8, 2
STEPS, WARMUP, PLANNED = {"short": 3}.get(variant, 60), 8, 400
RATE = {"high_rate": 1.0}.get(variant, 0.01)
LIMIT = {"tiny": 0.001, "huge": 1000.0}.get(variant, 0.5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.mix(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.hidden = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
        self.back = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.back(nn.functional.gelu(self.hidden(self.norm2(x))))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(LETTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, LETTERS, bias=False)

    def forward(self, letters):
        x = self.letter(letters) + self.place(torch.arange(letters.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


follows = torch.softmax(2.0 * torch.randn(LETTERS, LETTERS), dim=1)
text = [0]
for _ in range(3000):
    text.append(int(torch.multinomial(follows[text[-1]], 1)))
text = torch.tensor(text)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,))
    pieces = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
    return pieces[:, :-1], pieces[:, 1:]


def rate_at(step: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (step - WARMUP) / (PLANNED - WARMUP)))


model = Language()
matrices = [p for p in model.parameters() if p.dim() > 1]
vectors = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=RATE, betas=(0.9, 0.95)
)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_at)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=40)
parameters = matrices if variant == "group_left_out" else list(model.parameters())

for step in range(STEPS):
    for _ in range(ACCUMULATE):
        inputs, targets = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(inputs).view(-1, LETTERS), targets.reshape(-1)) / ACCUMULATE
        scaler.scale(loss).backward()
        if variant == "micro_step":
            torch.nn.utils.clip_grad_norm_(parameters, LIMIT * 1024.0)  # planted: micro_step
    if variant == "before_unscale":
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)  # planted: before_unscale
    if variant not in ("scaled", "none"):
        scaler.unscale_(optimizer)
    if variant == "scaled":
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)  # planted: scaled
    elif variant not in ("before_unscale", "micro_step", "after_step", "none"):
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)  # planted: group_left_out
    scaler.step(optimizer)  # planted: not_zeroed
    if variant == "after_step":
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)  # planted: after_step
    scaler.update()
    schedule.step()
    if variant != "not_zeroed":
        optimizer.zero_grad(set_to_none=True)
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item() * ACCUMULATE:.3f}")
