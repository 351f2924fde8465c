"""What a cluster's queue says of the runs that were submitted to it.

Beside each such run lies slurm.json: the name that its submission alone bears, and its place in it. It is written before
the submission, so a sweep that is killed loses sight of nothing, and a number that a cluster gives out anew means nothing.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.storage import read_json, write_json

if TYPE_CHECKING:
    from bench.sweep.plan import Job

FIELDS = ("JobArrayID", "Name", "State", "exit_code", "Reason")
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT", "REVOKED", "GONE"}
WAITS = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


class Unanswered(RuntimeError):
    """The queue cannot be asked now, which says nothing about what is in it."""


@dataclass(frozen=True)
class Entry:
    """A job as squeue tells it. Slurm's state, and as `GONE` that of a job that it has forgotten.

    code: with which it exited, or minus the signal that ended it; None: it has not ended, or was forgotten.
    """

    id: str
    name: str = ""
    state: str = "GONE"
    code: int | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def waits(self) -> bool:
        return self.state in WAITS


def parse(text: str) -> dict[str, Entry]:
    """The entries by id (34, or 34_0 of an array) of what squeue prints for FIELDS, each with a `|` after it."""
    out = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) <= len(FIELDS) or not parts[-3].isdigit():
            continue  # a banner of the site's own wrapper, say
        name, state = "|".join(parts[1:-4]), parts[-4]
        out[parts[0]] = Entry(parts[0], name, state, _exit_code(int(parts[-3])) if state in ENDED else None, parts[-2])
    return out


def _exit_code(status: int) -> int:
    code = -(status & 0x7F) or status >> 8  # as wait(2) tells it
    by_shell = 128 - code
    return by_shell if -by_shell in set(signal.Signals) else code


def queue() -> dict[str, Entry]:
    """This user's jobs that wait, run, or have ended in the last minutes. Raises Unanswered."""
    asked = ["squeue", "--noheader", "--me", "--states=all", "--array"]
    asked.append(f"--Format={','.join(f'{field}:|' for field in FIELDS)}")
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"squeue: {getattr(error, 'strerror', None) or 'no answer within a minute'}") from None
    if told.returncode:
        raise Unanswered((told.stderr.strip().splitlines() or [f"squeue: exit code {told.returncode}"])[-1])
    return parse(told.stdout)


def announce(jobs: Sequence[Job], name: str) -> str:
    """Note beside each run that it is about to be submitted, in this order, under the name that is returned."""
    name = f"{name}-{secrets.token_hex(4)}"
    for index, job in enumerate(jobs):
        write_json(_file(job), {"name": name, "index": index if len(jobs) > 1 else None})
    return name


def submitted(job: Job, entries: dict[tuple[str, str], Entry]) -> Entry | None:
    """The entry of a run's last submission, if the queue still knows it."""
    try:
        told = read_json(_file(job))
        return entries.get((told["name"], "" if told["index"] is None else str(told["index"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def by_name(entries: dict[str, Entry]) -> dict[tuple[str, str], Entry]:
    """Entries by the name of their submission and their place in it."""
    return {(entry.name, entry.id.partition("_")[2]): entry for entry in entries.values()}


def mark(jobs: Sequence[Job]) -> None:
    """Give jobs that wait or run on the cluster their state. Where the queue cannot be asked they keep the one that their
    folders tell, and a line says so."""
    asked = [job for job in jobs if job.state != "recorded" and _file(job).exists()]
    if not asked:
        return
    try:
        entries = by_name(queue())
    except Unanswered as error:
        print(f"{error}: what the cluster does is not known, the states are what the runs last wrote", file=sys.stderr)
        return
    for job in asked:
        if (entry := submitted(job, entries)) is not None:
            see(job, entry)


def see(job: Job, entry: Entry) -> None:
    """Let a job's state be what the queue says, of one that is in it. Another machine's locks may not be seen from here."""
    if entry.ended:
        return
    job.cluster_id = entry.id
    if entry.waits:
        job.state, job.note = "queued", f"job {entry.id} ({entry.reason})"
        return
    status, at = job.folder.status(), ""
    if status.get("state") == "running":
        at = f"epoch {job.epoch}/{job.target.train.epochs} on {status.get('host')}, "
    job.state, job.note = "running", f"{at}job {entry.id}"


def _file(job: Job) -> Path:
    return job.folder.path / "slurm.json"
