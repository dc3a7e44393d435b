"""Ctrl-C and SIGTERM, so that a process that is told to stop leaves everything in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Signals:
    """While it is entered, Ctrl-C and SIGTERM raise KeyboardInterrupt in the main thread.

    `code` is then the exit code that shells expect, 130 or 143. A library may turn the interrupt into an error of its
    own, or lose it: `check_signals` raises it again.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.waits = self.late = False

    @property
    def code(self) -> int:
        """128 + the number of the signal."""
        return 128 + (self.received or signal.SIGINT)

    def __call__(self, number: int, frame: Any) -> None:
        self.received, self.late = number, self.waits
        if not self.waits:
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block, such as one that removes temporary files, at whose end alone a signal raises KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, Signals) or handler.waits or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.waits, handler.late = True, False
    try:
        yield
    finally:
        handler.waits = False
        if handler.late:
            raise KeyboardInterrupt
