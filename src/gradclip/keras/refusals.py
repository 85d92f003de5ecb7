"""What cannot be clipped in Keras, and what to write instead."""

from __future__ import annotations

from typing import Any

import keras

from gradclip.clipper import Clipper
from gradclip.errors import shown
from gradclip.rules.codec import from_dict
from gradclip.rules.rule import AnyRule

BACKENDS = ("torch", "jax")

OWN_CLIPS = {
    "clipnorm": "ClipGradByNorm",
    "clipvalue": "ClipGradByValue",
    "global_clipnorm": "ClipGradByGlobalNorm",
}
"""The arguments of an optimizer of Keras that clip, and the rules that do the same."""


def refuse_backend() -> None:
    """Raise `ValueError` where Keras runs on a backend whose arrays no engine takes."""
    backend = keras.config.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"gradclip.keras clips on the backends torch and jax, and Keras runs on {backend} here: set "
            "KERAS_BACKEND=torch or KERAS_BACKEND=jax before keras is imported"
        )


def checked_optimizer(optimizer: Any) -> Any:
    """`optimizer` if a rule can be put into it, or the error that says what to write."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        example = "clip(keras.optimizers.Adam(1e-3), rule)"
        raise TypeError(f"optimizer is one of Keras, got {shown(optimizer)}: write {example}")
    kind = type(optimizer).__name__
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"{kind} hands gradients on to another optimizer, which has to clip them once they are unscaled: write "
            f"{kind}(gradclip.keras.clip(optimizer, rule))"
        )
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            f"{kind} hands gradients on to several optimizers and makes no update itself: clip each of them before, "
            "gradclip.keras.clip(part, rule), by a norm of the gradients that it has"
        )
    refuse_own_clip(optimizer)
    return optimizer


def refuse_own_clip(optimizer: Any) -> None:
    """Raise `ValueError` where Keras was told to clip as well."""
    for name, rule in OWN_CLIPS.items():
        if (value := getattr(optimizer, name, None)) is not None:
            raise ValueError(
                f"this {type(optimizer).__name__} has {name}={value}, and the rule of gradclip takes its place: leave "
                f"{name} out, or clip by gradclip.{rule}({value}) >> rule"
            )


def refuse_unread(clipper: Clipper) -> None:
    """Raise `ValueError` for a rule that reads what Keras does not hand to an optimizer."""
    unread = sorted(clipper.reads_given) + ["second moments"] * clipper.reads_moments
    if unread:
        raise ValueError(
            f"{clipper.rule!r}: this rule reads the {unread[0]}, which an optimizer of Keras is not given: take a rule "
            "of gradients alone, or train by gradclip.torch.attach or gradclip.optax.clip"
        )


def plain_rule(rule: AnyRule) -> dict[str, Any]:
    """The rule as the plain data that a file of Keras holds, or the error for one with a function in it."""
    advice = (
        "save the weights alone, model.save_weights(...), and clip a new optimizer by the rule before they are loaded"
    )
    try:
        data = rule.to_dict()
    except ValueError as error:
        raise ValueError(f"the rule of this optimizer ({rule!r}) cannot be saved: {error}; or {advice}") from None
    if from_dict(data) != rule:
        raise ValueError(f"the rule of this optimizer ({rule!r}) has a part that is no plain data: {advice}")
    return data
