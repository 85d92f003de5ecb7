"""A pole on a cart that is pushed to the left or to the right, after A. Barto, R. Sutton, C. Anderson 1983.

A. G. Barto, R. S. Sutton, C. W. Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control
problems", IEEE Transactions on Systems, Man, and Cybernetics 13; its constants, without friction, and Euler's method.
"""

from __future__ import annotations

import math

import numpy as np

from gradclip.experiments.training.framework import Array

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
"""m/s^2, two masses in kg, half the length of the pole in m, the push in N, and the time of a step."""
FARTHEST, STEEPEST, LONGEST = 2.4, math.radians(12), 500
"""An episode ends where the cart has left the track (m), the pole leans too far, or after so many steps."""
SPREAD = 0.05
"""Episodes begin with all four numbers within this of 0."""


def moved(state: Array, force: Array) -> Array:
    """The states [N, 4], which are place, speed, angle and its speed, a step later under forces [N]."""
    _, speed, angle, turning = state.T
    sine, cosine, mass = np.sin(angle), np.cos(angle), CART + POLE
    push = (force + POLE * HALF_LENGTH * turning**2 * sine) / mass
    leverage = HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass)
    turned = (GRAVITY * sine - cosine * push) / leverage
    driven = push - POLE * HALF_LENGTH * turned * cosine / mass
    found: Array = state + SECONDS * np.stack((speed, driven, turning, turned), 1)
    return found


def fallen(state: Array) -> Array:
    """Whether each of the states [N, 4] ends its episode."""
    found: Array = (np.abs(state[:, 0]) > FARTHEST) | (np.abs(state[:, 2]) > STEEPEST)
    return found


class Carts:
    """Several carts, which are pushed at once; where an episode has ended, the next one has begun."""

    def __init__(self, number: int, random: np.random.Generator) -> None:
        self._random = random
        self.state = self._begun(number)
        self._lengths = np.zeros(number)
        self.returns: list[float] = []
        """The returns of the episodes that have ended, in their order: 1 for each step."""

    def push(self, right: Array) -> tuple[Array, Array, Array]:
        """Push each cart [N] to the right or to the left: where that led to, which have fallen, and whose episode is
        over, for that or for its length."""
        reached = moved(self.state, np.where(right, FORCE, -FORCE))
        self._lengths += 1
        down = fallen(reached)
        over = down | (self._lengths >= LONGEST)
        self.returns += self._lengths[over].tolist()
        self._lengths[over] = 0
        # Drawn whether they are needed or not, so that all carts meet the same numbers whatever is done.
        self.state = np.where(over[:, None], self._begun(len(over)), reached)
        return reached, down, over

    def _begun(self, number: int) -> Array:
        return self._random.uniform(-SPREAD, SPREAD, (number, 4))
