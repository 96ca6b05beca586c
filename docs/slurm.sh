#!/bin/bash
# The whole pipeline on several nodes of a Slurm cluster:  sbatch --nodes=4 docs/slurm.sh   (JOBS=8 sbatch ... for 8 stages at once)
#
# The project folder lies on a file system that all nodes mount under the same path, with its .venv in it (make setup).
# Ray's head and the command run on the first node; work goes to all of them. Adapt the lines below to your cluster.
#SBATCH --job-name=seambench
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
##SBATCH --gpus-per-node=4

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is set by sbatch}"
export PATH="$PWD/.venv/bin:$PATH"

# Who reaches the head and has the token can run code as you: a new one for each job, in a file that only you can read. srun
# takes the environment along, so a path is told and not the token, which `scontrol` and process lists could show.
umask 077
mkdir -p .runs
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.runs/token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" python -c 'import socket; print(socket.gethostbyname(socket.gethostname()))')
port=$((20000 + SLURM_JOB_ID % 10000))          # several jobs may share a node
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID"      # on each node's own disk, and short: sockets lie in it
cpus=${SLURM_CPUS_PER_TASK:-1}

# --block keeps srun's step alive as long as Ray; Slurm ends the steps with the job
srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
  ray start --head --block --disable-usage-stats --include-dashboard=false --node-ip-address="$address" --port="$port" \
  --num-cpus="$cpus" --temp-dir="$RAY_TMPDIR" &
export RAY_ADDRESS="$address:$port"
until python -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)' "$address" "$port" 2> /dev/null; do
  kill -0 $! 2> /dev/null || { echo "Ray's head didn't start on $first" >&2; exit 1; }
  sleep 1
done
workers=$!
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$first" --overlap --kill-on-bad-exit \
    ray start --block --disable-usage-stats --address="$RAY_ADDRESS" --num-cpus="$cpus" &
  workers=$!
fi
# wait for all nodes, so that no training is refused for want of CPUs
python - "$SLURM_JOB_NUM_NODES" "$workers" << 'WAIT'
import sys, time
import psutil
from pipeline.running import cluster
nodes, workers = int(sys.argv[1]), int(sys.argv[2])
for _ in range(60):
    with cluster.session():
        import ray
        if sum(node["Alive"] for node in ray.nodes()) == nodes:
            sys.exit()
    if not psutil.pid_exists(workers) or psutil.Process(workers).status() == psutil.STATUS_ZOMBIE:
        sys.exit("Ray didn't start on every node; what it said stands above")
    time.sleep(5)
sys.exit("not all nodes joined Ray within five minutes")
WAIT

# two minutes before the time is up Slurm sends SIGTERM to this script (--signal above): the stages end in their own way, and the
# requeued job goes on from the trainings' checkpoints
make repro JOBS="${JOBS:-4}" KEEP_GOING=1 &
run=$!
trap 'kill -TERM $run; wait $run || true; rm -f "$RAY_AUTH_TOKEN_PATH"; scontrol requeue "$SLURM_JOB_ID"; exit' TERM
code=0
wait $run || code=$?
rm -f "$RAY_AUTH_TOKEN_PATH"
exit $code
