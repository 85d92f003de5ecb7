"""A training script that knows nothing of gradclip: a character model of the text of Python's own help.

Try: gradclip watch examples/char_lm.py
"""

import argparse
import pydoc_data.topics

import torch

TEXT = "\n".join(pydoc_data.topics.topics.values())[:200_000]
LENGTH = 64


class Model(torch.nn.Module):
    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(symbols, 32)
        self.rnn = torch.nn.RNN(32, width, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(width, symbols)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(text))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=2.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model is fastest on one
    symbols = sorted(set(TEXT))
    numbers = torch.tensor([symbols.index(symbol) for symbol in TEXT])
    model = Model(len(symbols), width=128)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr)
    for step in range(options.steps):
        starts = torch.randint(len(numbers) - LENGTH - 1, (16,))
        batch = torch.stack([numbers[start : start + LENGTH + 1] for start in starts])
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
