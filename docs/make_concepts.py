"""Draws the pictures of the pages in `docs/concepts`, by gradclip itself.

python docs/make_concepts.py            write docs/concepts/*.png
python docs/make_concepts.py --check    exit with 1 if a picture of a page is not drawn here
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gradclip
from gradclip import EMA, History, Normalize, Ratio, Rescale, Response, Rule, Schedule, Smooth, Zero
from gradclip.experiments.showing.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    light_frame,
    logarithmic,
    save_small,
)
from gradclip.rules.rule import AnyRule
from gradclip.telemetry import Event
from gradclip.torch import Clipper

FOLDER = Path(__file__).with_name("concepts")
GREY = "#C4C4C4"
DPI = 110
WIDE = (9.0, 3.4)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels beside each other."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for each in axes:
        light_frame(each)
    return figure, axes


def clipped(rule: AnyRule, *tensors: Sequence[float]) -> list[torch.Tensor]:
    """The tensors as the rule leaves them."""
    parameters = [torch.nn.Parameter(torch.zeros(len(values))) for values in tensors]
    for parameter, values in zip(parameters, tensors, strict=True):
        parameter.grad = torch.tensor(values)
    Clipper(rule).clip_(parameters)
    return [parameter.grad for parameter in parameters]


def responses() -> Figure:
    """What norm comes out, over the norm that goes in, both in thresholds."""
    drawn: list[tuple[str, Response, str, str]] = [
        ("Rescale()", Rescale(), BLUE, "-"),
        ('Smooth("sqrt")', Smooth("sqrt"), GREEN, "-"),
        ('Smooth("reciprocal")', Smooth(), PURPLE, "-"),
        ('Smooth("tanh")', Smooth("tanh"), BLACK, "-."),
        ("Normalize()", Normalize(), ORANGE, "--"),
        ("Zero()", Zero(), VERMILION, ":"),
    ]
    figure, (axes,) = panels(1)
    ins = np.linspace(0.02, 4.0, 200)
    axes.plot(ins, ins, color=GREY, label="no clipping")
    for name, response, colour, line in drawn:
        outs = [clipped(Rule(response=response), [float(x)])[0].norm().item() for x in ins]
        axes.plot(ins, outs, line, color=colour, label=name)
    axes.set(xlabel="norm before, in thresholds", ylabel="norm after, in thresholds", ylim=(-0.05, 2.0))
    axes.legend(loc="upper right", ncols=2)
    return figure


def scopes() -> Figure:
    """By value the direction turns, by norm it stays; and who decides for whom."""
    figure, (arrows, bars) = panels(2)
    gradient = [2.4, 0.6]
    for name, rule, colour in (
        ("before", gradclip.ClipGradByGlobalNorm(None), GREY),
        ("ClipGradByNorm(1)", gradclip.ClipGradByNorm(1.0), BLUE),
        ("ClipGradByValue(1)", gradclip.ClipGradByValue(1.0), VERMILION),
    ):
        x, y = clipped(rule, gradient)[0].tolist()
        arrows.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
        arrows.plot([], [], color=colour, lw=2, label=name)
    arrows.add_patch(_circle())
    arrows.plot([-0.2, 1, 1], [1, 1, -0.2], ":", color=VERMILION)
    arrows.set(xlim=(-0.2, 2.7), ylim=(-0.2, 1.5), aspect="equal", title="one tensor of two elements")
    arrows.legend(loc="upper right", fontsize=8)

    tensors = {"embedding": [3.0], "layer": [0.5], "head": [1.5]}
    for place, (name, rule, colour) in enumerate(
        (
            ("before", gradclip.ClipGradByGlobalNorm(None), GREY),
            ("Global: one factor", gradclip.ClipGradByGlobalNorm(1.0), BLUE),
            ("Tensor: each its own", gradclip.ClipGradByNorm(1.0), ORANGE),
        )
    ):
        norms = [gradient.norm().item() for gradient in clipped(rule, *tensors.values())]
        bars.bar(np.arange(3) + 0.27 * (place - 1), norms, 0.25, color=colour, label=name)
    bars.axhline(1.0, color=BLACK, linewidth=0.8, linestyle=":")
    bars.set(xticks=range(3), xticklabels=list(tensors), title="norms of three tensors, threshold 1")
    bars.legend(fontsize=8)
    return figure


def _circle() -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), 1.0, fill=False, linestyle=":", color=BLUE)


STEPS = 400


def norms_of_a_training() -> np.ndarray:
    """Norms that fall in the beginning, spike twice, and change their level for good."""
    dice = np.random.default_rng(0)
    steps = np.arange(STEPS)
    level = 1.0 + 4.0 * np.exp(-steps / 30) + 1.5 * (steps >= 280)
    norms = level * np.exp(0.2 * dice.standard_normal(STEPS))
    norms[[150, 220, 221, 222]] *= 12.0
    return norms


def thresholds_under(rule: AnyRule, norms: np.ndarray) -> list[float]:
    """The threshold of each step, as the clipper had it."""
    weight, clipper, found = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)), Clipper(rule), []
    for norm in norms:
        weight.grad = torch.tensor([norm], dtype=torch.float64)
        found.append(clipper.clip_([weight]).threshold)
    return [limit if math.isfinite(limit) else math.nan for limit in found]


def thresholds() -> Figure:
    """Five thresholds on the same norms."""
    norms = norms_of_a_training()
    figure, (axes,) = panels(1)
    axes.plot(norms, color=GREY, linewidth=0.8, label="norm before")
    for name, rule, colour in (
        ("Constant(2)", gradclip.ClipGradByGlobalNorm(2.0), BLACK),
        ("Schedule((0, 6), (100, 2))", gradclip.ClipGradByGlobalNorm(Schedule((0, 6.0), (100, 2.0))), BLUE),
        ("AutoClip(90)", gradclip.AutoClip(90), VERMILION),
        ("QuantileClip(0.9, rate=0.05)", gradclip.QuantileClip(0.9, rate=0.05), GREEN),
        ("2 EMAs, learning the limit", Rule(threshold=History(EMA(0.98), Ratio(2.0), "limit", 10)), PURPLE),
    ):
        axes.plot(thresholds_under(rule, norms), color=colour, label=name, linewidth=1.3)
    logarithmic(axes, "y", (1, 2, 5))
    axes.set(xlabel="step", ylabel="norm, threshold")
    axes.legend(ncols=3, fontsize=8)
    return figure


def moves(make: Callable[..., torch.optim.Optimizer], limit: float | None, spike: int = -1) -> list[float]:
    """How far each step of a small training moved the weights."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer, found = make(net.parameters()), []
    with gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(limit)):
        for step in range(120):
            x = torch.randn(32, 10)
            scale = 100.0 if step == spike else 1.0
            optimizer.zero_grad()
            (scale * (net(x) - x.sum(1, keepdim=True)).square().mean()).backward()
            before = torch.nn.utils.parameters_to_vector(net.parameters()).clone()
            optimizer.step()
            found.append((torch.nn.utils.parameters_to_vector(net.parameters()) - before).norm().item())
    return found


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def under_adam() -> Figure:
    """A threshold is a length of the step under SGD and none under Adam; a spike is where it helps Adam."""
    figure, (lengths, after) = panels(2)
    limits = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    for name, make, colour in (("SGD", sgd, BLUE), ("Adam", adam, VERMILION)):
        lengths.plot(limits, [float(np.mean(moves(make, limit))) for limit in limits], "o-", color=colour, label=name)
    logarithmic(lengths, "x", (1,))
    logarithmic(lengths, "y", (1,))
    lengths.set(xlabel="threshold", title="mean length of a step")
    lengths.legend()
    for name, limit, colour in (("Adam", None, GREY), ("Adam, clipped to 3", 3.0, VERMILION)):
        after.plot(moves(adam, limit, spike=60), color=colour, label=name)
    after.axvline(60, color=BLACK, linewidth=0.8, linestyle=":")
    after.set(xlabel="step", title="length of each step; gradient x 100 at 60", ylim=(0, None))
    after.legend()
    return figure


