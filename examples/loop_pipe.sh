#!/usr/bin/env bash
# The same run as examples/loop_files.sh as one pipe of processes that stay: each starts once and loads its model once,
# and the loop closes through the policy's directory. With LAG=0 it publishes the same weights, bit for bit.
#
#   POLICY=run/policy PROMPTS=train.parquet REWARD=math examples/loop_pipe.sh RUN STEPS
#
# On several GPUs put CUDA_VISIBLE_DEVICES=... in front of rollout, score and update. docs/LOOP.md says who waits for whom.
set -euo pipefail                        # pipefail: a stage that fails fails the run

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
keep=${KEEP:-}                           # how many versions stay; all of them without it
lag=${LAG:-0}                            # versions that the sampling may be behind; 1 overlaps it with the training

mkdir -p "$run"
# --max-lag makes the loop: step k is sampled when step k-1-lag has been trained. Run again, it goes on where it stopped.
# No --tee here: a file is kept when its stream has ended well, which is after the last step.
# shellcheck disable=SC2086  # MASK may carry flags
entropyctl rollout --policy "$policy" --prompts "$prompts" --steps "$steps" --max-lag "$lag" \
  --prompts-per-step "$per_step" --n "$n" --max-tokens "$max_tokens" --seed "$seed" \
  | entropyctl score --policy "$policy" --reward "$reward" \
  | entropyctl advantage grpo \
  | entropyctl mask $mask \
  | entropyctl update --policy "$policy" --publish ${keep:+--keep "$keep"} --lr "$lr" --metrics "$run/metrics"
