# Sourced by the scripts of runs/, from the top of the repository and with BUILD set: the common
# set-up, and `stage`, which runs a command once for what it says and what it reads.

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || sysctl -n hw.ncpu)}
command -v medic-ad >/dev/null || PATH="$PWD/.venv/bin:$PATH"
mkdir -p "$BUILD"

hashes() { # FILE...: a line of hash and name each
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

stamp() { # COMMAND...: its words, and hashes of the tables, weights and figures that it reads
    local word before= inputs=() file
    echo "$*"
    for word in "$@"; do
        [[ $before == --model && -d src/medic_ad/weights/$word ]] && word=src/medic_ad/weights/$word
        if [[ $before != --out && $before != --card ]]; then # these are written
            while IFS= read -r file; do
                if [[ -f $file ]]; then
                    inputs+=("$file")
                elif [[ -d $file ]]; then
                    for file in "$file"/*.safetensors "$file"/*/folds/figures.json; do
                        [[ -f $file ]] && inputs+=("$file")
                    done
                fi
            done < <(tr ',' '\n' <<<"$word") # a list of tables is one word
        fi
        before=$word
    done
    [[ ${#inputs[@]} == 0 ]] || hashes "${inputs[@]}"
}

done_as() { # NAME STAMP: whether this very command finished before, on these very inputs
    [[ -f $BUILD/$1.done && $(sed '$d' "$BUILD/$1.done") == "$2" ]]
}

stage() { # NAME COMMAND...: runs the command unless it finished before
    local name=$1 start=$SECONDS now word before=
    shift
    now=$(stamp "$@")
    if done_as "$name" "$now"; then
        echo "== $name: done before"
        return
    fi
    if [[ -f $BUILD/$name.done || (-f $BUILD/$name.begun && $(cat "$BUILD/$name.begun") != "$now") ]]; then
        echo "== $name: its command, or what it reads, is another than before; it starts over"
        rm -f "$BUILD/$name.done"
        for word in "$@"; do # the state of another command is nothing to resume from
            if [[ $before == --out && -d $word ]]; then
                find "$word" \( -name checkpoints -o -name state.pt \) -prune -exec rm -rf {} +
            fi
            before=$word
        done
    fi
    echo "== $name: $*"
    echo "$now" >"$BUILD/$name.begun"
    "$@"
    { echo "$now" && echo "$((SECONDS - start)) s"; } >"$BUILD/$name.done"
    rm "$BUILD/$name.begun"
    tail -n 1 "$BUILD/$name.done"
}
