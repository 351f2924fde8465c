"""Run Python command lines without waiting seconds for the import of torch each time.

Every process of pytest has a fork server (of the standard library), which has imported the libraries and nothing of the
suite. A command is a child of it: a process of its own, with its own arguments, variables, working folder and output, which
then imports the suite and runs it as `python …` would. The libraries were imported with the variables of the tests, one
thread and no limits: tests of imports, threads, limits or launchers need a real process.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# Options that make a run of the quick recipes last a second: one epoch of four steps, for the student and for its teacher.
TINY = [
    *("--set", "train.epochs=1", "--set", "data.train_limit=512"),
    *("--set", "teacher.train.epochs=1", "--set", "teacher.data.train_limit=512"),
]
# Variables that are read when libraries are imported: the fork server cannot give a command other values of these.
READ_AT_IMPORT = {"OMP_NUM_THREADS", "PYTHONPATH", "HF_HUB_OFFLINE"}
TORCH_VERBS = {"analyze", "data", "doctor", "verify", "export", "speed"}
LIBRARIES = ["accelerate", "filelock", "psutil", "safetensors.torch", "timm.optim", "torch", "torchvision", "yaml"]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(LIBRARIES)
_started: list[Started] = []


class Started:
    """A command that runs, with what of `subprocess.Popen` the tests need. Its output goes to files.

    Args:
        words: what stands behind `python`: a file or `-m`, a module, and their arguments.
        env: variables to add to those of this process.
        new_session: whether it leads a session, and with it a process group, of its own.
    """

    def __init__(
        self, *words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, new_session: bool = False
    ) -> None:
        self.words = [str(word) for word in words]
        self._output = Path(tempfile.mkdtemp(prefix="command-"))
        variables = {**os.environ, **(env or {})}
        arguments = (self.words, str(cwd), variables, str(self._output), new_session)
        self._process = _server.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid
        _started.append(self)

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._read("1")

    @property
    def stderr(self) -> str:
        """What it has said on its standard error so far."""
        return self._read("2")

    def _read(self, stream: str) -> str:
        path = self._output / stream
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def poll(self) -> int | None:
        """The exit code (negative: of the signal that ended it), or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """The exit code, once it has ended."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.words, timeout, self.stdout, self.stderr)
        return self.poll()

    def says(self, beginning: str, timeout: float = 120) -> bool:
        """Whether it prints a line that begins so before it ends; waits for it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended = self.poll() is not None
            if any(line.startswith(beginning) for line in self.stdout.splitlines()):
                return True
            if ended:
                return False
            time.sleep(0.01)
        return False

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it where it stands."""
        self.send_signal(signal.SIGKILL)
        self._process.join(60)

    def completed(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait; what `subprocess.run` returns."""
        code = self.wait(timeout)
        done = subprocess.CompletedProcess(self.words, code, self.stdout, self.stderr)
        shutil.rmtree(self._output, ignore_errors=True)
        _started.remove(self)
        return done


def command(
    *words: object, cwd: Path = ROOT, check: bool = False, env: Mapping[str, str] | None = None, real: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a Python command line from the repository's root and return its exit code and output, as text.

    A command that needs torch is a child of the fork server, unless a `real` process is asked for or `env` has variables
    that are read at import.
    """
    words = [str(word) for word in words]
    if not real and _needs_torch(words) and not READ_AT_IMPORT & set(env or ()):
        done = Started(*words, cwd=cwd, env=env).completed()
    else:
        variables = {**os.environ, **(env or {})}
        done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300, env=variables)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def _needs_torch(words: list[str]) -> bool:
    """Whether a command line imports torch. The others start as fast in a real process."""
    if words[0] != "-m":
        return words[0].endswith(".py")
    return words[1].startswith("tests.trials") or words[2] in TORCH_VERBS or "--parameters" in words


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command answered with exit code 2 and one sentence that holds these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def launch_variables(processes: int) -> list[dict[str, str]]:
    """The variables that a launcher gives to the processes of one distributed run, by rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def start_distributed(*words: object, processes: int, env: Mapping[str, str] | None = None) -> list[Started]:
    """Start the processes of one distributed run; returns them by rank."""
    return [Started(*words, env={**(env or {}), **variables}) for variables in launch_variables(processes)]


@atexit.register
def _end() -> None:
    """Leave nothing behind of tests that failed; otherwise this process would wait for it."""
    for started in _started:
        with contextlib.suppress(OSError):
            started.kill()
        shutil.rmtree(started._output, ignore_errors=True)


def _run(words: list[str], cwd: str, variables: dict[str, str], output: str, new_session: bool) -> None:
    """In the child: what `python WORDS` does."""
    if new_session:
        os.setsid()
    for number in (1, 2):
        file = os.open(os.path.join(output, str(number)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.path[:] = [path for path in _entries() if not Path(path).is_relative_to(TESTS)]
    multiprocessing.set_start_method(None, force=True)  # a child of a fork server would start its own by one
    try:
        if words[0] == "-m":
            sys.path.insert(0, cwd)
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _entries() -> Iterator[str]:
    """The search path without what stands for the folder that this process was started in."""
    return (path for path in sys.path if path and Path(path) != ROOT)
