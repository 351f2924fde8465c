"""A substitute for bench/run.py in tests of processes: no training. At each attempt it does what $STUB says, JSON of
{recipe id: [one word per attempt]}, and leaves the files that a run leaves. Its record is that in the file $STUB_RECORD."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from bench.cli import BAD_INPUT, FAILED, STOPPED, compose  # noqa: E402
from bench.config.numerics import numerics_versions  # noqa: E402
from bench.locks import RunLocked, exclusive  # noqa: E402
from bench.run import parser  # noqa: E402
from bench.runs.folder import RunFolder  # noqa: E402
from bench.runs.record import read_record  # noqa: E402

arguments = parser().parse_args()
recipe = compose(arguments)
recipe = recipe.teacher if arguments.teacher_only else recipe
folder = RunFolder(arguments.results_dir, recipe)
words = json.loads(os.environ["STUB"]).get(recipe.id, ["record"])
attempts = Path(f"{folder.path}.attempts")
attempts.parent.mkdir(parents=True, exist_ok=True)
number = len(attempts.read_text()) if attempts.exists() else 0
attempts.write_text("x" * (number + 1))
word = words[min(number, len(words) - 1)]
print(f"attempt {number}: {word}", flush=True)
if word == "input":
    print("error: data.subset: got 1, allowed from 2", file=sys.stderr)
    sys.exit(BAD_INPUT)
try:
    lock = exclusive(folder.path, "busy")
    lock.__enter__()
except RunLocked:
    print("error: busy", file=sys.stderr)
    sys.exit(STOPPED)
if word == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder.write_status("running", epoch=1, epochs=recipe.train.epochs)
if word in ("hang", "stubborn"):
    time.sleep(100)
if word == "worker":  # in a session of its own, as elastic launchers start it, which outlives its leader
    worker = subprocess.Popen(["sleep", "100"], start_new_session=True)
    (folder.path / "worker").write_text(str(worker.pid))
if word in ("die", "worker"):
    os.kill(os.getpid(), signal.SIGKILL)
if word == "fail":
    folder.write_status("failed", error="RuntimeError: no such kernel")
    print("error: RuntimeError: no such kernel\nTraceback of a launcher", file=sys.stderr)
    sys.exit(FAILED)
own = {"id": recipe.id, "hash": recipe.hash, "seed": recipe.seed, "settings": [f"attempt {number}"]}
own["numerics"] = numerics_versions(recipe)
folder.write_record(dataclasses.replace(read_record(Path(os.environ["STUB_RECORD"])), **own))
folder.write_status("done", epoch=1, epochs=1)
