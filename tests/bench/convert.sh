#!/usr/bin/env bash
# Compares the one pass of `pajamas quantize` from a Hugging Face folder with llama.cpp's two: its converter, then its quantizer.
# On models of the shapes of Qwen2.5-0.5B and 1.5B. `make bench-convert` calls it.
#
#     cargo build --release && cargo build --release -p pajamas-gguf --example llama_quantize
#     tests/bench/convert.sh [TARGET [WORK [OPTION OF convert.py ...]]]
#     tests/bench/convert.sh TARGET WORK --once SIZE [OPTION OF convert.py ...]
#
# common.sh tells of TARGET, WORK (10 GB) and PYTHON. LLAMA_CPP names llama.cpp's source folder; without it, WORK gets one.
#
# With --once, pajamas converts a model of SIZE (see random_qwen.py) once, its files not yet in memory, and the model is deleted:
# 7b needs 20 GB.
set -euo pipefail

# shellcheck source=tests/bench/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shift $(($# < 2 ? $# : 2))

need_built pajamas pajamas-worker "libgguf_cpu.$library_extension"
convert() { # MODEL [OPTION ...]
    "$python" "$repository/tests/bench/convert.py" "$TARGET" "$WORK/$1" "$WORK/converted-gguf" "${@:2}"
}

uptime >&2 || true
if [[ ${1:-} == --once ]]; then
    size=${2:?--once needs a size}
    shift 2
    need_python numpy
    model=qwen2.5-$size-random-once
    trap 'rm -rf "$WORK/$model" "$WORK/$model.part"' EXIT
    random_model "$model" "$size"
    convert "$model" --only pajamas --once "$@"
    exit
fi

need_built examples/llama_quantize
need_python numpy sentencepiece torch transformers
if [[ -z ${LLAMA_CPP:-} ]]; then
    # The version whose results ours are compared with (tests/oracle/converter_golden.py).
    sdist=llama_cpp_python-0.3.36
    LLAMA_CPP=$WORK/$sdist/vendor/llama.cpp
    # Unpacked last, so its being there means that everything is.
    if [[ ! -e $LLAMA_CPP/convert_hf_to_gguf.py ]]; then
        "$python" -m pip --disable-pip-version-check download --quiet --no-deps --no-binary llama-cpp-python \
            --dest "$WORK" "llama-cpp-python==${sdist##*-}" >&2
        for part in gguf-py conversion convert_hf_to_gguf.py; do
            tar -xzf "$WORK/$sdist.tar.gz" -C "$WORK" "$sdist/vendor/llama.cpp/$part"
        done
        rm "$WORK/$sdist.tar.gz"
    fi
fi
for size in 0.5b 1.5b; do
    random_model "qwen2.5-$size-random" "$size"
    convert "qwen2.5-$size-random" --llama-cpp "$LLAMA_CPP" "$@"
done
