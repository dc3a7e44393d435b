"""Ctrl-C and SIGTERM, so that a process that is told to stop leaves everything in order."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """While it is entered, Ctrl-C and SIGTERM raise KeyboardInterrupt in the main thread.

    `code` is then the exit code that shells expect, 130 or 143. A library may turn the interrupt into an error of its
    own, or lose it: `check_signals` raises it again.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @property
    def code(self) -> int:
        """128 + the number of the signal."""
        return 128 + (self.received or signal.SIGINT)

    def __call__(self, number: int, frame: Any) -> None:
        self.received = number
        raise KeyboardInterrupt

    def __enter__(self) -> Signals:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def check_signals() -> None:
    """Raise KeyboardInterrupt when a signal arrived but the interrupt was lost on its way."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Signals) and handler.received is not None:
        raise KeyboardInterrupt
