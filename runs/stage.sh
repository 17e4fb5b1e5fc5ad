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
                    for file in "$file"/*.safetensors "$file"/*/figures.json "$file"/*/folds/figures.json; do
                        [[ -f $file ]] && inputs+=("$file")
                    done
                fi
            done < <(tr ',' '\n' <<<"$word") # a list of tables is one word
        fi
        before=$word
    done
    [[ ${#inputs[@]} == 0 ]] || hashes "${inputs[@]}"
}

code() { # a hash of the package's source
    cat $(find src/medic_ad -name '*.py' | LC_ALL=C sort) | hashes - | cut -c 1-16
}

out_of() { # COMMAND...: the file or folder that it writes, where it says one
    local word before=
    for word in "$@"; do
        [[ $before == --out ]] && echo "$word"
        before=$word
    done
    return 0
}

done_as() { # NAME STAMP OUT: whether this very command, on these very inputs, left what is there
    [[ -f $BUILD/$1.done && $(sed '$d' "$BUILD/$1.done") == "$2" && (-z $3 || -e $3) ]]
}

stage() { # NAME COMMAND...: runs the command unless it finished before; other code needs REDO=1
    local name=$1 start=$SECONDS now out code
    shift
    now=$(stamp "$@") out=$(out_of "$@") code=$(code)
    if done_as "$name" "$now" "$out"; then
        if [[ $(tail -n 1 "$BUILD/$name.done") == *"code $code" ]]; then
            echo "== $name: done before"
            return
        elif [[ -z ${REDO:-} ]]; then # a comment must not cost hours of training
            echo "== $name: done before, made with other code; REDO=1 runs it again"
            return
        fi
    fi
    if [[ -f $BUILD/$name.begun && $(cat "$BUILD/$name.begun") == "$now"$'\n'"code "* && -z ${REDO:-} ]]; then
        if [[ $(tail -n 1 "$BUILD/$name.begun") != "code $code" ]]; then
            echo "== $name: begun with other code, goes on with this; REDO=1 starts it over"
            code="$code after another"
        fi
    elif [[ -f $BUILD/$name.done || -f $BUILD/$name.begun ]]; then
        echo "== $name: its command, what it reads or what it left is not as before; it starts over"
        rm -f "$BUILD/$name.done"
        if [[ -d $out ]]; then # the state of another command is nothing to resume from
            find "$out" \( -name checkpoints -o -name state.pt \) -prune -exec rm -rf {} +
        fi
    fi
    echo "== $name: $*"
    printf '%s\ncode %s\n' "$now" "$code" >"$BUILD/$name.begun"
    "$@"
    { echo "$now" && echo "$((SECONDS - start)) s, code $code"; } >"$BUILD/$name.done"
    rm "$BUILD/$name.begun"
    tail -n 1 "$BUILD/$name.done"
}
