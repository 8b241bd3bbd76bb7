#!/usr/bin/env bash
# Compares the plugin's speed with a bare llama.cpp loop's, on a model of Qwen2.5-0.5B's shapes. `make bench` calls it.
#
#     cargo build --release && cargo build --release -p pajamas-gguf --example speed
#     tests/bench/run.sh [TARGET [WORK [OPTION OF speed ...]]]
#
# TARGET is cargo's release folder, WORK keeps what takes long to make (2 GB) for the next time.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TARGET=${1:-${TARGET:-$repository/target/release}}
WORK=${2:-$TARGET/../bench}
shift $(($# < 2 ? $# : 2))

library=libgguf_cpu.so
[[ $(uname -s) != Darwin ]] || library=libgguf_cpu.dylib
for file in pajamas pajamas-worker "$library" examples/speed; do
    if [[ ! -e $TARGET/$file ]]; then
        echo "$TARGET/$file is missing: build it first" >&2
        exit 1
    fi
done
mkdir -p "$WORK"
TARGET=$(cd "$TARGET" && pwd)
WORK=$(cd "$WORK" && pwd)
export PAJAMAS_HOME=$WORK/home

model=$WORK/qwen2.5-0.5b-random
if [[ ! -d $model ]]; then
    python=python3
    if ! python3 -c 'import numpy' 2>/dev/null; then
        python3 -m venv "$WORK/venv"
        "$WORK/venv/bin/pip" install --quiet numpy
        python=$WORK/venv/bin/python
    fi
    # Made under another name first: a folder that was left half made does not count.
    rm -rf "$model.part"
    "$python" "$repository/tests/bench/random_qwen.py" "$repository/tests/fixtures/pajama-tiny" "$model.part" >&2
    mv "$model.part" "$model"
fi

for method in Q4_K_M Q8_0; do
    if [[ ! -e $WORK/$method.gguf ]]; then
        "$TARGET/pajamas" quantize "$model" -m "$method" -o "$WORK" -n "$method" --plugin-dir "$TARGET" >&2
    fi
done

uptime >&2 || true
for method in Q4_K_M Q8_0; do
    "$TARGET/examples/speed" "$TARGET/$library" "$WORK/$method.gguf" "$@"
done
