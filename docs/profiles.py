"""Profiles: what each method does to the same streams of gradient norms.

A stream is a list of norms, one a step. A method is run over it by the real clipper on gradients of those norms, and
its profile is the threshold and the norm of what comes out, step by step. The gradients have one element each, for
which all norms are the same: a profile shows how a threshold behaves and how it is answered, not what is measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from gradclip.clipper import Clipper
from gradclip.engines.reference import ReferenceEngine
from gradclip.errors import GradclipWarning
from gradclip.rules.catalogue import EXAMPLES, Method, methods, state_of
from gradclip.rules.combine import WeightRatio
from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.threshold import SecondMoment
from gradclip.step.gradients import Gradients

STEPS = 400
STEADY = 800
"""The length of a stream on which something happens, and of one on which nothing does."""
EVENT = 200
"""The step at which it happens; what a profile is summed up over begins here, after every warm-up."""
FIRST_DRAWN = EVENT - 60
LEVEL = 0.5
"""The mean norm of an ordinary step. A fixed threshold, and one relative to the weights, is 1."""
SPIKE = 50.0
SPIKES = (EVENT, EVENT + 40, EVENT + 43, EVENT + 120)
BURST = range(EVENT, EVENT + 10)
"""The norm of a bad step in ordinary ones, and where bad steps stand."""
ENOUGH = 0.9
SOON, LONGEST = 100, 2500
"""A new level is taken up when an output is `ENOUGH` of what would be usual there; that is looked for so long."""
QUIET, NOISY = 0.1, 0.7
"""The standard deviation of the norms over their mean."""
DECAY = 0.999
"""Of the second moment."""

EVERY = 20
DIGITS = 4
"""A record holds every twentieth step beside those at which something happens, and four digits of a number."""

Values = np.ndarray[Any, np.dtype[Any]]
ENGINE = ReferenceEngine()


class Profile(NamedTuple):
    """What a method did to a stream of norms [n]: its threshold [n] and the norm of what came out [n].

    A step that was skipped has an output of 0, and one without a threshold that of infinity.
    """

    norms: Values
    thresholds: Values
    outputs: Values

    @property
    def clipped(self) -> Values:
        """For each finite step from `EVENT` on whether less came out than went in."""
        norms, outputs = self._late
        return outputs < norms * (1.0 - 1e-9)

    @property
    def clip_rate(self) -> float:
        """The share of the steps that are clipped or skipped."""
        return float(np.mean(self.clipped))

    @property
    def kept(self) -> float:
        """The mean norm that comes out, over the mean norm that went in."""
        norms, outputs = self._late
        return float(np.sum(outputs) / np.sum(norms))

    @property
    def _late(self) -> tuple[Values, Values]:
        late = np.isfinite(self.norms) & (np.arange(len(self.norms)) >= EVENT)
        return self.norms[late], self.outputs[late]


class Traits(NamedTuple):
    """A method in a few numbers.

    `reach_2` and `reach_10` are the steps until a lasting change of the level by this factor is taken up, None where
    that takes more than `LONGEST`; `burst` is the largest norm that comes out of ten bad steps, in ordinary ones.
    """

    clip_rate_quiet: float
    kept_quiet: float
    clip_rate_noisy: float
    kept_noisy: float
    reach_2: int | None
    reach_10: int | None
    burst: float


def lognormal(variation: float, steps: int = STEPS, seed: int = 0) -> Values:
    """Norms of mean `LEVEL` with this coefficient of variation."""
    spread = math.sqrt(math.log1p(variation**2))
    random = np.random.default_rng(seed)
    return LEVEL * np.exp(spread * random.standard_normal(steps) - spread**2 / 2)


def streams() -> dict[str, Values]:
    """The streams by name; all but the noisy one have the noise of the quiet one."""
    quiet = lognormal(QUIET)
    return {
        "quiet": lognormal(QUIET, STEADY),
        "noisy": lognormal(NOISY, STEADY),
        "twice the level": shifted(quiet, 2.0),
        "ten times the level": shifted(quiet, 10.0),
        "spikes": spiked(quiet, SPIKES),
        "a burst of ten": spiked(quiet, BURST),
        "zeros, NaN, infinity": replaced(
            quiet, {**dict.fromkeys(BURST, 0.0), SPIKES[1]: math.nan, SPIKES[-1]: math.inf}
        ),
    }


def shifted(norms: Values, factor: float) -> Values:
    """`norms` with another level from `EVENT` on."""
    return np.where(np.arange(len(norms)) >= EVENT, factor * norms, norms)


def spiked(norms: Values, steps: Iterable[int]) -> Values:
    """`norms` with bad steps."""
    return replaced(norms, {step: SPIKE * norms[step] for step in steps})


def replaced(norms: Values, steps: Mapping[int, float]) -> Values:
    """`norms` with other values at some steps."""
    norms = norms.copy()
    norms[list(steps)] = list(steps.values())
    return norms


def shown_rule(method: Method) -> AnyRule:
    """A method with its defaults, but without the fixed threshold that stands beside one that adapts."""
    alone = {"max_norm": None} if "max_norm" in method.defaults else {}
    return method.function(**EXAMPLES.get(method.name, {}), **alone)


def profile(rule: AnyRule, norms: Values) -> Profile:
    """Run `rule` over gradients of these norms."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", GradclipWarning)  # of a NaN
        thresholds, outputs = np.array(list(steps_of(rule, norms))).T
    return Profile(norms, thresholds, outputs)


