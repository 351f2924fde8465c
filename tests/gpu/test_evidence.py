"""evidence.sh: what it has found is not measured again, a part that fails costs only itself, and all of it is packed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.helpers.process import ROOT

# Stands for Python: it notes what it is asked for, and answers at once. PiT fails.
STUB = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *pit_tiny*--compare*) echo "no memory" >&2; exit 3 ;;
    *) echo "an answer to $1 $2 $3" ;;
esac
"""


def evidence(project: Path, seconds: int) -> list[str]:
    """Run it. Returns the calls of Python."""
    stub, calls = project / "python", project / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)
    calls.write_text("")
    variables = {"PYTHON": str(stub), "CALLS": str(calls), "STUDENTS": "deit_tiny pit_tiny", "OUT": str(project / "out")}
    script = project / "tests" / "gpu" / "evidence.sh"
    done = subprocess.run(
        [script, str(seconds)], env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return calls.read_text().splitlines()


def test_a_second_call_does_what_is_missing_and_all_is_packed(tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "gpu" / "evidence.sh", tmp_path / "tests" / "gpu")
    first = evidence(tmp_path, 60)
    assert any("--compare plain" in call and "deit_tiny" in call for call in first)
    assert any("tests.gpu.correctness" in call for call in first)
    with tarfile.open(tmp_path / "out" / "evidence.tar.gz") as packed:
        assert {"evidence/2-speed-deit_tiny.txt", "evidence/2-speed-pit_tiny.failed"} <= set(packed.getnames())
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "an answer to -m bench speed" in summary and "no memory" in summary and "exit code 3" in summary

    shutil.rmtree(tmp_path / "out")
    missing = [call for call in evidence(tmp_path, 60) if "--steps 1 " not in f"{call} "]
    assert len(missing) == 1 and "pit_tiny" in missing[0]
    assert (tmp_path / "out" / "evidence.tar.gz").exists()


def test_without_time_it_only_packs(tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "gpu" / "evidence.sh", tmp_path / "tests" / "gpu")
    assert not [call for call in evidence(tmp_path, 0) if "--steps 1 " not in f"{call} "]
    assert (tmp_path / "out" / "evidence.tar.gz").exists()
