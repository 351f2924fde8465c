"""What a run prints while it trains: a bar on a terminal, a line an epoch elsewhere, nothing on other processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress over the epochs of a run.

    Args:
        epochs, steps: of the run, and of an epoch.
        silent: true on all processes but the main one.
        evaluated_on: what accuracy is counted on, "test" or "held-out".
    """

    def __init__(self, epochs: int, steps: int, silent: bool, evaluated_on: str = "test") -> None:
        self._evaluated_on = evaluated_on
        self._epochs, self._steps, self._silent = epochs, steps, silent
        self._began = time.perf_counter()
        self._done = 0  # epochs before this start
        bar = not silent and sys.stderr.isatty()
        self._bar = tqdm(total=epochs * steps, unit="step", smoothing=0.05, dynamic_ncols=True) if bar else None

    def resume(self, epoch: int, step: int) -> None:
        """What is done already, when a run goes on."""
        self._done = epoch
        if self._bar:
            self._bar.update(epoch * self._steps + step)

    def step(self) -> None:
        """One optimiser step has been issued."""
        if self._bar:
            self._bar.update()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch has ended with this row of the history."""
        if self._silent:
            return
        guidance = f"  guidance {row['guidance_loss']:.4f}" if row["guidance_loss"] is not None else ""
        loss = "not finite" if row["train_loss"] is None else f"{row['train_loss']:.4f}"
        values = (
            f"loss {loss}{guidance}  {self._evaluated_on} {row['test_accuracy']:.2f} %"
            f"  {row['images_per_second']:,.0f} images/s"
        )
        if self._bar:
            self._bar.set_description(f"epoch {row['epoch']}/{self._epochs}")
            self._bar.set_postfix_str(values)
        else:
            spent = (time.perf_counter() - self._began) / (row["epoch"] - self._done)
            left = tqdm.format_interval(spent * (self._epochs - row["epoch"]))
            print(f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs}  {values}  {left} left", flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar:
            self._bar.close()
