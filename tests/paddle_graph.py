"""Programs of Paddle in static mode: fresh ones for each test, in PIR and in legacy, and dynamic mode afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import paddle

MODES = ("pir", "legacy")


class Graph:
    """A main and a startup program with a scope of their own."""

    def __init__(self) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.executor = paddle.static.Executor(paddle.CPUPlace())
        self.started = False

    def seed(self, number: int) -> None:
        """What is drawn in these programs."""
        paddle.seed(number)
        self.startup.random_seed = number

    def start(self) -> None:
        """Run the startup program, once."""
        if not self.started:
            self.executor.run(self.startup)
            self.started = True

    def run(self, feed, fetch):
        """Run the main program, at first after the startup program."""
        self.start()
        return self.executor.run(self.main, feed=feed, fetch_list=fetch)


@contextmanager
def graph(mode: str) -> Iterator[Graph]:
    """Static mode with an empty graph; what is called inside becomes operators of it."""
    was_dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        with paddle.pir_utils.OldIrGuard() if mode == "legacy" else nullcontext():
            made = Graph()
            with (
                paddle.static.program_guard(made.main, made.startup),
                paddle.static.scope_guard(paddle.static.Scope()),
                paddle.utils.unique_name.guard(),
            ):
                yield made
    finally:
        if was_dynamic:
            paddle.disable_static()


def held(name: str) -> np.ndarray:
    """What the variable `name` of the current scope holds."""
    return np.array(paddle.static.global_scope().find_var(name).get_tensor())
