#!/usr/bin/env bash
# Compares the plugin's speed, and what `pajamas benchmark` says of it, with a bare llama.cpp loop's, on a model of
# Qwen2.5-0.5B's shapes. `make bench-gguf` calls it.
#
#     cargo build --release && cargo build --release -p pajamas-gguf --example speed
#     tests/bench/gguf.sh [TARGET [WORK [OPTION OF speed ...]]]
#
# common.sh tells of TARGET, WORK (2 GB) and PYTHON.
set -euo pipefail

# shellcheck source=tests/bench/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shift $(($# < 2 ? $# : 2))

library=libgguf_cpu.$library_extension
need_built pajamas pajamas-worker "$library" examples/speed
for method in Q4_K_M Q8_0; do
    if [[ ! -e $WORK/$method.gguf ]]; then
        need_python numpy
        random_model qwen2.5-0.5b-random 0.5b
        "$TARGET/pajamas" quantize "$WORK/qwen2.5-0.5b-random" -m "$method" -o "$WORK" -n "$method" --no-validate --plugin-dir "$TARGET" >&2
    fi
done

uptime >&2 || true
for method in Q4_K_M Q8_0; do
    "$TARGET/examples/speed" "$TARGET/$library" "$WORK/$method.gguf" "$@"
done
python3 "$repository/tests/bench/gguf_benchmark.py" "$TARGET" "$TARGET/$library" "$WORK/Q4_K_M.gguf" "$WORK/Q8_0.gguf" "$@"
