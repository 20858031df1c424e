#!/usr/bin/env bash
# On a machine with a CUDA card: the tests that need one, then what the card reaches; about ten minutes on an H100. A part
# that fails is said as a missed bar, and the others go on.
#   benchmarks/on_a_card.sh [FOLDER]     # writes FOLDER/gpu-tests.txt and FOLDER/gpu.json; default: benchmarks/records
# FAISS's GPU build is used where it is installed. `python -m benchmarks page benchmarks/records/*.json` then renews
# docs/performance.md.
set -u
cd "$(dirname "$0")/.."
folder=${1:-benchmarks/records}
mkdir -p "$folder"
python -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py tests/pretrain/test_gpu.py \
    tests/pretrain/test_training_trace.py 2>&1 | tail -n 40 | tee "$folder/gpu-tests.txt"
tests=${PIPESTATUS[0]}
python -m benchmarks gpu --json "$folder/gpu.json"
bars=$?
exit $((tests > bars ? tests : bars))
