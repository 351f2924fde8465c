#!/usr/bin/env bash
# Run a suite: train what this machine has not trained yet, then write its tables, figures and page.
#
#   ./run_all.sh                 the suite paper if there is a GPU, else quick
#   ./run_all.sh quick           8x8 digits with and without guidance: minutes on two CPU cores, no download
#   ./run_all.sh paper           the published comparison, 300 epochs per run
#   ./run_all.sh NAME            recipes/suites/NAME.yaml
#
# It first prints what is left to do and what that will cost. Finished runs are skipped, so the same command continues after
# an interruption. Runs and report are in results/local/, which git ignores: results/local/<suite>/ and results/local/index.html.
# At the end, accuracies are shown beside the published ones of the same recipes and seeds.
#
# Other options go to `python -m bench sweep`:
#   --dry-run           print the plan and the commands, and run nothing
#   --seeds N           seeds 0 to N - 1
#   --filter TEXT       only recipes whose id contains TEXT
#   --skip-published    leave out runs whose results are committed in results/<suite>/
#   --gpus-per-run N, --runs-per-gpu K, --retries N, --tracker NAME
#   --data-dir DIR, --results-dir DIR, --recipes-dir DIR
set -euo pipefail

# 1. The suite: the first word, if it is not an option.
suite=
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  suite=$1
  shift
fi
if [ -z "$suite" ]; then
  if [ -n "${CUDA_VISIBLE_DEVICES-all}" ] && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    suite=paper
  else
    suite=quick
    echo "no GPU: running the suite quick (./run_all.sh paper runs the published protocol)"
  fi
fi

# 2. Folders in options are relative to the caller's folder; the rest runs in the repository.
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --*-dir) options+=("$1" "$(realpath -m -- "${2:?$1 needs a folder}")"); shift ;;
    --*-dir=*) options+=("${1%%=*}" "$(realpath -m -- "${1#*=}")") ;;
    *) options+=("$1") ;;
  esac
  shift
done
cd "$(dirname "$0")"

# 3. PYTHON: an interpreter with the required packages. If there is none, .venv is made, once.
. bench/setup.sh

# 4. Teachers, missing runs, report.
exec "$PYTHON" -m bench sweep "$suite" ${options[@]+"${options[@]}"}
