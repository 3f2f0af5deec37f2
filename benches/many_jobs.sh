#!/usr/bin/env bash
# How much a coordinator takes whose run is ten thousand jobs of Slurm, and how often it asks the cluster: `benches/many_jobs.sh OKAPI [JOBS]`.
#
# Starts a cluster of one node (tests/slurm/cluster.sh: Debian's Slurm packages, root). The time is that of the cluster, which starts
# a few jobs a second; what counts are the memory, the processor's time and the questions.
set -euo pipefail

okapi=$(realpath "${1:?the program}") jobs=${2:-10000}
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
export OKAPI_TEST_SLURM_PORT=${OKAPI_TEST_SLURM_PORT:-29817} OKAPI_TEST_SLURM_MAX_JOBS=$((2 * jobs))
bash "$here/tests/slurm/cluster.sh" start "$folder/cluster"
trap 'bash "$here/tests/slurm/cluster.sh" stop "$folder/cluster"; rm -rf "$folder"' EXIT
export SLURM_CONF=$folder/cluster/slurm.conf

mkdir -p "$folder/bin" "$folder/project"
for program in squeue sbatch; do
    printf '#!/bin/sh\necho >> %s\nexec %s "$@"\n' "$folder/$program" "$(command -v $program)" > "$folder/bin/$program"
    chmod +x "$folder/bin/$program"
done
cat > "$folder/project/p.yaml" <<EOF
okapi: 1
name: many
nodes:
  work:
    for_each: {n: [$(seq -s, 1 "$jobs")]}
    stage: command
    resources: {cpu: 0.5, mem: 60M}
    run: 'echo \${each.n} > "\$OKAPI_OUTPUT_DATA"'
    outputs: {data: text}
EOF
cd "$folder/project"
PATH=$folder/bin:$PATH python3 - "$okapi" "$jobs" <<'EOF'
import resource, subprocess, sys, time

okapi, jobs = sys.argv[1:]
began = time.time()
# What the cluster's programs take is theirs.
process = subprocess.Popen([okapi, "run", "p.yaml", "--executor", "slurm", "--cluster-jobs", jobs, "--quiet"])
_, status, usage = __import__("os").wait4(process.pid, 0)
assert status == 0, status
print(f"{jobs} jobs in {time.time() - began:.0f} s: {usage.ru_maxrss / 1024:.0f} MiB, "
      f"{usage.ru_utime + usage.ru_stime:.0f} s of a processor with the programs that it asks")
EOF
seconds=$SECONDS
echo "$(wc -l < "$folder/sbatch") submissions, $(wc -l < "$folder/squeue") questions, one in $((seconds / $(wc -l < "$folder/squeue"))) s"
