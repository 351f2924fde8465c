#!/usr/bin/env bash
# Measurements on a GPU, in half an hour, into results/local/gpu/: the speed of all students, of the modes of torch.compile, of
# two runs side by side, and one baseline and one guided run from end to end. A second call measures only what is missing.
#   tests/gpu/on_a_gpu.sh [DATA_DIR]        DATA_DIR has cifar10; without it nothing is trained
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${1:-}
out=results/local/gpu
python=${PYTHON:-python3}
mkdir -p "$out"

measure() { # measure NAME OPTIONS…
    local name=$1
    shift
    [ -s "$out/$name.json" ] && return
    echo "== $name"
    if "$python" -m bench speed --synthetic 32 --json "$out/$name.json" "$@" 2>"$out/$name.err" | tee "$out/$name.txt"; then
        rm -f "$out/$name.err" "$out/$name.failed"
    else
        echo "$name: failed (exit code ${PIPESTATUS[0]}), see $out/$name.err" | tee "$out/$name.failed"
        rm -f "$out/$name.txt"
    fi
}

measure deit_tiny --recipe deit_tiny/cifar100/guided --steps 100 --compare plain
measure deit_tiny-offline --recipe deit_tiny/cifar100/guided-offline --steps 100
for mode in off default graphs; do
    measure "deit_tiny-compile-$mode" --recipe deit_tiny/cifar100/guided --steps 100 --set train.compile="$mode"
done
measure deit_tiny-host --recipe deit_tiny/cifar100/guided --steps 100 --set data.residence=host
for student in t2t_vit_7 t2t_vit_14 pit_tiny pvt_tiny pvt_v2_b0 convit_tiny cvt_13; do
    measure "$student" --recipe "$student/cifar100/guided" --steps 50 --compare plain
done

if [ ! -s "$out/side-by-side-1.json" ]; then
    echo "== two runs side by side"
    for i in 1 2; do
        { "$python" -m bench speed --recipe deit_tiny/cifar100/guided --synthetic 32 --steps 200 \
            --json "$out/side-by-side-$i.json" > "$out/side-by-side-$i.txt" 2>"$out/side-by-side-$i.err" &&
            rm "$out/side-by-side-$i.err"; } &
    done
    wait
    head -n 3 "$out"/side-by-side-?.txt
fi

if [ -n "$data" ]; then
    for guidance in baseline guided; do
        echo "== deit_tiny on CIFAR-10, $guidance: 30 epochs of the protocol paper, warm-up 2"
        "$python" bench/run.py --recipe "deit_tiny/cifar10/$guidance" --data-dir "$data" --results-dir "$out" \
            --set train.epochs=30 --set train.warmup_epochs=2 \
            $([ "$guidance" = guided ] && echo --set teacher.train.epochs=60) | tail -n 4
    done
fi
