#!/usr/bin/env bash
# Test with one process per GPU (on a machine without GPUs: processes on the CPU, over gloo).
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [further options of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, as torchrun takes them.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,4s/^# \?//p' "$0" >&2
    exit 2
fi
what=("$1" "$2")
gpus=$3
shift 3

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

exec python -m torch.distributed.run "${where[@]}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/test.py" "${what[@]}" --launcher pytorch "$@"
