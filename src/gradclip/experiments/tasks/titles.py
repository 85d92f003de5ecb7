"""Which tasks there are: what is known of each before anything heavy is imported."""

from __future__ import annotations

from typing import NamedTuple

NEEDS = ("torch", "numpy", "matplotlib", "rich")


class TaskTitle(NamedTuple):
    """The title of a task, and the modules that it needs."""

    title: str
    needs: tuple[str, ...] = NEEDS


TASKS = {
    "temporal-order": TaskTitle("the order of two symbols in a long sequence (RNN)"),
    "char-lm": TaskTitle("characters of English text at a high learning rate (RNN)"),
    "bad-batches": TaskTitle("characters of English text, with bad batches in between (RNN)"),
    "digits": TaskTitle("handwritten digits without normalisation layers, over learning rates", (*NEEDS, "sklearn")),
    "heavy-tails": TaskTitle("a quadratic under noise of infinite variance"),
    "l0l1": TaskTitle("two functions that grow steeper the further out, over step sizes"),
    "bias": TaskTitle("a mean under skewed noise, where clipping moves the optimum"),
}
"""Tasks with a published claim."""

UNSEEN = {
    "amp-digits": TaskTitle("handwritten digits in half precision under a loss scale (CNN)", (*NEEDS, "sklearn")),
    "label-noise": TaskTitle("characters of English text, a fifth of the targets at random (transformer)"),
    "actor-critic": TaskTitle("a pole on a cart, balanced by an advantage actor-critic"),
    "outliers": TaskTitle("a regression, a twentieth of its targets far too high (MLP)"),
    "gan": TaskTitle("a ring of eight Gaussians (GAN)"),
}
"""Tasks on which no rule, threshold or default of gradclip was chosen, for tests of what was chosen on the others."""

SIZED = {
    "gpt": TaskTitle("characters of English text at ten million parameters (GPT)"),
    "lstm": TaskTitle("words of English text in two layers with gates (LSTM)"),
    "ppo": TaskTitle("a pole on a cart, balanced by proximal policy optimisation"),
    "resnet": TaskTitle("handwritten digits by a residual net (CNN)", (*NEEDS, "sklearn")),
}
"""Tasks of a real size: a run of one takes minutes or more."""

TITLES = {**TASKS, **UNSEEN, **SIZED}
"""All of them."""
