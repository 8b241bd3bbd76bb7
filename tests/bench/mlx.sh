#!/usr/bin/env bash
# Compares MLX in pajamas with mlx-lm: conversion to 4 bits, then speed. `make bench-mlx` calls it; it takes about seven minutes.
#
#     cargo build --release -p pajamas -p pajamas-mlx-quantize && tools/build-plugin-mlx
#     cargo build --release -p pajamas-tests --example answer
#     tests/bench/mlx.sh [TARGET [WORK [OPTION OF mlx_speed.py ...]]]
#
# common.sh tells of TARGET, WORK (2 GB) and PYTHON.
set -euo pipefail

# shellcheck source=tests/bench/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shift $(($# < 2 ? $# : 2))

plugin=plugins/mlx/libpajamas_mlx.$library_extension
need_built pajamas pajamas-worker "libmlx_quantize.$library_extension" "$plugin" examples/answer
# The MLX that the plugin is built with (plugins/mlx/linux/requirements-cpu.txt).
need_python numpy 'mlx[cpu]==0.32.2' mlx-lm==0.32.2
random_model qwen2.5-0.5b-random 0.5b
random_model qwen2-small-random small
export HF_HUB_OFFLINE=1

models=()
add_models() { # SOURCE METHOD...
    local source=$1 method name
    for method in "${@:2}"; do
        name=$(basename "$source")-$method
        models+=("$WORK/$name")
        [[ -d $WORK/$name ]] ||
            "$TARGET/pajamas" quantize "$source" --format mlx -m "$method" -o "$WORK" -n "$name" --no-validate --plugin-dir "$TARGET" >&2
    done
}
add_models "$repository/tests/fixtures/pajama-tiny" 4bit 8bit f32
add_models "$WORK/qwen2-small-random" 4bit f32

uptime >&2 || true
"$python" "$repository/tests/bench/mlx_convert.py" "$TARGET" "$WORK/qwen2.5-0.5b-random" "$WORK/converted"
"$python" "$repository/tests/bench/mlx_speed.py" "$TARGET/examples/answer" "$TARGET/$plugin" "${models[@]}" "$@"
