"""Measures of tensors in PyTorch's operations, whose number does not depend on how many tensors there are.

One operation takes the norms of all whole tensors. What it cannot do (rows, complex numbers, units of the largest
element, other powers) is done to tensors of one shape side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from gradclip.engines.base import LEAST, SAFE_NORMS, Kept, around
from gradclip.engines.torch_functions import FUNCTIONS, wide_of
from gradclip.engines.torch_layout import COMPLEX, hold_float64, magnitudes
from gradclip.engines.torch_stacks import Results, Stack, of_each
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm

DIRECT = (1.0, 2.0, math.inf)
"""The orders that PyTorch has kernels for."""

Tensors = Sequence[torch.Tensor]
Axes = Sequence[Kept | None]
"""For each tensor the axes whose indices are its segments; none where all of it is one."""


def totals_of(tensors: Tensors, axes: Axes, norm: Norm, together: bool, looks: bool) -> tuple[torch.Tensor, Operand]:
    """The total of each segment, or of all `together`, and its scale.

    Squares of float64 may leave its range. Who `looks` takes them in units of the largest element only if they have
    left it, and who does not, on a device, always.
    """
    if norm.p not in DIRECT:
        sums, scales = _of_segments(tensors, axes, lambda cut: _power_sums(cut, norm.p))
        return combined(sums, scales, norm) if together else (sums, scales)
    norms, scales = _norms_and_scales(tensors, axes, norm, looks)
    if together:
        norms, scales = _norm_of_norms(norms, scales, norm)
    return norms.square() if norm.p == 2.0 else norms, scales


def combined(totals: torch.Tensor, scales: Operand, norm: Norm) -> tuple[torch.Tensor, Operand]:
    """The total [1] of all segments and its scale."""
    if norm.combine == "max":
        return totals.amax(0, keepdim=True), scales if isinstance(scales, float) else scales[:1]
    if isinstance(scales, float):
        return totals.sum(0, keepdim=True), scales
    scale = scales.amax(0, keepdim=True)
    in_one_scale: Operand = norm.scaled(totals, scales / scale, FUNCTIONS)
    return in_one_scale.sum(0, keepdim=True), scale


def _norms_and_scales(tensors: Tensors, axes: Axes, norm: Norm, looks: bool) -> tuple[torch.Tensor, Operand]:
    ranged = _may_leave_range(tensors)
    safe = norm.combine == "max" or not ranged
    if safe or looks:
        norms = _norms_of(tensors, axes, norm)
        if safe or bool(((norms > SAFE_NORMS[0]) & (norms < SAFE_NORMS[1])).all()):
            return norms, torch.ones_like(norms) if ranged else 1.0
    norms, scales = _of_segments(tensors, axes, lambda cut: _scaled_norms(cut, norm))
    return norms, scales


def _norm_of_norms(norms: torch.Tensor, scales: Operand, norm: Norm) -> tuple[torch.Tensor, Operand]:
    """The norm [1] of all segments and its scale."""
    if isinstance(scales, float):
        return torch.linalg.vector_norm(norms, norm.p, dim=0, keepdim=True), scales
    scale = scales.amax(0, keepdim=True)
    return torch.linalg.vector_norm(norms * (scales / scale), norm.p, dim=0, keepdim=True), scale


def nonfinite_of(tensors: Tensors, axes: Axes) -> torch.Tensor:
    """The number of non-finite elements of each segment."""
    (counts,) = _of_segments(tensors, axes, lambda cut: ((~torch.isfinite(cut)).sum(dim=AROUND),))
    return counts


def peaks_of(tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest positive and the largest negative magnitude of the finite elements of each tensor [2T].

    And the number of those that are not finite, beside a zero.
    """
    peaks, counts = of_each(tensors, _peaks)
    return peaks, counts


AROUND = (1, 3)


def rows(stack: Stack, kept: Kept | None) -> torch.Tensor:
    """`stack` as [n, before, rows, after]: the segments of each of its n tensors lie along one axis."""
    count, *shape = stack.tensor.shape
    return stack.tensor.reshape(count, *around(shape, kept))


def _of_segments(tensors: Tensors, axes: Axes, function: Callable[[torch.Tensor], Results]) -> Results:
    """What `function` makes of [n, before, rows, after], in the order of the segments."""
    return of_each(tensors, lambda stack: function(rows(stack, axes[stack.places[0]])))


def _norms_of(tensors: Tensors, axes: Axes, norm: Norm) -> torch.Tensor:
    """The norm of each segment."""
    whole = not any(axes) and wide_of(tensors[0]) is torch.float64
    if whole and all(tensor.numel() and tensor.dtype not in COMPLEX for tensor in tensors):
        return torch.stack(torch._foreach_norm(list(tensors), norm.p, dtype=torch.float64))
    (norms,) = _of_segments(tensors, axes, lambda cut: (_norms(cut, norm),))
    return norms


def _may_leave_range(tensors: Tensors) -> bool:
    """Whether a sum of squares in the widest float of the device can overflow, or lose what is not zero."""
    return wide_of(tensors[0]) is torch.float32 or hold_float64(tensors)


def _norms(cut: torch.Tensor, norm: Norm) -> torch.Tensor:
    wide = wide_of(cut)
    if cut.numel() == 0:
        return cut.new_zeros(cut.shape[::2], dtype=wide)
    dtype = (torch.complex128 if wide is torch.float64 else torch.complex64) if cut.dtype in COMPLEX else wide
    norms: torch.Tensor = torch.linalg.vector_norm(cut, norm.p, dim=AROUND, dtype=dtype)
    return norms.to(wide)


def _scaled_norms(cut: torch.Tensor, norm: Norm) -> Results:
    magnitude, scale = _in_units(cut)
    return torch.linalg.vector_norm(magnitude, norm.p, dim=AROUND), scale


def _power_sums(cut: torch.Tensor, order: float) -> Results:
    magnitude, scale = _in_units(cut)
    return (magnitude**order).sum(dim=AROUND), scale


def _in_units(cut: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|x| in units of the largest of each segment, and that."""
    magnitude = magnitudes(cut, wide_of(cut))
    scale = _scale_of(magnitude.amax(dim=AROUND) if cut.numel() else magnitude.sum(dim=AROUND))
    return magnitude / scale[:, None, :, None], scale


def _scale_of(peak: torch.Tensor) -> torch.Tensor:
    """The largest |x| as a scale."""
    kind = torch.finfo(peak.dtype)
    least = LEAST if peak.dtype == torch.float64 else kind.tiny
    return torch.where(torch.isfinite(peak), peak.clamp(min=least), kind.max / 4)


def _peaks(stack: Stack) -> Results:
    elements = stack.flat(stack.tensor)
    if elements.numel() == 0:
        nothing = elements.new_zeros((len(stack.places), 2), dtype=wide_of(elements))
        return nothing, nothing.to(torch.int64)
    bad = ~torch.isfinite(elements)
    finite, counts = elements.masked_fill(bad, 0.0), bad.sum(dim=1)
    sides = [finite.amax(dim=1).clamp(min=0.0), -finite.amin(dim=1).clamp(max=0.0)]
    return torch.stack(sides, 1).to(wide_of(elements)), torch.stack([counts, torch.zeros_like(counts)], 1)
