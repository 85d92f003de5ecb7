"""A variational autoencoder of small pictures of bars."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("variant", nargs="?", default="healthy")
parser.add_argument("--max-grad-norm", type=float, default=2.0)


class Bars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decode = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, pictures):
        mean, log_variance = self.encode(pictures).chunk(2, dim=1)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decode(code), mean, log_variance


def bars(many: int) -> torch.Tensor:
    """Pictures of 8 by 8 with one row and one column lit."""
    pictures = torch.zeros(many, 8, 8)
    pictures[torch.arange(many), torch.randint(8, (many,))] = 1.0
    pictures[torch.arange(many), :, torch.randint(8, (many,))] = 1.0
    return pictures.flatten(1)


def losses_of(model: Bars, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What of the pictures is missed, and how far the codes lie from the prior."""
    scores, mean, log_variance = model(pictures)
    missed = nn.functional.binary_cross_entropy_with_logits(scores, pictures, reduction="sum")
    apart = -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum()
    return missed / len(pictures), apart / len(pictures)


def train(variant: str, limit: float | None) -> None:
    model = Bars()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    once = model.parameters()
    for _ in range(3 if variant == "short" else 100):
        optimizer.zero_grad()
        missed, apart = losses_of(model, bars(32))
        if variant in ("two_losses", "between"):
            missed.backward(retain_graph=True)
            if variant == "between":
                nn.utils.clip_grad_norm_(model.parameters(), 2.0)  # planted: between
            apart.backward()
        else:
            (missed + apart).backward()
        if variant == "clamp":
            for p in model.parameters():
                p.grad.data.clamp_(-0.05, 0.05)
        elif variant == "own_scaling":
            norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
            for p in model.parameters():
                p.grad *= min(1.0, 0.5 / float(norm))
        elif variant == "exhausted":
            nn.utils.clip_grad_norm_(once, 2.0)  # planted: exhausted
        elif variant == "gradients":
            nn.utils.clip_grad_norm_([p.grad for p in model.parameters()], 2.0)  # planted: gradients
        elif variant == "decoder_only":
            nn.utils.clip_grad_norm_(model.decode.parameters(), 2.0)  # planted: decoder_only
        elif variant in ("healthy", "short", "two_losses"):
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options = parser.parse_args()
    if options.variant in ("healthy", "short", "two_losses", "forgotten"):
        train(options.variant, options.max_grad_norm)
    else:
        variant = options.variant
        del options
        train(variant, None)


main()
