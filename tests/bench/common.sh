# What the benchmarks share. To be sourced, with the arguments [TARGET [WORK]]: cargo's release folder, and the folder that
# keeps what takes long to make for the next time.
#
# PYTHON names an interpreter that has the packages; without it, a virtual environment is made in WORK.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TARGET=${1:-${TARGET:-$repository/target/release}}
WORK=${2:-$TARGET/../bench}
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)
export PAJAMAS_HOME=$WORK/home

library_extension=so
[[ $(uname -s) != Darwin ]] || library_extension=dylib

# need_built FILE...: all of them are in TARGET, which becomes an absolute path.
need_built() {
    local file
    for file in "$@"; do
        if [[ ! -e $TARGET/$file ]]; then
            echo "$TARGET/$file is missing: build it first" >&2
            exit 1
        fi
    done
    TARGET=$(cd "$TARGET" && pwd)
}

# need_python PACKAGE...: sets `python`.
need_python() {
    python=${PYTHON:-$WORK/venv/bin/python}
    [[ -z ${PYTHON:-} ]] || return 0
    [[ -x $python ]] || python3 -m venv "$WORK/venv"
    "$python" -m pip --disable-pip-version-check install --quiet "$@" >&2
}

# random_model NAME SIZE: makes the model $WORK/NAME (see random_qwen.py) if it is not there. Needs numpy.
random_model() {
    [[ ! -d $WORK/$1 ]] || return 0
    # Made under another name first: a folder that was left half made does not count.
    rm -rf "$WORK/$1.part"
    "$python" "$repository/tests/bench/random_qwen.py" "$repository/tests/fixtures/pajama-tiny" "$WORK/$1.part" --size "$2" >&2
    mv "$WORK/$1.part" "$WORK/$1"
}
