#!/usr/bin/env bash
# Executes docs/results.ipynb in a clone after the suite `quick`. Checks that no cell fails, that the whole takes less than two
# minutes, that the pictures stay small and that no path or host name is in the outputs.
#
#   tests/trials/notebook.sh [--write] [RESULTS]
#
# RESULTS: a results folder in which `quick` is finished; without it, ./run_all.sh quick trains it in the clone.
# --write: write the outputs into docs/results.ipynb. nbclient, ipykernel and ipywidgets are installed into a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD python=${PYTHON:-python} write=
if [ "${1:-}" = --write ]; then write=$root/docs/results.ipynb; shift; fi
results=${1:+$(realpath "$1")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q . "$work/clone"
cp docs/results.ipynb "$work/clone/docs/"  # with changes that are not committed
cd "$work/clone"
export PYTHONPATH=$work/clone
if [ -n "$results" ]; then ln -s "$results/local" results/local; else ./run_all.sh quick; fi
"$python" -m pip install --quiet --target "$work/packages" nbclient ipykernel ipywidgets
cd docs
PYTHONPATH=$work/clone:$work/packages WRITE=$write "$python" - <<'PYTHON'
import os
import re
import socket
import time

import nbformat
from nbclient import NotebookClient

MAX_SECONDS, MAX_IMAGE_BYTES = 120, 300_000
notebook = nbformat.read("results.ipynb", 4)
began = time.monotonic()
NotebookClient(notebook, kernel_name="python3").execute()
seconds = time.monotonic() - began
outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
images = sum(len(output.get("data", {}).get("image/png", "")) for output in outputs)
texts = [str({**output, "data": {k: v for k, v in output.get("data", {}).items() if k != "image/png"}}) for output in outputs]
for text in texts:
    assert not re.search(r"/(home|root|tmp|work|usr|Users)\b", text) and socket.gethostname() not in text, text
    assert "'output_type': 'stream'" not in text, text  # a warning or a log message
assert seconds < MAX_SECONDS and 0 < images < MAX_IMAGE_BYTES, (seconds, images)
for cell in notebook.cells:
    cell.metadata = {}  # times of execution
if os.environ["WRITE"]:
    nbformat.write(notebook, os.environ["WRITE"])
print(f"{len(notebook.cells)} cells, {seconds:.0f} s, images {images / 1000:.0f} kB")
PYTHON
