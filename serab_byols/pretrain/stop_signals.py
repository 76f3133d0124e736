"""Stopping between two steps when a signal asks for it."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignals:
    """A context in which SIGINT and SIGTERM are only noted; a second signal acts at once, as usual.

    Attributes:
        received: whether there was a signal.
    """

    def __init__(self) -> None:
        self.received = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, *_: object) -> None:
        self.received = True
        self.__exit__()
