#!/usr/bin/env bash
# On a machine with a CUDA card: the tests that need one, then what the card reaches; within ten minutes on an H100. A part
# that fails is said as a missed bar, and the others go on; what was measured is written after each part.
#   benchmarks/on_a_card.sh [FOLDER [SECONDS]]     # FOLDER/gpu-tests.txt and FOLDER/gpu.json; benchmarks/records, 560
# While the tests run, the kernels that the benchmark will time are compiled. Needed are a checkout, torch with CUDA and
# the packages that are asked for below; FAISS is not. `python -m benchmarks page benchmarks/records/*.json` then renews
# docs/performance.md.
set -u
cd "$(dirname "$0")/.." || exit 2
folder=${1:-benchmarks/records}
limit=${2:-560}
SECONDS=0
python=$(command -v python3 || command -v python)

# What is missing is said in the first second.
"$python" - <<'PY' || exit 2
from importlib.util import find_spec
needed = "torch torchvision timm sklearn numpy pandas PIL pydantic pydantic_core annotated_types typing_inspection"
needed += " safetensors tabulate filelock fsspec jinja2 rich typer pytest hypothesis triton"
missing = [name for name in needed.split() if find_spec(name) is None]
for name, without in (("faiss", "k-means is not compared"), ("xdist", "the tests run one after the other")):
    if find_spec(name) is None:
        print(f"on_a_card: no {name}: {without}")
if missing:
    raise SystemExit(f"on_a_card: missing packages: {', '.join(missing)}; install them, or carry their wheels")
import torch
if not torch.cuda.is_available():
    raise SystemExit("on_a_card: torch finds no CUDA card here")
print(f"on_a_card: {torch.cuda.get_device_name()}, torch {torch.__version__}")
PY

mkdir -p "$folder" || exit 2
scratch=$(mktemp -d)
ahead=()
finish() { kill "${ahead[@]}" 2>/dev/null; rm -rf "$scratch"; }
trap finish EXIT
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$scratch/inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$scratch/triton}
if ! "$python" -c 'from importlib.metadata import version; version("massl-bench")' 2>/dev/null; then
    # A checkout that is not installed: its version is asked for, as every package's.
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    mkdir "$scratch/massl_bench-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: massl-bench\nVersion: %s\n' "$version" >"$scratch/massl_bench-$version.dist-info/METADATA"
    export PYTHONPATH=$PYTHONPATH:$scratch
fi

for part in "step of ViT-S" "small images" "step of ViT-B"; do
    TORCHINDUCTOR_COMPILE_THREADS=4 timeout $((limit * 2 / 5)) "$python" -m benchmarks.gpu "$part" >"$scratch/${part// /-}" 2>&1 &
    ahead+=($!)
done
several=()
"$python" -c 'import xdist' 2>/dev/null && several=(-p xdist.plugin -n 4)
TORCHINDUCTOR_COMPILE_THREADS=4 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 timeout -s INT -k 15 $((limit * 2 / 5)) \
    "$python" -m pytest -q -p no:cacheprovider "${several[@]}" -m gpu tests/test_gpu.py tests/pretrain/test_gpu.py \
    tests/pretrain/test_training_trace.py >"$folder/gpu-tests.txt" 2>&1
tests=$?
tail -n 60 "$folder/gpu-tests.txt"
wait "${ahead[@]}"
tail -q -n 2 "$scratch"/step-of-ViT-S "$scratch"/small-images "$scratch"/step-of-ViT-B
echo "on_a_card: tests and kernels took $SECONDS s"

"$python" -m benchmarks gpu --json "$folder/gpu.json" --seconds $((limit - SECONDS - 10))
bars=$?
echo "on_a_card: $SECONDS s in all; tests ended with $tests, bars with $bars"
exit $((tests > bars ? tests : bars))
