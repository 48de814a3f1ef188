#!/usr/bin/env bash
# Measure the full-size case on one GPU and record its golden card. From the repository root, in an environment
# that runs the case:   bash benchmarks/one_gpu.sh FOLDER ["reason for a new card"]
# Leaves cards, reports, logs and the measured times in FOLDER. About 7 minutes on an H100; with ONLY_RECORD=1
# in the environment about 4: the three runs and the card.
set -u
out=$(mkdir -p "$1" && cd "$1" && pwd)
reason=${2:-recorded by benchmarks/one_gpu.sh}
python=${PYTHON:-python3}
case=gpt3_pp4_resume
runs=$out/runs
export PYTHONUNBUFFERED=1

task() { # name limit_s words...: run a task, write down its seconds and its exit code
  local name=$1 limit=$2 begin code
  shift 2
  begin=$(date +%s%N)
  timeout --signal=INT --kill-after=20 "$limit" "$python" -m "$@" >"$out/$name.txt" 2>&1
  code=$?
  printf '%-22s exit %d %7.1f s\n' "$name" "$code" "$((($(date +%s%N) - begin) / 1000000))e-3" | tee -a "$out/times.txt"
  return $code
}

rm -f "$out/times.txt"
"$python" -m tasks.corpus "$case" || exit
for run in 1 2 3; do
  task "train_$run" 150 tasks.train "$case" --run-dir "$runs/$run" &&
    task "resume_$run" 120 tasks.resume "$case" --run-dir "$runs/$run" || tail -30 "$out"/*_"$run".txt
  rm -rf "$runs/$run"/checkpoints "$runs/$run"/phase2/checkpoints
done
task record 30 tasks.record "$case" --from-run "$runs/1" --from-run "$runs/2" --from-run "$runs/3" --reason "$reason" --yes
cp -v goldens/"$case"/golden_values_dev_gpu1_* "$out/"
task diff_3 30 tasks.diff "$case" --run-dir "$runs/3"
if [ -n "${ONLY_RECORD:-}" ]; then
  "$python" benchmarks/same_steps.py --times "$runs/1" "$runs/2" "$runs/3" | tee -a "$out/times.txt"
  exit
fi
# without MPS: the first 20 steps, which must be those of the run with it
CRASH_TEST_MPS=off task without_mps 120 tasks.train "$case" --run-dir "$runs/without_mps" \
  --set train-iters=20 --set save-interval=10
"$python" benchmarks/same_steps.py "$runs/1" "$runs/without_mps" | tee "$out/same_steps.txt"
# one changed line: the stages' gradients of the tied embedding are not summed
fault=tests/faults/tied_embedding_gradients_not_summed.py
task changed_train 150 tasks.train "$case" --run-dir "$runs/changed" --rank-plugin "$fault" &&
  task changed_resume 120 tasks.resume "$case" --run-dir "$runs/changed" --rank-plugin "$fault"
task changed_diff 30 tasks.diff "$case" --run-dir "$runs/changed"
rm -rf "$runs"/*/checkpoints "$runs"/*/phase*/checkpoints
"$python" benchmarks/same_steps.py --times "$runs/1" "$runs/2" "$runs/3" "$runs/without_mps" | tee -a "$out/times.txt"
