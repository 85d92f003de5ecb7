"""How the laws try the engine of Triton: its kernels run in Python, on tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import numpy as np
import torch

from gradclip.engines import triton
from gradclip.testing import Bench


def of(
    make: Callable[[np.ndarray, str], torch.Tensor],
    read: Callable[[torch.Tensor], np.ndarray],
    unread: Callable[[], AbstractContextManager[None]],
) -> Bench:
    """The bench of tensors that are made and read so."""

    @contextmanager
    def unlaunched() -> Iterator[None]:
        """Nothing may be read; kernels, which the interpreter runs on the host, give zeros instead."""
        with mock.patch.object(triton, "launch", lambda kernel, grid, device, given, **_: given[-1].zero_()), unread():
            yield

    return Bench(triton.ENGINE, make, read, unread=unlaunched)
