"""The processes in which `python -m bench speed` measures. This side needs no torch.

Each variant has a process of its own, since precision and memory belong to a process. Variants are measured in turns, so
that other load of the machine affects all of them. Between its turns a process is stopped, together with its data workers,
which would otherwise fill their queues.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from bench.config.schema import RecipeError
from bench.runs.record import Code, Hardware

CLOSE_SECONDS = 20  # that a process has to end by itself, which removes what its workers have in /tmp
POLL_SECONDS = 1

# the libraries first, so that the time of their imports is known
START = (
    "import time; t = time.perf_counter(); import accelerate, timm, torch; t = time.perf_counter() - t;"
    " from bench.train.speed_worker import serve; serve(t)"
)


@dataclass(frozen=True)
class Prepared:
    """A variant that is ready. Seconds from the start of its process to its first batch, and of the imports among them."""

    seconds: float
    import_seconds: float
    precision: str
    dataset: str  # fingerprint


@dataclass(frozen=True)
class Usage:
    """Peak memory so far, and torch.compile's mode, "off" or "fell back"."""

    peak_memory_mib: float
    compile: str


@dataclass(frozen=True)
class Details:
    """What is measured once.

    parts: seconds of each part of a step.
    evaluation: images/s.
    flops: per image, by part.
    matrix_flops: FLOP/s of a matrix product.
    """

    parts: dict[str, float]
    evaluation: float
    flops: dict[str, float]
    matrix_flops: float
    hardware: Hardware
    libraries: dict[str, str]
    code: Code


class VariantProcess:
    """A variant in its own process and session. Leaving the context ends the whole session.

    Args:
        name: of the variant, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self._connection, other_end = Pipe()
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(other_end.fileno())],  # -P: import this package, not a local one
                stdin=subprocess.DEVNULL,
                stdout=2,  # its output is not a result
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                pass_fds=[other_end.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> VariantProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGKILL)  # ends stopped processes, too
        self._process.wait()
        self._connection.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended already; on macOS only zombies are left
            os.killpg(self._process.pid, number)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let the session run inside the block, and stop it afterwards."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def ask(self, request: str, *arguments: object) -> Any:
        """The answer of a method of `speed_worker.Service`.

        Raises:
            RecipeError: the method raised one.
            RuntimeError: it raised something else, or the process has ended.
        """
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells it
            self._connection.send((request, arguments))
        outcome, answer = self._answer()
        if outcome == "refused":
            raise RecipeError(answer)
        if outcome == "failed":
            raise RuntimeError(f"the variant {self._name!r} failed:\n{answer}")
        return answer

    def _answer(self) -> tuple[str, object]:
        try:
            # data workers keep the pipe open, so the end of the process alone does not close it
            while not self._connection.poll(POLL_SECONDS):
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._signal(signal.SIGKILL)
            code = self._process.wait()
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise RuntimeError(f"the process of the variant {self._name!r} ended without an answer ({reason})") from None

    def close(self) -> None:
        """Ask the process to end."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def wait(self) -> None:
        """Wait until the process has ended, at most `CLOSE_SECONDS`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
