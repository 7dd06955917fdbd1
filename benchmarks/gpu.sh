#!/usr/bin/env bash
# What only a GPU can show: bash benchmarks/gpu.sh DATA [OUT [PHOTOS]]. Results are written to OUT as they come.
# DATA: a labelled folder of small images (train/CLASS, val/CLASS or test/CLASS), for example CIFAR-10.
# PHOTOS: at least 256 photographs as JPEG files, for what the input path feeds; without them it is left out.
set -u
data=${1:?folder of images}
out=${2:-gpu-results}
photos=${3:-}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="src:${PYTHONPATH:-}"
$python -m ibot doctor 2>&1 | tee "$out/doctor.txt"
$python -m pytest -m gpu -q 2>&1 | tee "$out/gpu-tests.txt"
# ViT-S, B, L and Swin-T, with each fast path on and off: ten minutes.
$python -m benchmarks.step_gpu --minutes 9 --out "$out/step_gpu.jsonl" 2>&1 | tee "$out/step_gpu.txt"
# Both losses with the last layer alone, of 8,192 and 65,536 prototypes.
$python -m benchmarks.losses --json "$out/losses.jsonl" 2>&1 | tee "$out/losses.txt"
# Views of 256 images x 12 made on the GPU as a share of a step; images/s from JPEG against ready tensors.
if [ -n "$photos" ]; then
  $python -m benchmarks.input "$photos" --json "$out/input.json" 2>&1 | tee "$out/input.txt"
  for pixels in device fast; do
    $python -m benchmarks.feed_gpu "$photos" --json "$out/feed_gpu.jsonl" data.pixels=$pixels 2>&1 | tee -a "$out/feed_gpu.txt"
  done
fi
for seed in 0 1 2; do
  $python -m ibot pretrain tiny32 --data "$data" --run "$out/tiny32-$seed" --seed $seed train.length="4000000 images" \
    2>&1 | tee "$out/tiny32-$seed.txt"
done
$python -m benchmarks.index "$data" --weights "$out/tiny32-0" --rounds 3 --workers 8 2>&1 | tee "$out/index.txt"
# The numbers of the CPU and those of the GPU, side by side.
evaluate() { # PROTOCOL DEVICE SETTINGS
  $python -m ibot eval "$1" "$out/tiny32-0" --data "$data" --device "$2" --out "$out/eval-$2" --cache "$out/cache-$2" \
    "${@:3}" 2>&1 | tee -a "$out/eval-$2.txt"
}
for device in cuda cpu; do
  for protocol in knn logistic cluster occlusion shuffle; do
    evaluate $protocol $device --max-train 20000 --max-val 5000
  done
  evaluate linear $device --max-train 20000 --max-val 5000 augment=none
done
evaluate finetune cuda epochs=20
$python -m ibot results --all "$out/eval-cuda" "$out/eval-cpu" 2>&1 | tee "$out/eval-compared.txt"
