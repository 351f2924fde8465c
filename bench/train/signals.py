"""Stop signals of a run. Needs no torch, since they are handled before it is imported."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """The handler of SIGTERM and SIGINT.

    During training it sets `asked`, and the loop saves its state and stops after the step. At other times, and at a second
    Ctrl-C, it ends the run at once.
    """

    def __init__(self) -> None:
        self.training, self.asked = False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.training or (self.asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.asked = True
