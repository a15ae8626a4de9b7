#!/usr/bin/env bash
# Train on a slurm cluster.
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [further options of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are read from the environment.
# REQUEUE=1 makes it a batch job, which saves SAVE_BEFORE (120) seconds before its time is up, goes back
# into the queue and goes on from there; SBATCH_ARGS then says how long it may run.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    sed -n '2,6s/^# \?//p' "$0" >&2
    exit 2
fi
words=("$@")
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
((per_node > gpus)) && per_node=$gpus

size=(
    --job-name="$job_name"
    --gres=gpu:"$per_node"
    --ntasks="$gpus"
    --ntasks-per-node="$per_node"
    --cpus-per-task="${CPUS_PER_TASK:-5}"
)
if [ "${REQUEUE:-}" = 1 ]; then
    # slurm runs a copy of the script that it is given, from where tools/ is not found.
    again=$(printf '%q ' env REQUEUE=inside bash "$(realpath "$0")" "${words[@]}")
    # shellcheck disable=SC2086  # SBATCH_ARGS is a list of words
    exec sbatch -p "$partition" "${size[@]}" --requeue --open-mode=append \
        --signal=B:USR1@"${SAVE_BEFORE:-120}" ${SBATCH_ARGS:-} --wrap="exec $again"
fi

# shellcheck disable=SC2206  # SRUN_ARGS is a list of words
run=(
    srun -p "$partition" "${size[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-}
    python -u "$(dirname "$0")/train.py" "$config" --work-dir "$work_dir" --launcher slurm
)
if [ "${REQUEUE:-}" != inside ]; then
    exec "${run[@]}" "$@"
fi

# The signal that the time is nearly up comes here; srun hands it on, and all processes save together.
told=0
trap 'told=1; kill -USR1 "$step" || true' USR1
"${run[@]}" --resume "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do # the signal cuts a wait off
    wait "$step" || true
done
code=0
wait "$step" || code=$?
if [ "$told" = 1 ] && [ "$code" != 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
