#!/bin/sh
# Prolog, epilog and health check of Slurm: drains the node, with the reason, if it is unhealthy.
# Slurm gives them few variables: PATH is among those that it does not set.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/slurm/bin
export PATH
folder=$(dirname "$(readlink -f "$0")")
result=$(python3 "$folder/healthcheck.py" --level 1 2>&1) && exit 0
reason=$(printf '%s\n' "$result" | grep -m 1 ' failed ' | tr -s ' ' | tr -d '"')
scontrol update "nodename=${SLURMD_NODENAME:-$(hostname -s)}" state=drain "reason=gpu-healthcheck: ${reason:-ended with an error}"
exit 1
