#!/usr/bin/env bash
# Evidence from a GPU that is lent for minutes, the most valuable first: whether it computes what a CPU does, the speed of DeiT-Ti
# against the plain way and of all students, the kernels of a step, two runs side by side, then real training.
#   tests/gpu/evidence.sh [SECONDS] [DATA_DIR]
# SECONDS (540) is its limit. DATA_DIR has tiny_imagenet or cifar10; without it nothing is trained. After each part everything is
# packed: $OUT/evidence.tar.gz, $OUT/summary.txt. A second call does what is missing; on another machine, unpack evidence.tar.gz
# into results/local before. For trials: PYTHON (python3), STEPS (100 per measurement), STUDENTS, EPOCHS (30, on CIFAR-10), SLOWER
# (1: by what to multiply the limits of parts), OPTIONS (of the measurements, as "--set train.batch_size=16").
set -uo pipefail
cd "$(dirname "$0")/../.."
limit=${1:-540}
data=${2:-}
python=${PYTHON:-python3}
read -ra students <<<"${STUDENTS:-deit_tiny pit_tiny pvt_v2_b0 t2t_vit_7 pvt_tiny convit_tiny t2t_vit_14 cvt_13}"
read -ra options <<<"--synthetic 32 ${OPTIONS:-}"
work=results/local/evidence
out=${OUT:-results/local}
mkdir -p "$work" "$out"
declare -A warming=() tried=() # by student: the process that compiles it, which leads a group; whether it was measured

left() { echo $((limit - SECONDS)); }

pack() {
    local packed=$work/packed-$BASHPID file
    for file in "$work"/[0-9]*.txt "$work"/*.failed; do
        [ -s "$file" ] && { echo "== $(basename "$file")"; head -n 60 "$file"; }
    done >"$out/summary.txt"
    (cd "$work/.." && find evidence -regextype egrep -regex '.*\.(txt|failed|err|json|jsonl|csv)' -not -path '*/cache/*' -print0) |
        tar -czf "$packed" -C "$work/.." --null -T -
    mv "$packed" "$out/evidence.tar.gz"
}

signal_warming() { for pid in "${warming[@]}"; do kill "-$1" -- "-$pid" 2>/dev/null; done; }

trap 'signal_warming CONT; signal_warming TERM; pack; echo "packed into $out after $SECONDS s"' EXIT

part() { # part NAME SECONDS COMMAND…: for at most so many seconds, unless its result is there
    local name=$1 most=$(($2 * ${SLOWER:-1})) code
    shift 2
    [ -s "$work/$name.txt" ] && return
    [ "$(left)" -lt "$most" ] && most=$(left)
    [ "$most" -lt 5 ] && { echo "-- $name: no time is left"; return; }
    echo "== $name ($SECONDS s)"
    timeout --kill-after=20 "$most" "$@" 2>"$work/$name.err" | tee "$work/$name.part"
    code=${PIPESTATUS[0]}
    rm -f "$work/$name.failed"
    if [ "$code" = 0 ]; then
        mv "$work/$name.part" "$work/$name.txt"
        rm -f "$work/$name.err"
    else
        { cat "$work/$name.part"; tail -n 5 "$work/$name.err"; echo "exit code $code (124: out of time)"; } >"$work/$name.failed"
        rm -f "$work/$name.part"
        echo "-- $name: exit code $code, see $name.failed"
    fi
    pack
}

quietly() { # as part, while nothing compiles
    signal_warming STOP
    part "$@"
    signal_warming CONT
}

speed() { # speed NAME SECONDS RECIPE OPTIONS…
    local name=$1 most=$2 recipe=$3
    shift 3
    quietly "$name" "$most" "$python" -m bench speed --recipe "$recipe" "${options[@]}" --steps "${STEPS:-100}" \
        --json "$work/$name.json" "$@"
}

measure_ready() { # measure_ready STUDENT…: those whose compilation has ended, each alone. A slow one costs only itself
    local student
    for student in "$@"; do
        kill -0 "${warming[$student]:-none}" 2>/dev/null && continue
        unset "warming[$student]"
        [ -z "${tried[$student]:-}" ] && speed "2-speed-$student" 120 "$student/cifar100/guided" --compare plain
        tried[$student]=1
    done
}

wait_until() { # wait_until LEFT STUDENT…: until these are measured, or only so many seconds are left
    local least=$1 student
    shift
    for student in "$@"; do
        while [ -z "${tried[$student]:-}" ] && [ "$(left)" -gt "$least" ]; do
            sleep 0.5
            measure_ready "$@"
        done
    done
}

# 1. Compilation is work of the host: all students compile at once, beside the comparisons with the CPU.
for student in "${students[@]}"; do
    [ -s "$work/2-speed-$student.txt" ] && continue
    [ "$student" = "${students[0]}" ] && niceness=0 || niceness=10
    setsid nice -n $niceness "$python" -m bench speed --recipe "$student/cifar100/guided" "${options[@]}" --steps 1 \
        >"$work/compile-$student.err" 2>&1 </dev/null &
    warming[$student]=$!
done
part 1-correctness 150 "$python" -m tests.gpu.correctness "$work/runs"

# 2. Speed, memory and the share of a matrix product's FLOP/s, of all students against the plain way.
wait_until $((limit / 2)) "${students[0]}"
measure_ready "${students[@]}"
quietly 3-kernels 60 "$python" -m tests.gpu.kernels --recipe "${students[0]}/cifar100/guided" "${options[@]:2}"
wait_until $((limit / 3)) "${students[@]}"

# 3. Two runs side by side, and other ways to run one.
for i in 1 2; do
    part "4-side-by-side-$i" 90 "$python" -m bench speed --recipe "${students[0]}/cifar100/guided" "${options[@]}" \
        --steps "$((2 * ${STEPS:-100}))" --json "$work/4-side-by-side-$i.json" >"$work/side-by-side-$i.err" &
    sides+=($!)
done
wait "${sides[@]}"
cat "$work"/4-side-by-side-?.txt 2>/dev/null | grep images/s
measure_ready "${students[@]}"

# 4. Real training, as long as time lasts. What is stopped resumes in the next call, while the machine is the same.
if [ -n "$data" ] && ls "$data" | grep -qi tiny; then
    part 5-training 3600 "$python" -m bench sweep small --data-dir "$data" --results-dir "$work/results" --runs-per-gpu 6
elif [ -n "$data" ]; then
    settings=(--set "train.epochs=${EPOCHS:-30}" --set train.warmup_epochs=2)
    part 5-training-baseline 3600 "$python" bench/run.py --recipe deit_tiny/cifar10/baseline --data-dir "$data" \
        --results-dir "$work/results" "${settings[@]}"
    part 5-training-guided 3600 "$python" bench/run.py --recipe deit_tiny/cifar10/guided --data-dir "$data" \
        --results-dir "$work/results" "${settings[@]}" --set "teacher.train.epochs=$((2 * ${EPOCHS:-30}))"
fi
speed 6-offline 90 "${students[0]}/cifar100/guided-offline"
speed 6-compile-default 90 "${students[0]}/cifar100/guided" --set train.compile=default
speed 6-eager 90 "${students[0]}/cifar100/guided" --set train.compile=off
speed 6-pixels-on-host 90 "${students[0]}/cifar100/guided" --set data.residence=host
wait_until 5 "${students[@]}"
