#!/usr/bin/env bash
# Runs a suite and draws its tables, pictures and page:
#
#   ./run_all.sh                 paper where there is a GPU, else quick
#   ./run_all.sh quick           baseline against guided on digits: minutes on two CPU cores, no download
#   ./run_all.sh paper           the published comparison, 300 epochs a run
#   ./run_all.sh NAME            recipes/suites/NAME.yaml
#
# What is recorded under the same hash is skipped, so the same command goes on after an interruption.
# Further options go to `python -m bench sweep`:
#   --dry-run           print the plan, and what would run
#   --seeds N           seeds 0 to N - 1
#   --filter TEXT       only recipes whose id holds TEXT
#   --gpus-per-run N, --runs-per-gpu K, --retries N, --tracker NAME
#   --data-dir DIR, --results-dir DIR, --recipes-dir DIR
set -euo pipefail

# 1. Which suite: the first word, if it is no option.
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
    echo "no GPU here: running the suite quick (./run_all.sh paper runs the published protocol)"
  fi
fi

# 2. Folders are the caller's, everything else is the repository's.
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

# 3. Python with what the suite needs; made once, in .venv.
. bench/setup.sh

# 4. Teachers, then every cell that is not recorded, then tables and pictures in results/<suite>/, and results/index.html.
exec "$PYTHON" -m bench sweep "$suite" ${options[@]+"${options[@]}"}
