"""Console output while a network trains."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from bench.runs.record import Compilation, GuidanceStop, HistoryRow

LOG = logging.getLogger(__name__)


class Progress:
    """Progress of a run: a bar on a terminal, otherwise one line per epoch.

    Args:
        steps: per epoch.
        silent: true on all processes except the main one.
        evaluated_on: "test" or "held-out".
    """

    def __init__(self, epochs: int, steps: int, silent: bool, evaluated_on: str) -> None:
        self._epochs, self._steps, self._silent, self._evaluated_on = epochs, steps, silent, evaluated_on
        self._began = time.perf_counter()
        self._done = 0  # epochs before this start
        self._warned: set[str] = set()
        bar = not silent and sys.stderr.isatty()
        self._bar = tqdm(total=epochs * steps, unit="step", smoothing=0.05, dynamic_ncols=True) if bar else None

    def resume(self, epoch: int, step: int) -> None:
        """Mark what is done already when a run resumes."""
        self._done = epoch
        if self._bar:
            self._bar.update(epoch * self._steps + step)

    def step(self) -> None:
        """Count one optimiser step."""
        if self._bar:
            self._bar.update()

    def epoch(self, row: HistoryRow) -> None:
        """Show the results of an epoch."""
        if self._silent:
            return
        guidance = f"  guidance {row['guidance_loss']:.4f}" if row["guidance_loss"] is not None else ""
        loss = "not finite" if row["train_loss"] is None else f"{row['train_loss']:.4f}"
        evaluated = "" if row["test_accuracy"] is None else f"  {self._evaluated_on} {row['test_accuracy']:.2f} %"
        values = f"loss {loss}{guidance}{evaluated}  {row['images_per_second']:,.0f} images/s"
        if self._bar:
            self._bar.set_description(f"epoch {row['epoch']}/{self._epochs}")
            self._bar.set_postfix_str(values)
        else:
            per_epoch = (time.perf_counter() - self._began) / (row["epoch"] - self._done)
            left = tqdm.format_interval(per_epoch * (self._epochs - row["epoch"]))
            LOG.info(f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs}  {values}  {left} left")

    def compilation(self, found: Compilation | None) -> None:
        """Warn once of what fell back from compilation."""
        new = [] if found is None or self._silent else [text for text in found.fell_back if text not in self._warned]
        if new:
            self._warned.update(new)
            LOG.warning(
                f"{'; '.join(new)}: steps are slower; train.compile=graphs stops with the whole error, train.compile=off"
                " trains without"
            )

    def guidance_ended(self, stop: GuidanceStop) -> None:
        """Say that an adaptive schedule has ended guidance."""
        if not self._silent:
            LOG.info(
                f"guidance ended with epoch {stop.epoch}: its loss changed by {stop.slope:.3g} per epoch, smoothed"
                f" ({stop.relative_slope:.2%} of the loss)"
            )

    def close(self) -> None:
        """End the bar."""
        if self._bar:
            self._bar.close()
