"""Methods whose threshold follows the training: gradclip's beside those that their users have today."""

from __future__ import annotations

import statistics
import sys
from functools import partial

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

import gradclip
from benchmarks.limits import Limit
from benchmarks.names import READ, READ_BOTH, READ_BOTH_WRITE
from benchmarks.peers import Call, Parameters, agc_of_timm
from benchmarks.sampling import Candidate
from benchmarks.workloads import LIGHT, NEVER, SETTLED, Workload, holders
from gradclip.rules.rule import AnyRule
from gradclip.torch import Clipper

FIXED, AUTOCLIP, ZCLIP, AGC = "ClipGradByGlobalNorm", "AutoClip", "ZClip", "AGC"
PLAIN_AUTOCLIP, PLAIN_ZCLIP, TIMM = "AutoClip, straightforward", "ZClip, straightforward", "timm's adaptive_clip_grad"

HISTORY = 1000
"""The norms that AutoClip remembers."""


def unit_wise(weight: float, workload: Workload) -> list[Candidate]:
    """AGC: the norms of the gradient and of the weights of each output unit, of weights that all are `weight`."""
    parameters = holders(workload.gradients, weight)
    clips = weight == LIGHT
    read = Limit([*workload.gradients, *(parameter.detach() for parameter in parameters)]).read
    write = Limit(workload.gradients).write
    calls: dict[str, Call] = {AGC: _ours(gradclip.AGC(), parameters)}
    calls |= {READ_BOTH_WRITE: lambda: (read(), write())} if clips else {READ_BOTH: read}
    calls |= {TIMM: partial(agc_of_timm(), parameters)} if agc_of_timm() else {}
    if TIMM not in calls:
        print("timm is not installed, so AGC has no peer: pip install --no-deps timm", file=sys.stderr)
    return [Candidate(name, call, before=workload.restore if clips else None) for name, call in calls.items()]


def over_time(workload: Workload) -> list[Candidate]:
    """One norm over all tensors against a threshold that follows its history, far from a spike."""
    parameters = workload.parameters
    calls: dict[str, Call] = {
        FIXED: _ours(gradclip.ClipGradByGlobalNorm(NEVER), parameters),
        AUTOCLIP: _ours(gradclip.AutoClip(window=HISTORY), parameters),
        ZCLIP: _ours(gradclip.ZClip(max_norm=NEVER), parameters),
        PLAIN_AUTOCLIP: autoclip(parameters),
        PLAIN_ZCLIP: zclip(parameters),
    }
    for call in calls.values():
        for _ in range(SETTLED):
            call()
    return [Candidate(READ, Limit(workload.gradients).read), *(Candidate(name, call) for name, call in calls.items())]


def _ours(rule: AnyRule, parameters: Parameters) -> Call:
    return partial(Clipper(rule).clip_, parameters)


def autoclip(parameters: Parameters) -> Call:
    """A list of all norms and NumPy's percentile of it, as its authors publish it; it begins with a long history."""
    history = [norm_by_squares(parameters)] * HISTORY

    def clip() -> None:
        total = sum(parameter.grad.norm(2).item() ** 2 for parameter in parameters if parameter.grad is not None)
        history.append(total**0.5)
        clip_grad_norm_(parameters, float(np.percentile(history, 10)))

    return clip


def zclip(parameters: Parameters) -> Call:
    """A mean and a variance in Python numbers, fed with norms that `.item()` reads, as its authors publish it."""
    first: list[float] = []
    mean, variance = 0.0, 0.0

    def clip() -> None:
        nonlocal mean, variance
        norm = limit = norm_by_squares(parameters)
        if len(first) < 25:
            first.append(norm)
            mean, variance = statistics.fmean(first), statistics.pvariance(first)
            clip_grad_norm_(parameters, NEVER)
            return
        score = (norm - mean) / (variance**0.5 + 1e-6)
        if score > 2.5:
            limit = mean + 2.5 * variance**0.5 / (score / 2.5)
        if norm > min(limit, NEVER):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(min(limit, NEVER) / (norm + 1e-6))
        mean = 0.97 * mean + 0.03 * limit
        variance = 0.97 * variance + 0.03 * (limit - mean) ** 2

    return clip


def norm_by_squares(parameters: Parameters) -> float:
    """The norm from the squares of all elements, written out and summed."""
    sums = [parameter.grad.square().sum() for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(sums).sum().sqrt().item())
