#!/usr/bin/env bash
# A Slurm cluster of one node on the loopback address, for tests: `cluster.sh start FOLDER`, `cluster.sh stop FOLDER`.
#
# Needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root: the node's daemon starts jobs as whoever submitted
# them. Everything lies in FOLDER; clients find the cluster by SLURM_CONF=FOLDER/slurm.conf. The node claims 8 processors, 4 GiB
# and two GPUs; nobody holds jobs to that but Slurm's own accounts.
set -euo pipefail

verb=${1:?start or stop} dir=${2:?a folder}
port=${OKAPI_TEST_SLURM_PORT:-27817}
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

until_true() { # until_true SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until timeout 5 "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "cluster.sh: gave up waiting for: $*" >&2; return 1; }
        sleep 0.1
    done
}

if [ "$verb" = stop ]; then
    for pid in slurmd slurmctld munge/munged; do
        if alive "$dir/$pid.pid"; then kill "$(cat "$dir/$pid.pid")"; fi
    done
    exit
fi

mkdir -p "$dir"/{state,spool,log,gpu,munge}
# A GPU has to be a device; two that swallow all that is written will do.
for gpu in 0 1; do [ -c "$dir/gpu/$gpu" ] || mknod "$dir/gpu/$gpu" c 1 3; done
printf 'AutoDetect=off\nNodeName=node1 Name=gpu File=%s/gpu/[0-1]\n' "$dir" > "$dir/gres.conf"
cat > "$SLURM_CONF" <<EOF
ClusterName=okapi
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
# The node claims more processors than this machine may have.
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# What takes more memory than it asked for is ended, as cgroups would.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
GresTypes=gpu
MinJobAge=${OKAPI_TEST_SLURM_MIN_JOB_AGE:-30}
MaxJobCount=${OKAPI_TEST_SLURM_MAX_JOBS:-20000}
MaxArraySize=501
KillWait=5
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=8 RealMemory=4096 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=short Nodes=ALL MaxTime=1 PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=off
EOF

if ! alive "$dir/munge/munged.pid"; then
    [ -s "$dir/munge/key" ] || head -c 128 /dev/urandom > "$dir/munge/key"
    chmod 600 "$dir/munge/key"
    rm -f "$dir"/munge/socket*
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/munged.pid" \
        --log-file="$dir/log/munged" --seed-file="$dir/munge/seed"
fi
until_true 10 munge -n -S "$dir/munge/socket"
alive "$dir/slurmctld.pid" || slurmctld
# A folder that the node does not see, though it is on this machine.
hidden=${OKAPI_TEST_SLURM_HIDDEN:-}
if ! alive "$dir/slurmd.pid"; then
    if [ -z "$hidden" ]; then
        slurmd -N node1
    else
        unshare --mount sh -c 'mount -t tmpfs none "$1" && exec slurmd -N node1' sh "$hidden"
    fi
fi
until_true 30 sh -c 'sinfo -h -o %T | grep -qE "idle|mixed|allocated"'
