"""The function of a cluster's job, which submitit pickles by its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LAUNCHER_SECONDS = 30  # that the processes of a launcher may take to end after it


class Requeued:
    """The function of a job: a run that is stopped and requeued when its time is up.

    Slurm sends SIGUSR2 to every process of a job, which would kill run.py. A blocked signal stays blocked through exec.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._pid = 0  # not the process itself, which cannot be pickled

    def __call__(self) -> None:
        """Run the command to its end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        self._pid = subprocess.Popen(self.command).pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        sys.exit(self._wait())

    def checkpoint(self) -> DelayedSubmission:
        """Let the run save its state. submitit calls this at SIGUSR2; what it returns runs when the job starts again."""
        from submitit.helpers import DelayedSubmission  # an optional dependency; submitit itself has imported it by now

        if self._pid:
            processes = []
            with suppress(psutil.NoSuchProcess):
                launcher = psutil.Process(self._pid)
                processes = [launcher, *launcher.children(recursive=True)]  # a launcher does not pass the signal on
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            if self._wait() == 0:
                sys.exit(0)
            psutil.wait_procs(processes[1:], timeout=LAUNCHER_SECONDS)
        return DelayedSubmission(Requeued(self.command))

    def _wait(self) -> int:
        # Not Popen.wait: SIGUSR2's handler interrupts it while it holds its lock, and would wait for that lock forever.
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
