"""Recording must not break a training: whatever fails here is given up, and the script goes on."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any, ParamSpec

from gradclip.torch.eager import eager

P = ParamSpec("P")


class Fallible:
    """Something with methods that are `safe`: whether one has failed, and the thread that is in one (0: none is)."""

    def __init__(self) -> None:
        self.failed = False
        self.at_work = 0


def safe(method: Callable[P, Any]) -> Callable[P, Any]:
    """`method` of a `Fallible`, silent while another is at work in its thread, and given up with a line if it fails."""

    @eager
    @functools.wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Any:
        owner: Any = args[0]
        if owner.failed or owner.at_work == get_ident():
            return None
        owner.at_work = get_ident()
        try:
            return method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong here, the training is worth more
            owner.failed = True
            print(f"gradclip watch: nothing more is recorded, {type(error).__name__}: {error}", file=sys.stderr)
            return None
        finally:
            owner.at_work = 0

    return tried
