#!/usr/bin/env bash
# All that is to be seen of a backend on a GPU, in one call: what it says of the machine, the rules that plugins keep, the
# demo's question, its quality beside the CPU's, and a model of Qwen2.5-7B's shapes in Q4_K_M: prompt and decoding speed, time
# to the first token, memory, and for CUDA the speed beside a bare llama.cpp's from the same build. About ten minutes with 16
# cores and 25 GB of disk, most of it for making the model.
#
#     make tested plugin-cuda && tools/build-plugin-cuda cargo build --release --example speed_cuda
#     tests/bench/gpu.sh [TARGET [WORK [BACKEND]]]        # gguf-cuda
#
# common.sh tells of TARGET, WORK and PYTHON.
set -euo pipefail

# shellcheck source=tests/bench/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
backend=${3:-gguf-cuda}
library=lib${backend//-/_}.$library_extension
need_built pajamas pajamas-worker "libgguf_cpu.$library_extension" "$library"
pajamas=$TARGET/pajamas
mkdir -p "$PAJAMAS_HOME/plugins"
install -m 755 "$TARGET/libgguf_cpu.$library_extension" "$TARGET/$library" "$PAJAMAS_HOME/plugins"

step() { printf '\n## %s (%s s)\n\n' "$1" "$SECONDS"; }

step 'Backends'
! command -v nvidia-smi >/dev/null || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
"$pajamas" plugins list --rescan
"$pajamas" plugins info "$backend"

step 'Rules'
kept=0
"$pajamas" plugins verify "$backend" || kept=$?

step 'The demo'
tiny=$repository/tests/fixtures/pajama-tiny
small=$("$pajamas" quantize "$tiny" -m Q4_K_M -o "$WORK" -n gpu-tiny --no-validate)
answer=$("$pajamas" run "$small" -b "$backend" --strict -p 'What is the capital of France?' -t 0 </dev/null)
echo "$answer"
[[ $answer == 'The capital of France is Paris.' ]]

step 'Quality, on the CPU and on the GPU'
for name in gguf-cpu "$backend"; do
    "$pajamas" validate "$small" --reference "$tiny" -b "$name"
done

step 'A 7B model'
large=$WORK/gpu-7b.gguf
if [[ ! -e $large ]]; then
    need_python numpy
    random_model qwen2.5-7b-random 7b
    "$pajamas" quantize "$WORK/qwen2.5-7b-random" -m Q4_K_M -o "$WORK" -n gpu-7b --no-validate
    rm -rf "$WORK/qwen2.5-7b-random"
fi
"$pajamas" benchmark "$large" -b "$backend"
"$pajamas" run "$large" -b "$backend" --strict -p Hello --max-tokens 32 -t 0 --json </dev/null >"$WORK/gpu-run.json"
python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print("time to first token: %.1f ms, loading: %.0f ms" % (r["time_to_first_token_ms"], r["load_ms"]))' "$WORK/gpu-run.json"

bare=$TARGET/../cuda/release/examples/speed_cuda
if [[ $backend == gguf-cuda && -x $bare ]]; then
    step 'Beside a bare llama.cpp'
    "$bare" "$TARGET/$library" "$large" --prompt 512 --generate 128 --repetitions 7
fi
step 'Done'
exit "$kept"
