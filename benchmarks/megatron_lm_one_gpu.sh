#!/usr/bin/env bash
# Megatron-LM's own training loop on the full-size case, on this machine's GPUs: train, restart, compare. From the
# repository root, in an environment that runs the case:
#   bash benchmarks/megatron_lm_one_gpu.sh FOLDER CHECKOUT     a checkout of Megatron-LM
#   bash benchmarks/megatron_lm_one_gpu.sh FOLDER              the loop of the installed megatron-core wheel
# Leaves logs, records and times in FOLDER; exits with the first code that is not 0.
set -u
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
case=gpt3_pp4_resume
if [ $# -gt 1 ]; then subject=(--megatron-lm "$2"); else subject=(--trainer megatron); fi
# the first step compiles, in eight ranks on one GPU
options=("$case" --run-dir "$out/run" "${subject[@]}" --hang-timeout 180)
export PYTHONUNBUFFERED=1 CRASH_TEST_DEVICE=${CRASH_TEST_DEVICE:-cuda}

task() { # name words...: run a task, write down its seconds and its exit code
  local name=$1 begin code
  shift
  begin=$(date +%s%N)
  "$python" -m "$@" 2>&1 | tee "$out/$name.txt"
  code=${PIPESTATUS[0]}
  printf '%-8s exit %d %7.1f s\n' "$name" "$code" "$((($(date +%s%N) - begin) / 1000000))e-3" | tee -a "$out/times.txt"
  return "$code"
}

rm -f "$out/times.txt"
task train tasks.train "${options[@]}" &&
  task resume tasks.resume "${options[@]}" &&
  task diff tasks.diff "$case" --run-dir "$out/run"
code=$?
rm -rf "$out/run"/checkpoints "$out/run"/phase2/checkpoints
exit $code
