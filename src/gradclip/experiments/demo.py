"""`gradclip demo`: runs the experiments, says in one sentence what happened, and whether it was as described."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import gradclip
from gradclip.experiments import char_rnn, direction, seed
from gradclip.experiments.char_rnn import BY_NORM, BY_VALUE, NOISE, SLOWLY, WITHOUT, CharExperiment, run_char_rnn
from gradclip.experiments.direction import DirectionExample
from gradclip.experiments.framework import Framework
from gradclip.experiments.run import Run
from gradclip.experiments.seed import SeedExperiment
from gradclip.experiments.training import Watch

SCHEMA = "gradclip.demo/1"


class Show(Protocol):
    """Whoever watches the demo: told of each run when it begins, at each step and when it ends."""

    def begins(self, experiment: str, clipping: str, seed: int, steps: int) -> Watch:
        """A run begins; gives the function that is told of each step."""

    def ends(self, experiment: str, run: Run) -> None:
        """A run has ended."""


class Silent:
    """Nobody watches."""

    def begins(self, experiment: str, clipping: str, seed: int, steps: int) -> Watch:
        """Each step is ignored."""
        return lambda step: None

    def ends(self, experiment: str, run: Run) -> None:
        """Nothing is said."""


@dataclass(frozen=True)
class Demo:
    """What the demo found, in the framework with this name and version."""

    framework: tuple[str, str]
    seed: int
    exploding: SeedExperiment
    language: CharExperiment
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
                "threshold": seed.THRESHOLD,
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


def run_demo(framework: Framework, first_seed: int, show: Show) -> Demo:
    """All experiments, each on its seeds from `first_seed` on."""
    began = time.perf_counter()
    exploding = seed_experiment(framework, first_seed, show)
    language = char_experiment(framework, first_seed, show)
    example = direction.run_direction(framework)
    who = (framework.name, framework.version())
    return Demo(who, first_seed, exploding, language, example, time.perf_counter() - began)


def seed_experiment(framework: Framework, first_seed: int, show: Show, seeds: int = seed.SEEDS) -> SeedExperiment:
    """The seed experiment on each seed, without and with."""
    runs = [
        _shown(show, seed.TITLE, clipping, number, seed.STEPS, partial(seed.run_seed, framework, number, clipping))
        for number in range(first_seed, first_seed + seeds)
        for clipping in (seed.WITHOUT, seed.WITH)
    ]
    return SeedExperiment(tuple(runs))


def char_experiment(
    framework: Framework, first_seed: int, show: Show, seeds: int = char_rnn.SEEDS, steps: int = char_rnn.STEPS
) -> CharExperiment:
    """The character RNN on each seed, by each trial."""
    runs = [
        _shown(
            show,
            char_rnn.TITLE,
            trial.clipping,
            number,
            steps,
            partial(run_char_rnn, framework, number, trial, steps=steps),
        )
        for number in range(first_seed, first_seed + seeds)
        for trial in char_rnn.TRIALS
    ]
    text = char_rnn.english()
    return CharExperiment(tuple(runs), text.characters, text.symbols)


def _shown(show: Show, experiment: str, clipping: str, seed: int, steps: int, train: Callable[[Watch], Run]) -> Run:
    run = train(show.begins(experiment, clipping, seed, steps))
    show.ends(experiment, run)
    return run


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
    norm, value = (statistics.mean(demo.language.bits(trial)) for trial in (BY_NORM, BY_VALUE))
    apart = f"{abs(norm - value):.2f} apart" + (", too close to rank them" if abs(norm - value) < NOISE else "")
    slowly = spread(demo.language.bits(SLOWLY))
    rates = f"at learning rate {char_rnn.SLOWER:g} instead of {char_rnn.LEARNING_RATE:g}"
    return f" ({apart}; {rates} it reached {slowly} without clipping)"


def spread(values: list[float]) -> str:
    """The smallest and the largest of several results, as a reader wants them."""
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) < len(values):
        return " to ".join([*(f"{value:.2f}" for value in finite[:1]), "NaN"])
    low, high = f"{finite[0]:.2f}", f"{finite[-1]:.2f}"
    return low if low == high else f"{low} to {high}"
