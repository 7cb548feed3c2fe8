#!/usr/bin/env bash
# examples/loop_pipe.sh on two GPUs or more: one samples, the others train, at the same time.
#
#   POLICY=run/policy PROMPTS=train.parquet REWARD=math examples/loop_two_gpus.sh RUN STEPS
#
# With LAG=1 a step is sampled while the one before it is trained; all GPUs are busy. On a machine without GPUs
# everything runs on the CPU, with as many processes.
set -euo pipefail

run=$1                                   # directory of the run
steps=$2                                 # train up to and including this step
policy=${POLICY:-$run/policy}            # versions of the policy
prompts=${PROMPTS:?where the prompts come from}
reward=${REWARD:?which grader}
sampler=${SAMPLER_GPU:-0}                # as CUDA numbers them; several, as in 0,1, with ENGINE_ARG below
trainer=${TRAINER_GPU:-1}                # several, as in 1,2,3, share the weights and the optimiser's state
engine_arg=${ENGINE_ARG:-}               # for example tensor_parallel_size=2

commas=${trainer//[!,]/}
trainers=$((${#commas} + 1))             # one process for each GPU

mkdir -p "$run"
CUDA_VISIBLE_DEVICES=$sampler entropyctl rollout --policy "$policy" --prompts "$prompts" --steps "$steps" \
    --max-lag "${LAG:-1}" --prompts-per-step "${PROMPTS_PER_STEP:-16}" --n "${N:-8}" \
    --max-tokens "${MAX_TOKENS:-512}" ${engine_arg:+--engine-arg "$engine_arg"} \
  | CUDA_VISIBLE_DEVICES=${trainer%%,*} entropyctl score --policy "$policy" --reward "$reward" \
  | entropyctl advantage grpo \
  | entropyctl mask clip-v \
  | CUDA_VISIBLE_DEVICES=$trainer torchrun --standalone --nproc-per-node "$trainers" --no-python \
      entropyctl update --policy "$policy" --publish --lr "${LR:-1e-6}" --metrics "$run/metrics"
