#!/usr/bin/env bash
# Train with one process per GPU (on a machine without GPUs: processes on the CPU, over gloo).
#   bash tools/dist_train.sh CONFIG GPUS [further options of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, as torchrun takes them.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    sed -n '2,4s/^# \?//p' "$0" >&2
    exit 2
fi
what=("$1")
gpus=$2
shift 2

# On one machine torchrun takes a free port by itself, so that two jobs do not meet.
where=(--standalone)
if [ "${NNODES:-1}" != 1 ] || [ -n "${PORT:-}" ]; then
    where=(
        --nnodes="${NNODES:-1}"
        --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}"
    )
fi

# A signal reaches every process, USR1 too where torch knows how to hand it on. To save takes a while.
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"
export PET_SHUTDOWN_TIMEOUT="${PET_SHUTDOWN_TIMEOUT:-300}"
exec python -m torch.distributed.run "${where[@]}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "${what[@]}" --launcher pytorch "$@"
