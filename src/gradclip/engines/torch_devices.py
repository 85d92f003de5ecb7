"""Gradients on several devices in one call: an engine on each measures and writes, and one device decides for all.

Only totals and coefficients travel, a number for each segment, and none of them is waited for; where a device is the
CPU, its coefficients are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch

from gradclip.engines.base import Batch, Elsewhere, Engine, Measure, Tables, UnsupportedGradient
from gradclip.engines.torch import DEVICE, TorchEngine
from gradclip.engines.torch_functions import FUNCTIONS, uploaded
from gradclip.engines.torch_layout import VALUES, extent, memory, plain, unit_axis
from gradclip.engines.torch_measure import sum_of
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.scope import Element, Global, Row, Scope, rows_of
from gradclip.rules.segments import Shape
