#!/usr/bin/env bash
# The same run as examples/loop.sh with the stages of a step joined by pipes: nothing but the scored
# rollouts is written. It publishes the same weights, bit for bit.
#
#   POLICY=run/policy PROMPTS=train.parquet REWARD=math examples/loop_pipe.sh RUN STEPS
set -euo pipefail                        # pipefail: a stage that fails fails the step

run=$1                                   # directory of the run
steps=$2                                 # train up to and including this step
policy=${POLICY:-$run/policy}            # versions of the policy; `latest` names the newest
prompts=${PROMPTS:?where the prompts come from}
reward=${REWARD:?which grader}
per_step=${PROMPTS_PER_STEP:-16}         # prompts of a step
n=${N:-8}                                # responses to each
max_tokens=${MAX_TOKENS:-512}            # longest response
mask=${MASK:-clip-v}                     # entropy control
lr=${LR:-1e-6}                           # learning rate
seed=${SEED:-0}                          # order of the prompts, and the sampling

mkdir -p "$run"
version=$(basename "$(readlink "$policy/latest")")
for step in $(seq $((10#${version#v} + 1)) "$steps"); do
  # Without -o a stage streams to the next one; --tee keeps what is dear to make again.
  # shellcheck disable=SC2086  # MASK may carry flags
  entropyctl rollout --policy "$policy" --prompts "$prompts" --step "$step" --prompts-per-step "$per_step" \
    --n "$n" --max-tokens "$max_tokens" --seed "$seed" \
    | entropyctl score --policy "$policy" --reward "$reward" --tee "$(printf '%s/scored-%06d.parquet' "$run" "$step")" \
    | entropyctl advantage grpo \
    | entropyctl mask $mask \
    | entropyctl update --policy "$policy" --publish --lr "$lr" --metrics "$run/metrics"
done
