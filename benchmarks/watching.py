"""`python -m benchmarks.watching`: what `gradclip watch` adds to a training step of small LSTMs.

Blocks of steps that are watched and of steps that are not take turns in one process, so what the machine does otherwise
meets both; processor time is counted, of one thread. Medians; `--out FOLDER` saves `watch.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gradclip.watch.start import FOLDER, wait_for_torch

BLOCKS = 24
NETS = {
    "64 wide, 16 x 32 characters": (64, 16, 32),
    "128 wide, 16 x 32 characters": (128, 16, 32),
    "256 wide, 32 x 64 characters": (256, 32, 64),
    "200 wide, 2 layers, 20 x 20 of 10,000 words": (200, 20, 20, 2, 10_000),
}
"""Width, batch, length, layers, symbols. The last is the small one of W. Zaremba, I. Sutskever, O. Vinyals 2014,
arXiv:1409.2329."""
GOAL = 1.05


def main() -> None:
    """Measure each net, print, and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save watch.md there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = str(Path(folder) / "run")
        wait_for_torch()
        rows = [row(name, *measure(training(*sizes))) for name, sizes in NETS.items()]
    print("\n".join(rows))
    if options.out:
        (options.out / "watch.md").write_text(page(rows), encoding="utf-8")


def training(width: int, batch: int, length: int, layers: int = 1, symbols: int = 50) -> Callable[[], None]:
    """One step of a language model that clips, as a function."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = min(width, 64) if layers == 1 else width
    embedding, lstm = torch.nn.Embedding(symbols, size), torch.nn.LSTM(size, width, layers, batch_first=True)
    head = torch.nn.Linear(width, symbols)
    model = torch.nn.ModuleList([embedding, lstm, head])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step() -> None:
        text = torch.randint(symbols, (batch, length + 1))
        optimizer.zero_grad()
        found = head(lstm(embedding(text[:, :-1]))[0]).flatten(0, 1)
        torch.nn.functional.cross_entropy(found, text[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


def measure(step: Callable[[], None]) -> tuple[float, float]:
    """The processor seconds of a step that is watched, and of one that is not: medians over blocks of steps.

    A block has as many steps as are written together, so that the writing is counted.
    """
    from gradclip.watch.patches import _recorders
    from gradclip.watch.run_writer import MOST

    recorder = _recorders[0]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(BLOCKS):
        off = number % 2
        recorder.failed, _recorders[:] = bool(off), [] if off else [recorder]
        start = time.process_time()
        for _ in range(MOST):
            step()
        seconds[off].append((time.process_time() - start) / MOST)
    _recorders[:] = [recorder]
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def row(name: str, watched: float, plain: float) -> str:
    """A line of the table."""
    return f"| {name} | {plain * 1e3:.2f} | {watched * 1e3:.2f} | {watched / plain:.3f} (≤ {GOAL}) |"


def page(rows: list[str]) -> str:
    """The page that is saved."""
    import torch

    head = [
        "# What `gradclip watch` adds to a step",
        "",
        "Made by `python -m benchmarks.watching --out docs/benchmarks`: language models with an LSTM, clipped by",
        f"`clip_grad_norm_`, {BLOCKS // 2} blocks of steps watched and as many not, in turns in one process, on one",
        "thread; what is written of them is counted. Where the watched steps are the faster ones it is noise; the",
        "last one is the small LSTM of W. Zaremba, I. Sutskever, O. Vinyals 2014, arXiv:1409.2329.",
        "",
        f"- date: {datetime.datetime.now(tz=datetime.UTC).date()}",
        f"- system: {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        f"- torch: {torch.__version__}",
        "",
        "| LSTM | ms of a step | ms, watched | ratio (goal) |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    main()
