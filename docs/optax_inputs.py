"""Optax's page: how to run each input with optax and with `gradclip.optax`, which is right, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradclip
import gradclip.optax
from observed import Input, Page, Values, observed, off

INF, NAN = float("inf"), float("nan")


class Functions(NamedTuple):
    """Transformations of one library, and how to ask it for the norm."""

    by_norm: Callable[[Any], Any]
    by_value: Callable[[Any], Any]
    norm: Callable[[Any, Any], Any]


OPTAX = Functions(optax.clip_by_global_norm, optax.clip, lambda tree, state: optax.tree.norm(tree))
GRADCLIP = Functions(
    lambda limit: gradclip.optax.clip(gradclip.ClipGradByGlobalNorm(limit)),
    lambda limit: gradclip.optax.clip(gradclip.ClipGradByValue(limit)),
    lambda tree, state: state.last.norm_before,
)


def leaves(*values: Any, dtype: Any = jnp.float32) -> list[jax.Array]:
    """A leaf for each list of numbers."""
    return [jnp.asarray(one, dtype=dtype) for one in values]


def norm(*values: Any, limit: Any = 1.0, dtype: Any = jnp.float32) -> Callable[[Functions], str]:
    """By global norm, on leaves with these values."""

    def run(library: Functions) -> str:
        return watched(lambda: library.by_norm(limit), leaves(*values, dtype=dtype), library.norm)

    return run


def value(*values: Any, limit: Any = 1.0, dtype: Any = jnp.float32) -> Callable[[Functions], str]:
    """By value, on leaves with these values."""

    def run(library: Functions) -> str:
        return watched(lambda: library.by_value(limit), leaves(*values, dtype=dtype), None)

    return run


def watched(make: Callable[[], Any], tree: Any, norm: Callable[[Any, Any], Any] | None) -> str:
    """What the transformation that `make` makes does to `tree`, compiled."""
    held = [tree]

    def call() -> Any:
        transformation = make()
        clipped, state = jax.jit(transformation.update)(tree, transformation.init(tree))
        held[0] = clipped
        return None if norm is None else norm(tree, state)

    return observed(call, lambda: [_wide(leaf) for leaf in jax.tree.leaves(held[0])])


def _wide(leaf: Any) -> Values:
    found: Values = np.asarray(leaf)
    return found.astype(np.complex128 if found.dtype.kind == "c" else np.float64)


def many(sizes: list[int], dtype: Any) -> Callable[[Functions], str]:
    """Leaves of standard normal numbers, too many to show."""

    def run(library: Functions) -> str:
        random = np.random.default_rng(0)
        tree = [jnp.asarray(random.standard_normal(size), dtype=dtype) for size in sizes]
        transformation = library.by_norm(1.0)
        clipped, state = jax.jit(transformation.update)(tree, transformation.init(tree))
        found, left = float(library.norm(tree, state)), _norm(clipped)
        # The clipped numbers are rounded to the dtype one by one, which moves their norm by less than 1e-3.
        after = "1" if abs(left - 1) < 1e-3 else f"~{left:.3g}"
        return f"norm {off(found, _norm(tree))}; norm after clipping {after}"

    return run


def _norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(_wide(leaf))) for leaf in tree)))


def _slope_at_zero(library: Functions) -> str:
    transformation = library.by_norm(1.0)

    def through(tree: Any) -> Any:
        return transformation.update(tree, transformation.init(tree))[0][0].sum()

    return f"slope {np.asarray(jax.grad(through)(leaves([0.0, 0.0]))[0]).tolist()}"


HALF, BRAIN, COMPLEX = jnp.float16, jnp.bfloat16, jnp.complex64

INPUTS = [
    Input("fp16 `[300, 400]`", norm([300.0, 400.0], dtype=HALF), "gradclip: only the squares leave fp16"),
    Input("fp16, 100 leaves of 1000 standard normal elements", many([1000] * 100, HALF), "gradclip: each is below 6"),
    Input(
        "bf16, a leaf of 1e6 and 100 of 2000 standard normal elements",
        many([1_000_000] + [2000] * 100, BRAIN),
        "gradclip: a sum of squares needs more than 8 bits",
    ),
    Input("fp32 `[1e25, 1e25]`", norm([1e25] * 2), "gradclip: finite gradients, only their squares leave fp32"),
    Input("bf16 `[1e25, 1e25]`", norm([1e25] * 2, dtype=BRAIN), "gradclip: finite gradients"),
    Input(
        "`[1e25, 1e25]`, limit inf: only measure",
        norm([1e25] * 2, limit=INF),
        "gradclip: measuring must not write",
    ),
    Input("`[3e-25, 4e-25]`, limit 1e-30", norm([3e-25, 4e-25], limit=1e-30), "gradclip: the norm is not 0"),
    Input("`[3, 4]`", norm([3.0, 4.0]), "both"),
    Input("`[3, 4]`, limit 5", norm([3.0, 4.0], limit=5.0), "both"),
    Input("`[0, 0]`", norm([0.0, 0.0]), "both"),
    Input("the slope of clipping at `[0, 0]`", _slope_at_zero, "gradclip: below the limit clipping is the identity"),
    Input("`[3, 4]`, limit -1", norm([3.0, 4.0], limit=-1.0), "gradclip: a flipped sign is gradient ascent"),
    Input(
        "`[0, 0]`, limit 0", norm([0.0, 0.0], limit=0.0), "gradclip: to drop gradients there is `optax.set_to_zero()`"
    ),
    Input("`[3, 4]`, limit NaN", norm([3.0, 4.0], limit=NAN), "gradclip: a limit that is no number is a bug"),
    Input("`[NaN, 2]` and `[3]`", norm([NAN, 2.0], [3.0]), "gradclip: the norm says it; no other element suffers"),
    Input("`[inf, 2]` and `[3]`", norm([INF, 2.0], [3.0]), "gradclip: the norm says it; no other element suffers"),
    Input("complex `[3+4j]` and `[12]`", norm([3 + 4j], [12 + 0j], dtype=COMPLEX), "both"),
    Input("complex `[3+4j]`, by value", value([3 + 4j], dtype=COMPLEX), "both: complex numbers have no order"),
    Input("int32 `[3, 4]`", norm([3, 4], dtype=jnp.int32), "both: integers have no gradient"),
    Input("`[0.8, 89]`, by value -1", value([0.8, 89.0], limit=-1.0), "gradclip: no element may become the same -1"),
    Input("`[NaN, inf, 0.5]`, by value", value([NAN, INF, 0.5]), "both: NaN has no bound"),
    Input("`[]` and `[3, 4]`", norm([], [3.0, 4.0]), "both"),
]

PAGE = Page(
    framework="Optax",
    version=".".join(optax.__version__.split(".")[:2]),
    file="where-optax-is-wrong.md",
    introduction=f"`clip_by_global_norm` and `clip` of optax {optax.__version__} and `gradclip.optax.clip`, under "
    f"`jit`, on the same inputs, with jax {jax.__version__} on a CPU. The limit is 1 where none is said; the norm is "
    "that of `optax.tree.norm` and of `state.last.norm_before`.",
    inputs=INPUTS,
    theirs=OPTAX,
    ours=GRADCLIP,
)