def steps_of(rule: AnyRule, norms: Values) -> Iterator[tuple[float, float]]:
    """For each step the threshold and what comes out; weights are such that a threshold relative to them is 1.

    Where the rule reads the second moment of an optimizer, that is Adam's of what came out.
    """
    clipper, weights, moment = Clipper(rule), [np.array([weight_for(rule)])], np.zeros(1)
    for norm in norms:
        gradient, unit = np.array([norm]), unit_of(rule, moment)
        given = Gradients([gradient], str, [0], weights=lambda: weights, moments=partial(list, [moment]))
        result = clipper.clip_gradients(given, ENGINE)
        output = 0.0 if result.skipped else gradient.item()
        yield result.segments[-1].threshold * unit, output
        if math.isfinite(output):
            moment = DECAY * moment + (1.0 - DECAY) * output**2


def unit_of(rule: AnyRule, moment: Values) -> float:
    """What the thresholds of `rule` are in the unit of."""
    factors = [stage.threshold.factor for stage in rules_in(rule) if isinstance(stage.threshold, SecondMoment)]
    return math.sqrt(factors[0] * moment.item()) if factors and moment.item() > 0 else 1.0


def weight_for(rule: AnyRule) -> float:
    """The norm of weights of which the threshold of `rule` is 1; any if it does not read them."""
    relative = [stage.threshold.ratio for stage in rules_in(rule) if isinstance(stage.threshold, WeightRatio)]
    return next((1.0 / ratio for ratio in relative if isinstance(ratio, float)), 1.0)


def profiles() -> dict[str, dict[str, Profile]]:
    """The profile of every method of the catalogue on every stream."""
    return {name: on_every_stream(method) for name, method in methods().items()}


def on_every_stream(method: Method) -> dict[str, Profile]:
    """The profile of a method on every stream."""
    return {stream: profile(shown_rule(method), norms) for stream, norms in streams().items()}


def reach(rule: AnyRule, factor: float) -> int | None:
    """The steps until a lasting change of the level by `factor` is taken up; None after `LONGEST` in vain.

    What would be usual at the new level is `factor` times the mean output of the steps before. A rule that remembers no
    norms takes it up soon or never.
    """
    longest = LONGEST if any(map(state_of, rules_in(rule))) else SOON
    before: list[float] = []
    for step, (_, output) in enumerate(steps_of(rule, shifted(lognormal(QUIET, EVENT + longest), factor))):
        if step < EVENT:
            before.append(output)
        elif output >= ENOUGH * factor * mean(before[EVENT // 2 :]):
            return step - EVENT
    return None


def burst(rule: AnyRule, length: int) -> float:
    """The largest norm that comes out of so many bad steps in a row, in ordinary ones."""
    found = profile(rule, spiked(lognormal(QUIET), range(EVENT, EVENT + length)))
    return float(found.outputs[EVENT : EVENT + length].max() / LEVEL)


def traits(rule: AnyRule, profiles_of: Mapping[str, Profile]) -> Traits:
    """A method in a few numbers; `profiles_of` are its profiles."""
    quiet, noisy = profiles_of["quiet"], profiles_of["noisy"]
    leak = float(profiles_of["a burst of ten"].outputs[list(BURST)].max() / LEVEL)
    rates = (quiet.clip_rate, quiet.kept, noisy.clip_rate, noisy.kept)
    return Traits(*rates, reach(rule, 2.0), reach(rule, 10.0), leak)


def record(found: Mapping[str, Mapping[str, Profile]]) -> dict[str, Any]:
    """All streams, profiles and traits as plain data for JSON; `None` is a number that is not finite."""
    return {
        "streams": stream_records(),
        "methods": {name: method_record(method, found[name]) for name, method in methods().items()},
    }


def stream_records() -> dict[str, Any]:
    """The streams as plain data."""
    return {
        name: {"steps": (steps := noted_steps(norms)), "norm": rounded(norms[steps])}
        for name, norms in streams().items()
    }


def method_record(method: Method, profiles_of: Mapping[str, Profile]) -> dict[str, Any]:
    """One method as plain data."""
    rule, steps = shown_rule(method), {name: noted_steps(profiled.norms) for name, profiled in profiles_of.items()}
    series = {
        name: {
            "clip rate": round(profiled.clip_rate, DIGITS),
            "kept": round(profiled.kept, DIGITS),
            "threshold": rounded(profiled.thresholds[steps[name]]),
            "output": rounded(profiled.outputs[steps[name]]),
        }
        for name, profiled in profiles_of.items()
    }
    numbers = traits(rule, profiles_of)._asdict()
    return {"rule": repr(rule), "traits": dict(zip(numbers, rounded(numbers.values()), strict=True)), "streams": series}


def noted_steps(norms: Values) -> list[int]:
    """Every `EVERY`th step, those around the event, and each bad one with the two after it."""
    bad = {step + ahead for step in SPIKES for ahead in (0, 1, 2)}
    return sorted({*range(0, len(norms), EVERY), *range(EVENT - 1, BURST.stop + 2), *bad})


def rounded(values: Iterable[Any]) -> list[float | int | None]:
    """Numbers with `DIGITS` digits, None for those that are not finite."""
    return [_rounded(value) for value in values]


def _rounded(value: Any) -> float | int | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
