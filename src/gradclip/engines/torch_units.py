"""The measures of an engine as tensors that can travel, and the units that totals of several processes are in.

A total in units of 1 is a plain power sum, and two of them add up at once. Where powers would leave the range of a
float, all take the largest scale that anybody has.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from gradclip.engines.base import SAFE_TOTALS, Measure
from gradclip.engines.torch_functions import FUNCTIONS
from gradclip.rules.arrays import Array, Operand
from gradclip.rules.norm import Norm


def as_tensor(values: Operand) -> torch.Tensor:
    """An array of an engine as a tensor, in the same memory."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else cast(torch.Tensor, values)


def as_array(values: torch.Tensor | float, like: Operand) -> Operand:
    """A tensor as an array of the kind of `like`; a number stays one."""
    return values.numpy() if isinstance(like, np.ndarray) and isinstance(values, torch.Tensor) else values


def spread_out(values: Operand, index: torch.Tensor, count: int) -> Operand:
    """The first of the values at `index` of so many, and 0 for the others."""
    found = as_tensor(values)
    return as_array(found.new_zeros(count).index_copy_(0, index, found[: len(index)]), values)


def scales_of(measure: Measure) -> torch.Tensor:
    """The scale of each segment."""
    scale, total = measure.scale, as_tensor(measure.total)
    return torch.full_like(total, scale) if isinstance(scale, float) else as_tensor(scale)


def at_scale_1(measure: Measure, norm: Norm) -> torch.Tensor:
    """The totals as plain power sums."""
    if isinstance(measure.scale, float):
        return as_tensor(measure.total)
    return _scaled(as_tensor(measure.total), scales_of(measure), norm)


def in_range(measure: Measure, norm: Norm) -> bool:
    """Whether no plain power sum has lost an element to the ends of the range."""
    if isinstance(measure.scale, float):
        return True
    total, powers = as_tensor(measure.total), at_scale_1(measure, norm)
    fits = (powers > SAFE_TOTALS[0]) & (powers < SAFE_TOTALS[1])
    return bool((fits | (total == 0) | ~total.isfinite() | (as_tensor(measure.nonfinite) > 0)).all())


def at_scale(measure: Measure, norm: Norm, agreed: torch.Tensor) -> torch.Tensor:
    """The totals in units of scales that all have agreed on."""
    return _scaled(as_tensor(measure.total), scales_of(measure) / safe(agreed), norm)


def safe(scale: torch.Tensor) -> torch.Tensor:
    """Scales above 0, also of segments that nobody has."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _scaled(total: torch.Tensor, factor: torch.Tensor, norm: Norm) -> torch.Tensor:
    return cast(torch.Tensor, norm.scaled(cast(Array, total), cast(Array, factor), FUNCTIONS))
