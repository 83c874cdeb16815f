#!/usr/bin/env bash
# Study on a Slurm allocation, with a Ray cluster for the duration of the job. Submit it from the root of a checkout on a shared
# disk, with fipray installed in .venv (make install):
#
#     sbatch deploy/slurm.sh experiments.quickstart:study results/quickstart
#     sbatch --nodes=4 --gpus-per-node=4 deploy/slurm.sh mystudies:study s3://bucket/mine -p members=16
#
# Arguments: the study; a results directory on a shared disk, or an address; further arguments of `fipray run`.
# If the job reaches its time limit, submit the same command again to resume.

#SBATCH --job-name=fipray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# Whole nodes: Ray uses fixed ports, and symmetric-run ends with `ray stop`, which ends all your Ray processes on the node.
#SBATCH --exclusive

set -euo pipefail

study=${1:?the study, as module:function}
into=${2:?the results directory, or an address such as s3://bucket/x}
shift 2

cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}"
source .venv/bin/activate

# A token for this cluster. srun passes it to the nodes in the environment, so it appears on no command line.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN

# The head is the node that runs this script. Its name must resolve to an address that other nodes can reach, not 127.0.1.1.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "${nodes[0]}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
    fipray run "$study" --address auto --into "$into" "$@"
