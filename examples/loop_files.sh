#!/usr/bin/env bash
# A training run as five commands on files per step. Every file stays, so any stage can be run again.
#
#   POLICY=run/policy PROMPTS=train.parquet REWARD=math examples/loop_files.sh RUN STEPS
#
# POLICY is a directory of versions; make your checkpoint its version 0:
#   mkdir -p run/policy && ln -s "$(realpath CHECKPOINT)" run/policy/v000000 && ln -s v000000 run/policy/latest
set -euo pipefail

run=$1                                   # directory of the run: step-000001/, ..., metrics/
steps=$2                                 # train up to and including this step
policy=${POLICY:-$run/policy}            # versions of the policy; `latest` names the newest
prompts=${PROMPTS:?where the prompts come from}
reward=${REWARD:?which grader}
per_step=${PROMPTS_PER_STEP:-16}         # prompts of a step
n=${N:-8}                                # responses to each; a group is what GRPO compares
max_tokens=${MAX_TOKENS:-512}            # longest response
mask=${MASK:-clip-v}                     # entropy control; "none" is plain GRPO
lr=${LR:-1e-6}                           # small: reinforcement needs little
seed=${SEED:-0}                          # order of the prompts, and the sampling

# Step k trains version k-1 into version k, so `latest` says where an interrupted run goes on.
version=$(basename "$(readlink "$policy/latest")")
for step in $(seq $((10#${version#v} + 1)) "$steps"); do
  dir=$(printf '%s/step-%06d' "$run" "$step")
  mkdir -p "$dir"

  # Ask: n responses to each prompt of the step, with the log-probabilities that sampled them.
  entropyctl rollout --policy "$policy" --prompts "$prompts" --step "$step" --prompts-per-step "$per_step" \
    --n "$n" --max-tokens "$max_tokens" --seed "$seed" -o "$dir/rollouts.parquet"

  # Judge: a grade for every response, and log p, H, S* and E[S] for every token.
  entropyctl score --policy "$policy" --reward "$reward" "$dir/rollouts.parquet" -o "$dir/scored.parquet"

  # Compare: how much better than its group was each response?
  entropyctl advantage grpo --only-new "$dir/scored.parquet" -o "$dir/advantages.parquet"

  # Control the entropy: which tokens may pull, and how hard? Only the new columns are written.
  # shellcheck disable=SC2086  # MASK may carry flags: MASK="clip-v --mu 7.5"
  entropyctl mask $mask --only-new "$dir/scored.parquet" "$dir/advantages.parquet" -o "$dir/masks.parquet"

  # Learn: the files are laid over one another by key; the new version becomes `latest` when it is complete.
  entropyctl update --policy "$policy" --publish --lr "$lr" --metrics "$run/metrics" \
    "$dir/scored.parquet" "$dir/advantages.parquet" "$dir/masks.parquet"
done
