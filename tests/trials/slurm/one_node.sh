#!/usr/bin/env bash
# A Slurm of one node on this machine: two partitions, two GPUs in name only, no accounting, as on many clusters.
# Everything it writes is in DIR. For Debian and its relatives; without systemd or cgroups; root only to install.
#   tests/trials/slurm/one_node.sh start DIR      installs what is missing (apt-get), starts, and waits until the node is idle
#   export SLURM_CONF=DIR/slurm.conf       all that sbatch, srun, squeue, scancel and scontrol need
#   tests/trials/slurm/one_node.sh stop DIR       kills the jobs and ends what start started
set -euo pipefail
[ $# = 2 ] || { sed -n 2,6p "$0"; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/sbin:/sbin

install() {
    local package missing=()
    for package in slurmctld slurmd slurm-client munge; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    apt-get update -q
    # Unless forbidden, the packages start their daemons, which would have no configuration here.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

free_ports() { # a port that is free now, twice
    python3 -c 'import socket
two = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in two))'
}

configure() {
    local user host ports cpus
    user=$(id -un) host=$(hostname -s) cpus=$(nproc)
    read -ra ports <<<"$(free_ports)"
    mkdir -p "$dir"/{state,spool}
    # No device is opened, but they must be devices. CUDA_VISIBLE_DEVICES gets the number at the end of the name.
    ln -sfn /dev/null "$dir/gpu0"
    ln -sfn /dev/zero "$dir/gpu1"
    head -c 128 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=$user
SlurmdUser=$user
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
# A container may have no cgroups to write.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
# Shorter than the defaults, so that trials wait less: KillWait, for one, is half a minute.
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
KillWait=10
ReturnToService=2
JobRequeue=1
GresTypes=gpu
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$cpus Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=node1 Default=YES MaxTime=60 State=UP
PartitionName=short Nodes=node1 MaxTime=2 State=UP
CONF
    echo "NodeName=node1 Name=gpu File=$dir/gpu[0-1]" >"$dir/gres.conf"
}

alive() { # alive NAME: whether the daemon with this folder's pid file runs
    kill -0 "$(cat "$dir/$1.pid" 2>/dev/null)" 2>/dev/null
}

launch() {
    # Forced, since it refuses a folder that others can write to, as that for temporary files.
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" || return
    slurmctld -c -f "$SLURM_CONF" || return
    slurmd -c -N node1 -f "$SLURM_CONF" || return
    for _ in {1..100}; do
        [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" = idle ] && return
        sleep 0.2
    done
    return 1
}

start() {
    if alive slurmctld; then
        echo "one_node.sh: already running in $dir" >&2
        return
    fi
    install
    configure
    launch && return
    echo "one_node.sh: the node does not become idle; the last lines of the logs:" >&2
    tail -n 15 "$dir"/{munged,slurmctld,slurmd}.log >&2 || true
    stop
    exit 1
}

stop() {
    local name
    if alive slurmctld && alive slurmd; then
        scancel --user="$(id -un)" || true
        for _ in {1..150}; do # longer than KillWait
            [ -z "$(squeue --noheader 2>/dev/null)" ] && break
            sleep 0.1
        done
    fi
    # Without cgroups Slurm loses track of a process whose parent has ended. Its variables have this SLURM_CONF and a job id.
    for name in $(grep -lsxz "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ); do
        if grep -qsz '^SLURM_JOB_ID=' "$name"; then kill -KILL "$(basename "$(dirname "$name")")" || true; fi
    done
    for name in slurmd slurmctld munged; do
        alive $name && kill "$(cat "$dir/$name.pid")"
        for _ in {1..100}; do
            alive $name || break
            sleep 0.1
        done
        if alive $name; then kill -KILL "$(cat "$dir/$name.pid")"; fi
    done
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) sed -n 2,6p "$0"; exit 2 ;;
esac
