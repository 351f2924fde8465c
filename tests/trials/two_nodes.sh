#!/usr/bin/env bash
# One recipe on two "nodes": two launches on this machine, each with its own cache, that connect over loopback, share the
# results folder and train with gloo. Compares the history with that of one process.
#
#   tests/trials/two_nodes.sh [RESULTS]
#
# On real nodes the same command runs on each, with its own --machine_rank, the address of node 0 and --num_processes, the
# number of GPUs of all nodes (docs/cluster.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
results=${1:-$(mktemp -d)}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
recipe=(--recipe deit_micro/digits/guided --protocol quick --set train.epochs=2 --set train.threads=1 --set data.train_limit=512
  --set teacher.train.epochs=1 --set teacher.data.train_limit=512)

node() { # rank
  # without a GPU accelerate starts several processes only with --multi_gpu; they compute on the CPU all the same
  LOCALITY_BENCH_CACHE="$results/cache$1" CUDA_VISIBLE_DEVICES='' "$python" -m accelerate.commands.launch --multi_gpu --num_machines 2 --machine_rank "$1" \
    --main_process_ip 127.0.0.1 --main_process_port "$port" --num_processes 2 \
    bench/run.py --num-processes 2 "${recipe[@]}" --results-dir "$results/two"
}

node 1 > "$results/node1.log" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null || true' EXIT
node 0
wait "$other"
LOCALITY_BENCH_CACHE="$results/cache0" CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1 \
  "$python" bench/run.py "${recipe[@]}" --results-dir "$results/one"

"$python" - "$results" <<'PYTHON'
import csv, json, sys
from pathlib import Path

histories, records = [], []
for name in ("one", "two"):
    (folder,) = (path.parent for path in Path(sys.argv[1], name).rglob("guided/*/record.json"))
    records.append(json.loads((folder / "record.json").read_text()))
    histories.append(list(csv.DictReader(open(folder / "history.csv"))))
assert [record["world_size"] for record in records] == [1, 2] and records[0]["hash"] == records[1]["hash"]
for one, two in zip(*histories, strict=True):
    print("epoch", one["epoch"], *(f"{name}: {one[name]} and {two[name]}" for name in ("train_loss", "guidance_loss")))
    for name in ("train_loss", "guidance_loss"):
        assert abs(float(two[name]) / float(one[name]) - 1) < 1e-4, name  # as in tests/test_train.py
print("one process and two nodes agree")
PYTHON
