"""Run command lines inside this process, for tests that need many of them."""

from __future__ import annotations

import signal

import pytest

import bench.__main__
from bench import run
from bench.train.main import main as run_main
from tests.helpers.hostile import sentence_problem


def call(capsys: pytest.CaptureFixture[str], program: str, *words: object) -> tuple[int, str, str]:
    """Run "run.py" or "bench" with these words. Returns its exit code, stdout and stderr."""
    words = [str(word) for word in words]
    capsys.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        code = run_main(run.parser().parse_args(words)) if program == "run.py" else bench.__main__.main(words)
    except SystemExit as ended:  # of argparse
        code = ended.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return (code, *capsys.readouterr())


def assert_sentence(errors: str, *names: str) -> None:
    """Assert that errors are a usage of argparse, or one sentence that has a key or one of these names."""
    assert errors.startswith(("error: ", "usage: ")), errors
    assert errors.startswith("usage: ") or sentence_problem(errors.rstrip("\n"), *names) is None, errors
