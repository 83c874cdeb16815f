#!/usr/bin/env bash
# A study on the nodes of a Slurm allocation: a Ray cluster for as long as the study takes. In the root of a checkout that
# every node sees, with fipray installed in .venv (make install):
#
#     sbatch deploy/slurm.sh experiments.quickstart:study results/quickstart
#     sbatch --nodes=4 --gpus-per-node=4 deploy/slurm.sh mystudies:study s3://bucket/mine -p members=16
#
# The first is the study, the second a results directory that every node sees or an address, and the rest goes to `fipray run`.
# Submitted again after its time is over, the same command goes on from where it was.

#SBATCH --job-name=fipray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# A node for itself: Ray takes fixed ports, and symmetric-run ends with `ray stop`, which ends every Ray process of yours there.
#SBATCH --exclusive

set -euo pipefail

study=${1:?the study, as module:function}
into=${2:?the results directory, or an address such as s3://bucket/x}
shift 2

cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}"
source .venv/bin/activate

# A token for this cluster alone. It reaches the nodes in the environment, which srun hands on, and stands in no command.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN

# The head is the node where this script runs. Its name must mean an address that the other nodes reach, not 127.0.1.1.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "${nodes[0]}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
    fipray run "$study" --address auto --into "$into" "$@"
