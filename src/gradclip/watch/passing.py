"""Signals: what is sent to gradclip is meant for the script, which runs in its place."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT")
PASSED = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
"""Those by which somebody asks for an end."""

ONCE = 0.05
"""Seconds within which a signal that comes again is the same one: `timeout` sends it to us, and to our group."""

PARENT_DEATH = 1
"""PR_SET_PDEATHSIG of Linux."""


class Script(Protocol):
    """A process that can be sent a signal."""

    def send_signal(self, number: int, /) -> None: ...


class Passing:
    """Passes the signals of this process on to a script, from before it is started until it has ended.

    Where a terminal has this process in front, script and all are in one group, and the terminal itself tells the
    script of Ctrl-C; a SIGINT that a process sent, as editors do to end a script, is passed on (on Linux). Elsewhere
    the script has a group of its own, so that what is sent to the group of this process comes to the script once, by
    us. If this process is killed, so is the script (on Linux).
    """

    def __init__(self) -> None:
        self.asked = 0
        """The signal by which somebody asked for an end, or 0."""
        self._in_front = in_front()
        self._script: Script | None = None
        self._ignored: list[int] = []
        self._waiting: list[int] = []
        self._blocked: list[int] = []
        self._last: dict[int, float] = {}
        self._parent = os.getpid()
        self._told = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    @contextlib.contextmanager
    def handlers(self) -> Iterator[None]:
        """While signals are passed on; what is ignored here, as under `nohup`, the script ignores at first."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in PASSED}
        self._ignored = [number for number, handler in before.items() if handler is signal.SIG_IGN]
        try:
            for number in before:
                signal.signal(number, self._pass)
            with self._interrupts():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def to(self, script: Script) -> None:
        """Pass signals on to `script`, those too that came before it was there."""
        self._script = script
        while self._waiting:
            script.send_signal(self._waiting.pop(0))

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Where a terminal sends SIGINT, too, a thread hears it in the handler's place: it learns from whom it is."""
        if not self._in_front or not hasattr(signal, "sigtimedwait"):
            yield
            return
        over = threading.Event()

        def hear() -> None:
            while not over.is_set():
                heard = signal.sigtimedwait([signal.SIGINT], 0.1)
                if heard is not None:
                    self._heard(signal.SIGINT, by_process=heard.si_code <= 0)

        self._blocked = [signal.SIGINT]
        signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)
        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)

    def begin(self) -> None:
        """What the script's process does before it becomes the script."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)
        for number in self._ignored:
            signal.signal(number, signal.SIG_IGN)
        if not self._in_front:
            os.setpgid(0, 0)
        if self._told is not None:
            self._told(PARENT_DEATH, signal.SIGKILL)
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGKILL)

    def _pass(self, number: int, frame: FrameType | None) -> None:
        self._heard(number, by_process=number != signal.SIGINT or not self._in_front)

    def _heard(self, number: int, by_process: bool) -> None:
        """Pass a signal on, unless it is a terminal's, which the script has heard as well."""
        if signal.Signals(number).name in ENDING and number not in self._ignored:
            self.asked = self.asked or number
        if not by_process:
            return
        now = time.monotonic()
        if now - self._last.get(number, -ONCE) < ONCE:
            return
        self._last[number] = now
        if self._script is None:
            self._waiting.append(number)
        else:
            self._script.send_signal(number)


def in_front() -> bool:
    """Whether a terminal has the group of this process in front, and so tells it of Ctrl-C; Windows tells all."""
    if os.name != "posix":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def end_by(number: int) -> None:
    """End this process by the signal that has ended the script; nothing of it is dumped."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.flush()
    sys.stderr.flush()
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
