"""Ctrl-C and other signals that stop a run."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from charrnn_runtime.cli import terminal


class StopSignals:
    """A context manager that stops training after the current step on Ctrl-C, SIGTERM or SIGHUP.

    The first signal is acknowledged immediately; a second one ends the process. Signals that were already
    ignored (for example under nohup) stay ignored.
    """

    def __init__(self, *, verbose: bool = True) -> None:
        self.number = 0
        self._verbose = verbose
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.number != 0

    def __enter__(self) -> StopSignals:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if self._verbose:
            again = "press Ctrl-C" if number == signal.SIGINT else f"send {signal.Signals(number).name}"
            terminal.say_at_once(
                f"stopping after this step to save a checkpoint; {again} again to quit without saving"
            )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