def which_threshold() -> Figure:
    """Norms of four shapes, and what `gradclip suggest` proposes of them."""
    dice = np.random.default_rng(1)
    quiet = np.exp(0.25 * dice.standard_normal(STEPS))
    spiky = quiet.copy()
    spiky[dice.integers(0, STEPS, 6)] *= 20.0
    wide = np.exp(1.2 * dice.standard_normal(STEPS))
    long = 5 * STEPS
    drifting = np.exp(0.25 * dice.standard_normal(long)) * 0.05 ** (np.arange(long) / long)
    figure, axes = panels(4)
    for each, (name, norms) in zip(
        axes, (("steady", quiet), ("with spikes", spiky), ("wide", wide), ("drifting", drifting)), strict=True
    ):
        each.plot(norms, color=GREY, linewidth=0.8)
        rule = suggested(norms)
        each.plot(thresholds_under(rule, norms), color=VERMILION)
        logarithmic(each, "y", (1,))
        each.set(title=name, xlabel="step", ylim=(0.01, 60))
    axes[0].set_ylabel("norm; suggested threshold")
    return figure


def suggested(norms: np.ndarray) -> AnyRule:
    """The rule that a run with these norms suggests, or one that measures alone."""
    from gradclip.advice.suggestion import suggest
    from gradclip.rules.text import rule_from_text

    events = [Event(step, "", "cpu", float(norm), float(norm), math.inf, 1.0, False) for step, norm in enumerate(norms)]
    return rule_from_text(suggest(events).rule or "none")


PICTURES = {
    "law.png": responses,
    "scopes.png": scopes,
    "thresholds.png": thresholds,
    "adam.png": under_adam,
    "which-threshold.png": which_threshold,
}


def missing() -> list[str]:
    """Pictures that a page shows and nobody draws, and those that no page shows."""
    shown = {
        name for page in FOLDER.glob("*.md") for name in re.findall(r"\]\(([\w-]+\.png)\)", page.read_text("utf-8"))
    }
    return sorted(shown ^ PICTURES.keys() | {name for name in PICTURES if not (FOLDER / name).is_file()})


def main(arguments: Sequence[str] | None = None) -> int:
    if "--check" in (sys.argv[1:] if arguments is None else arguments):
        found = missing()
        print(f"not drawn, or not shown: {', '.join(found)}" if found else "up to date")
        return 1 if found else 0
    torch.set_num_threads(1)
    for name, draw in PICTURES.items():
        save_small(draw(), FOLDER / name, DPI)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
