"""What a cluster's queue says about the runs that were submitted to it.

Each such run has a slurm.json in its folder: the name of its submission, which is unique, and its place in it. It is
written before the submission, so a sweep that is killed loses track of no job, and a job number that the cluster uses again
does no harm.
"""

from __future__ import annotations

import logging
import secrets
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.storage import read_json, write_json
from bench.sweep.job import Job, State

LOG = logging.getLogger(__name__)
SUBMISSION = "slurm.json"
SQUEUE_SECONDS = 60  # after which squeue counts as not answering
FIELDS = ("JobArrayID", "Name", "State", "exit_code", "Reason")
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT", "REVOKED", "GONE"}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


class QueueUnavailable(RuntimeError):
    """The queue does not answer now, so nothing is known about its jobs."""


@dataclass(frozen=True)
class QueueEntry:
    """A job as squeue lists it.

    state: Slurm's; "GONE" for a job that squeue no longer lists.
    code: exit code, or minus the signal that ended it; None if it has not ended or is gone.
    """

    id: str
    name: str = ""
    state: str = "GONE"
    code: int | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job is over."""
        return self.state in ENDED

    @property
    def waits(self) -> bool:
        """Whether the job has not started, or waits to be started again."""
        return self.state in WAITING


def read_queue() -> dict[str, QueueEntry]:
    """This user's jobs that wait, run or ended in the last minutes, by id. Raises QueueUnavailable."""
    command = ["squeue", "--noheader", "--me", "--states=all", "--array"]
    command.append(f"--Format={','.join(f'{field}:|' for field in FIELDS)}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = getattr(error, "strerror", None) or f"no answer in {SQUEUE_SECONDS} s"
        raise QueueUnavailable(f"squeue: {problem}") from None
    if answer.returncode:
        raise QueueUnavailable((answer.stderr.strip().splitlines() or [f"squeue: exit code {answer.returncode}"])[-1])
    return parse(answer.stdout)


def parse(text: str) -> dict[str, QueueEntry]:
    """The entries by id (34, or 34_0 of an array) in what squeue prints for FIELDS, with a `|` after each field."""
    entries = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) > len(FIELDS) and parts[-3].isdigit():  # else for example a banner that the site prints
            state = parts[-4]
            code = _exit_code(int(parts[-3])) if state in ENDED else None
            entries[parts[0]] = QueueEntry(parts[0], "|".join(parts[1:-4]), state, code, parts[-2])
    return entries


def _exit_code(wait_status: int) -> int:
    code = -(wait_status & 0x7F) or wait_status >> 8  # as wait(2) defines it
    by_shell = 128 - code
    return by_shell if -by_shell in set(signal.Signals) else code


def write_submission(jobs: Sequence[Job], name: str) -> str:
    """Note in the folders of jobs that they are submitted together, in this order. Returns the name of the submission."""
    name = f"{name}-{secrets.token_hex(4)}"
    for index, job in enumerate(jobs):
        write_json(job.folder.path / SUBMISSION, {"name": name, "index": str(index) if len(jobs) > 1 else ""})
    return name


def read_queue_states(jobs: Sequence[Job]) -> None:
    """Set the state of jobs that wait or run on the cluster.

    If the queue does not answer, they keep the state that their folders give, and a warning says so.
    """
    submitted = [job for job in jobs if (job.folder.path / SUBMISSION).exists()]
    if not submitted:
        return
    try:
        entries = {(entry.name, entry.id.partition("_")[2]): entry for entry in read_queue().values()}
    except QueueUnavailable as error:
        LOG.warning(f"{error}: the states are those that the runs wrote last, since the cluster's queue is not known")
        return
    for job in submitted:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file, or a job that squeue no longer lists
            submission = read_json(job.folder.path / SUBMISSION)
            set_state(job, entries[submission["name"], submission["index"]])


def set_state(job: Job, entry: QueueEntry) -> None:
    """Set a job's state from its entry, if it is in the queue: locks of other machines may not be visible here."""
    if entry.ended:
        return
    job.cluster_id = entry.id
    if entry.waits:
        job.state, job.note = State.QUEUED, f"job {entry.id} ({entry.reason})"
        return
    status = job.folder.status()
    place = f"{job.progress} on {status.get('host')}, " if status.get("state") == "running" else ""
    job.state, job.note = State.RUNNING, f"{place}job {entry.id}"
