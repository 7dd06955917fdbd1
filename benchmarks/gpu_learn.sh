#!/usr/bin/env bash
# iBOT, its class loss alone and iBOT with our patch loss, trained alike:
#     bash benchmarks/gpu_learn.sh DATA OUT [--arms ibot,class] [--seconds 570] [key=value ...]
# DATA: labelled images of 160 pixels or more with train/CLASS and val/CLASS, for example Imagenette.
# Called again with the same OUT it goes on where it stopped, killed or not; benchmarks/gpu_learn.py says more.
set -u
export PYTHONUNBUFFERED=1 PYTHONPATH="src:${PYTHONPATH:-}"
exec "${PYTHON:-python3}" -m benchmarks.gpu_learn "$@"
