# Sourced by the scripts of runs/, from the top of the repository and with BUILD set: the common
# set-up, and `stage`, which runs a command once.

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || sysctl -n hw.ncpu)}
command -v medic-ad >/dev/null || PATH="$PWD/.venv/bin:$PATH"
mkdir -p "$BUILD"

stage() { # NAME COMMAND...: runs the command unless it finished before
    local name=$1 start=$SECONDS
    shift
    if [[ -f $BUILD/$name.done ]]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name: $*"
    "$@"
    echo "$((SECONDS - start)) s" | tee "$BUILD/$name.done"
}
