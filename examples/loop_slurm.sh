#!/usr/bin/env bash
# A step of a training run on a Slurm cluster: an array of tasks samples and scores its part of the prompts each, then
# one task trains on all parts.
#
#   export POLICY=run/policy PROMPTS=train.parquet REWARD=math
#   sampling=$(sbatch --parsable --array=0-7 --gpus=1 examples/loop_slurm.sh sample RUN STEP)
#   sbatch --dependency=afterok:$sampling --gpus=1 examples/loop_slurm.sh train RUN STEP
#
# A task that was preempted goes on when it is submitted again: finished responses are not sampled again. Without Slurm,
# SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT say which part of how many a `sample` is.
set -euo pipefail

what=$1
dir=$2/step-$(printf '%06d' "$3")
policy=${POLICY:-$2/policy}

case $what in
  sample)
    entropyctl rollout --policy "$policy" --prompts "${PROMPTS:?where the prompts come from}" --step "$3" \
      --prompts-per-step "${PROMPTS_PER_STEP:-16}" --n "${N:-8}" --max-tokens "${MAX_TOKENS:-512}" \
      --shard auto -o "$dir/rollouts"
    # The part that this task has just made.
    first=${SLURM_ARRAY_TASK_MIN:-0}
    part=$(printf 'shard-%05d-of-%05d.parquet' $((SLURM_ARRAY_TASK_ID - first)) "$SLURM_ARRAY_TASK_COUNT")
    mkdir -p "$dir/scored"
    entropyctl score --policy "$policy" --reward "${REWARD:?which grader}" "$dir/rollouts/$part" -o "$dir/scored/$part"
    ;;
  train)
    entropyctl check "$dir/scored"       # names a part that is missing
    entropyctl advantage grpo "$dir/scored" \
      | entropyctl mask clip-v \
      | entropyctl update --policy "$policy" --publish --lr "${LR:-1e-6}" --metrics "$2/metrics"
    ;;
  *)
    echo "$what: must be sample or train" >&2
    exit 2
    ;;
esac
