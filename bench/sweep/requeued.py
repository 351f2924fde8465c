"""The function of a cluster's job, which submitit pickles by its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import psutil

PATIENCE = 30  # s that a launcher's processes may take to end after it


class Requeued:
    """The function of a job: a run that is requeued where it stands when its time is up.

    Slurm sends USR2 to every process of a job, and run.py would die of it. Blocked, it stays so through exec.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._pid = 0  # an int: it is pickled, which a process cannot be

    def __call__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        self._pid = subprocess.Popen(self.command).pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        sys.exit(self._ended())

    def checkpoint(self) -> Any:
        """What submitit calls at USR2: let the run save its state; what is returned is run when the job starts again."""
        from submitit.helpers import DelayedSubmission

        if self._pid:
            there = []
            with suppress(psutil.NoSuchProcess):
                there = [
                    run := psutil.Process(self._pid),
                    *run.children(recursive=True),
                ]  # a launcher does not tell its own
            for process in there:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            if self._ended() == 0:
                sys.exit(0)
            psutil.wait_procs(there[1:], timeout=PATIENCE)
        return DelayedSubmission(Requeued(self.command))

    def _ended(self) -> int:
        # Not Popen.wait: the handler of USR2 interrupts it while it holds its lock, and would wait for that for ever.
        told = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        return told.si_status if told.si_code == os.CLD_EXITED else 128 + told.si_status
