"""Where the originals of the methods on elements fail, each in its shortest form, and that these do not."""

import numpy as np
import pytest

from gradclip import SPAM, ClipGradByValue, StableSPAM, UClip
from gradclip.clipper import Clipper
from gradclip.engines.reference import ReferenceEngine
from gradclip.step.gradients import Gradients

ENGINE = ReferenceEngine()


def clipped(clipper, gradient, moment=None):
    """What a clipper leaves of one gradient."""
    left = np.array(gradient)
    clipper.clip_gradients(Gradients([left], str, moments=lambda: [moment]), ENGINE)
    return left


class OriginalStableSPAM:
    """AdaClip and AdaGN of arXiv:2502.17055, algorithm 1."""

    def __init__(self, theta=0.999, gamma1=0.7, gamma2=0.9):
        self.theta, self.gamma1, self.gamma2 = theta, gamma1, gamma2
        self.step, self.largest, self.mean, self.square = 0, 0.0, 0.0, 0.0

    def __call__(self, gradient):
        self.step += 1
        peak = np.max(np.abs(gradient))
        self.largest = self.theta * self.largest + (1 - self.theta) * peak
        limit = self.largest / (1 - self.theta**self.step)
        gradient = np.where(np.abs(gradient) > limit, gradient / peak * limit, gradient)
        norm = np.linalg.norm(gradient)
        self.mean = self.gamma1 * self.mean + (1 - self.gamma1) * norm
        self.square = self.gamma2 * self.square + (1 - self.gamma2) * norm**2
        mean = self.mean / (1 - self.gamma1**self.step)
        square = self.square / (1 - self.gamma2**self.step)
        return gradient / norm * mean / np.sqrt(square)


@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning")
def test_one_nan_stays_in_the_memory_of_the_original_stable_spam():
    """There every later gradient becomes NaN; here the one after it is what it would have been without."""
    steps = [np.array([3.0, -4.0]), np.array([np.nan, 1.0]), np.array([4.0, 3.0])]
    original, ours, undisturbed = OriginalStableSPAM(), Clipper(StableSPAM()), Clipper(StableSPAM())
    theirs = [original(step) for step in steps]
    assert np.isfinite(theirs[0]).all()
    assert np.isnan(theirs[2]).all()
    left = [clipped(ours, step) for step in steps]
    np.testing.assert_array_equal(left[2], [clipped(undisturbed, step) for step in steps[::2]][1])


def test_the_original_stable_spam_turns_the_order_of_elements_round():
    """There all elements above T are multiplied by T / max|g|, with T = (0.25 * 1 + 0.5 * 8) / 0.75 = 5.67: 6 becomes
    4.25, less than the 5 that is left alone. Here T is 1, not counting this spike, and all three become 1.
    """
    original, ours = OriginalStableSPAM(theta=0.5), Clipper(StableSPAM(theta=0.5).stages[0])
    original(np.ones(3))
    clipped(ours, [1.0, 1.0, 1.0])
    theirs = original(np.array([6.0, 8.0, 5.0]))
    assert theirs[0] / theirs[2] == pytest.approx(4.25 / 5.0)
    assert clipped(ours, [6.0, 8.0, 5.0]).tolist() == [1.0, 1.0, 1.0]


class OriginalSPAM:
    """Spike-aware clipping of arXiv:2501.06842 with the second moment of Adam."""

    def __init__(self, factor=5000.0, beta2=0.999, warmup=20):
        self.factor, self.beta2, self.warmup = factor, beta2, warmup
        self.step, self.moment = 0, 0.0

    def __call__(self, gradient):
        limit = np.sqrt(self.factor * self.moment)
        if self.step >= self.warmup:
            gradient = np.where(np.abs(gradient) > limit, np.sign(gradient) * limit, gradient)
        self.step += 1
        self.moment = self.beta2 * self.moment + (1 - self.beta2) * gradient**2
        return gradient


def test_an_element_that_is_first_used_after_the_warm_up_is_frozen_by_the_original_spam():
    """Its second moment is 0, so its gradient becomes 0, so its second moment stays 0."""
    original, ours, moment = OriginalSPAM(), Clipper(SPAM()), np.zeros(2)
    for step in range(50):
        gradient = np.array([1.0, 1.0 if step >= 30 else 0.0])
        theirs, left = original(gradient), clipped(ours, gradient, moment)
        moment = 0.999 * moment + 0.001 * left**2
    assert theirs.tolist() == [1.0, 0.0]
    assert left.tolist() == [1.0, 1.0]


def test_after_that_both_clip_a_spike_alike():
    original, ours, moment = OriginalSPAM(), Clipper(SPAM()), np.zeros(1)
    for step in range(50):
        gradient = np.array([1e4 if step == 40 else 1.0])
        theirs, left = original(gradient), clipped(ours, gradient, moment)
        np.testing.assert_allclose(left, theirs, rtol=1e-6)  # wide is float64 here; one root and one product
        moment = 0.999 * moment + 0.001 * left**2
        if step == 40:
            assert left[0] < 100.0


@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning")
def test_one_nan_is_carried_for_ever_by_the_original_uclip():
    def original(gradient, carried):
        u = np.clip(gradient + carried, -1.0, 1.0)
        return u, gradient + carried - u

    carried, ours = np.zeros(1), Clipper(UClip(ClipGradByValue(1.0)))
    for value in (3.0, np.nan, 0.0):
        theirs, carried = original(np.array([value]), carried)
        left = clipped(ours, [value])
    assert np.isnan(theirs).all()
    assert left.tolist() == [1.0]
