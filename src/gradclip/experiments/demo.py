"""`gradclip demo`: runs the experiments, says in one sentence what happened, and whether it was as described."""

from __future__ import annotations

import math
import platform
import statistics
import time
from dataclasses import dataclass
from itertools import product
from typing import Any

import gradclip
from gradclip.experiments.training import char_rnn, direction, exploding_net
from gradclip.experiments.training.char_rnn import BY_NORM, BY_VALUE, NOISE, SLOWLY, WITHOUT, CharRNNs, run_char_rnn
from gradclip.experiments.training.direction import DirectionExample
from gradclip.experiments.training.exploding_net import ExplodingNets
from gradclip.experiments.training.framework import Framework
from gradclip.experiments.training.loop import OnStep
from gradclip.experiments.training.training_run import TrainingRun

SCHEMA = "gradclip.demo/1"


class DemoObserver:
    """Who follows the demo; this one does nothing."""

    def begins(self, experiment: str, clipping: str, seed: int, steps: int) -> OnStep:
        """A run begins; gives the function that is called with each step."""
        return lambda step: None

    def ends(self, experiment: str, run: TrainingRun) -> None:
        """A run has ended."""


SILENT = DemoObserver()


@dataclass(frozen=True)
class Demo:
    """What the demo found, in the framework with this name and version."""

    framework: tuple[str, str]
    seed: int
    exploding: ExplodingNets
    language: CharRNNs
    direction: DirectionExample
    seconds: float

    @property
    def reasons(self) -> list[str]:
        """Why the demo did not end as described; empty where it did."""
        return self.exploding.shortfalls() + self.language.shortfalls() + self.direction.shortfalls()

    @property
    def sentence(self) -> str:
        """What happened, from the numbers."""
        return f"Without clipping, {_without(self)}; with it, {_with(self)}."

    @property
    def versions(self) -> dict[str, str]:
        """The versions on which the numbers depend."""
        name, version = self.framework
        return {"gradclip": gradclip.__version__, "python": platform.python_version(), name: version}

    def to_json(self, picture: str) -> dict[str, Any]:
        """One document with every number; the path of the picture is told by whoever saved it."""
        return {
            "schema": SCHEMA,
            "versions": self.versions,
            "seed": self.seed,
            "as_described": not self.reasons,
            "reasons": self.reasons,
            "sentence": self.sentence,
            "picture": picture,
            "seconds": round(self.seconds, 1),
            "seed_experiment": {
                "threshold": exploding_net.THRESHOLD,
                "runs": [run.to_json() for run in self.exploding.runs],
            },
            "char_rnn": {
                "text": char_rnn.TEXT_SOURCE,
                "characters": self.language.characters,
                "symbols": self.language.symbols,
                "unit": "bits per character",
                "noise": NOISE,
                "runs": [run.to_json() for run in self.language.runs],
            },
            "direction": {"gradient": direction.GRADIENT, "clipped": self.direction.clipped},
        }


def run_demo(framework: Framework, first_seed: int, observer: DemoObserver = SILENT) -> Demo:
    """All experiments, each on its seeds from `first_seed` on."""
    began = time.perf_counter()
    exploding = exploding_nets(framework, first_seed, observer)
    language = char_rnns(framework, first_seed, observer)
    example = direction.run_direction(framework)
    who = (framework.name, framework.version())
    return Demo(who, first_seed, exploding, language, example, time.perf_counter() - began)


def exploding_nets(
    framework: Framework, first_seed: int, observer: DemoObserver = SILENT, seeds: int = exploding_net.SEEDS
) -> ExplodingNets:
    """The seed experiment on each seed, without and with."""
    runs = []
    for seed, clipping in product(range(first_seed, first_seed + seeds), (exploding_net.WITHOUT, exploding_net.WITH)):
        on_step = observer.begins(exploding_net.TITLE, clipping, seed, exploding_net.STEPS)
        runs.append(exploding_net.run_exploding_net(framework, seed, clipping, on_step))
        observer.ends(exploding_net.TITLE, runs[-1])
    return ExplodingNets(tuple(runs))


def char_rnns(
    framework: Framework,
    first_seed: int,
    observer: DemoObserver = SILENT,
    seeds: int = char_rnn.SEEDS,
    steps: int = char_rnn.STEPS,
) -> CharRNNs:
    """The character RNN on each seed, by each setup."""
    runs = []
    for seed, setup in product(range(first_seed, first_seed + seeds), char_rnn.SETUPS):
        on_step = observer.begins(char_rnn.TITLE, setup.clipping, seed, steps)
        runs.append(run_char_rnn(framework, seed, setup, on_step, steps))
        observer.ends(char_rnn.TITLE, runs[-1])
    text = char_rnn.english()
    return CharRNNs(tuple(runs), text.characters, text.symbols)


def _without(demo: Demo) -> str:
    runs = demo.exploding.without
    broken = [run.broke_at for run in runs if run.broke_at is not None]
    nets = f"{len(broken)} of {len(runs)} nets of the seed experiment blew up"
    by_step = f" by step {max(broken)}" if broken else ""
    return f"{nets}{by_step} and the character RNN ended at {spread(demo.language.bits(WITHOUT))} bits per character"


def _with(demo: Demo) -> str:
    exploding, language = demo.exploding, demo.language
    nets = f"{len(exploding.arrived)} of {len(exploding.clipped)} nets trained"
    losses = f"loss {exploding.typical_start():.0f} to {exploding.typical_end():.2g}, medians"
    norm, value = language.bits(BY_NORM), language.bits(BY_VALUE)
    return f"{nets} ({losses}) and the RNN reached {spread(norm)} by norm and {spread(value)} by value{_caveats(demo)}"


def _caveats(demo: Demo) -> str:
    """What keeps the reader from believing too much."""
    norm, value = (statistics.mean(demo.language.bits(setup)) for setup in (BY_NORM, BY_VALUE))
    distance = f"{abs(norm - value):.2f} apart" + (", too close to rank them" if abs(norm - value) < NOISE else "")
    slowly = spread(demo.language.bits(SLOWLY))
    rates = f"at learning rate {char_rnn.SLOWER:g} instead of {char_rnn.LEARNING_RATE:g}"
    return f" ({distance}; {rates} it reached {slowly} without clipping)"


def spread(values: list[float]) -> str:
    """The smallest and the largest of several results, as a reader wants them."""
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) < len(values):
        return " to ".join([*(f"{value:.2f}" for value in finite[:1]), "NaN"])
    low, high = f"{finite[0]:.2f}", f"{finite[-1]:.2f}"
    return low if low == high else f"{low} to {high}"
