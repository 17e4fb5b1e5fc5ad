#!/usr/bin/env bash
# Makes docs/results.md: published tables, folds, baselines, ablations, volumes, by commands.
#
#   runs/results.sh [ROOT]     ROOT holds the data sets under their names (default ../shared/data)
#
# Expected on 2 CPU cores for nano: tables 2 min, rendering 5, folds 25 a set (COVID CT 75), the
# paper's tables 3, the U-Net 20 and its figures 4, the ResNet 3 and its figures 1, ablations 75,
# registration 10, lesions 7, chest 4, everything else 9: four and a half hours. A stage that is done is
# skipped, one that was interrupted goes on where it stopped, and one whose command, tables or
# weights have changed is run again; remove build/results to start all over.
#
# MODEL names other weights, TRAINING the table that they were trained on (made for nano when
# empty), ONLY the stages to run, by their names: ONLY="folds-covid_ct paper" runs/results.sh
# CHEST names the weights of the chest, which runs/chest.sh makes in a run of its own.
# BUILD and RESULTS name other places than the defaults below. What was not run is said in the text.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=${1:-../shared/data}
MODEL=${MODEL:-nano}
BUILD=${BUILD:-build/results}
RESULTS=${RESULTS:-docs/results.md}
ONLY=${ONLY:-}
CHEST=${CHEST:-build/chest/nano-chest}
SETS=(brain_mri_253 head_ct covid_ct) # of the paper, as far as they are at hand
CACHE=$BUILD/cache
OWN=$BUILD/tables/nano.parquet
TRAINING=${TRAINING:-$OWN}
WEIGHTS=ms_cross_sectional=0.15,mni152=0.08 # share of the draws per source, as in nano.sh
. runs/stage.sh
PARTS=()

wanted() { # NAME: whether ONLY does not leave it out
    [[ -z $ONLY || " $ONLY " == *" $1 "* ]]
}

part() { # NAME PAGES COMMAND...: a stage, unless ONLY leaves it out; its pages go into the text
    local name=$1 pages=$2 first=${2%% *} word words=() # the first page it must have left
    shift 2
    if wanted "$name"; then
        [[ -z $first || -f $BUILD/$first ]] || rm -f "$BUILD/$name.done"
        stage "$name" "$@"
    fi
    [[ -z $pages ]] && return
    done_as "$name" "$(stamp "$@")" "$BUILD/$first" || pages= # another command's are not shown
    for word in "$@"; do
        [[ $word == "$ROOT" ]] && word=ROOT
        words+=("$word")
    done
    PARTS+=("$name|$pages|${words[*]}")
}

if wanted chest && [[ ! -d $CHEST ]]; then
    echo "expected weights in $CHEST; make them by runs/chest.sh, or leave chest out with ONLY" >&2
    exit 2
fi
for name in nano "${SETS[@]}"; do
    part "table-$name" "" medic-ad data prepare "$name" --root "$ROOT" \
        --out "$BUILD/tables/$name.parquet"
done
for name in "${SETS[@]}"; do
    TOWER=()
    [[ $name == covid_ct ]] && TOWER=(--tower) # nano's has seen heads, no lungs
    part "folds-$name" "folds/$name/folds/figures.md" medic-ad evaluate folds --model "$MODEL" \
        ${TOWER[@]+"${TOWER[@]}"} --data "$BUILD/tables/$name.parquet" --out "$BUILD/folds/$name" --cache "$CACHE"
done
part paper paper/paper/figures.md medic-ad evaluate paper --model "$MODEL" --training "$TRAINING" \
    --data "$(printf ",$BUILD/tables/%s.parquet" "${SETS[@]}" | cut -c 2-)" \
    --folds "$BUILD/folds" --out "$BUILD/paper"
part resnet "" medic-ad evaluate resnet --data "$BUILD/tables/covid_ct.parquet" \
    --out "$BUILD/resnet" --cache "$CACHE"
part detect detect/detect/figures.md medic-ad evaluate detect --model "$MODEL" --resnet "$BUILD/resnet" \
    --data "$BUILD/tables/covid_ct.parquet" --out "$BUILD/detect"
part unet "" medic-ad evaluate unet --data "$OWN" --out "$BUILD/unet" --cache "$CACHE" \
    --weights "$WEIGHTS" --source brain_tumour_cheng
part localise localise/localise/figures.md medic-ad evaluate localise --model "$MODEL" --unet "$BUILD/unet" \
    --data "$OWN" --out "$BUILD/localise"
part ablations ablations/ablations/figures.md medic-ad evaluate ablations --model "$MODEL" --data "$OWN" \
    --out "$BUILD/ablations" --cache "$CACHE" --weights "$WEIGHTS" --cpu-seconds 60
part registration volumes/registration.md medic-ad evaluate registration --data-root "$ROOT" \
    --out "$BUILD/volumes"
part lesions volumes/lesions.md medic-ad evaluate lesions --model "$MODEL" --data-root "$ROOT" \
    --out "$BUILD/volumes"
part chest volumes/chest.md medic-ad evaluate chest --model "$CHEST" --data-root "$ROOT" \
    --out "$BUILD/volumes"
WHOLE=(all/summary.md) # and the pages that a line of the summary does not do justice to
for name in brain_tumour_cheng/{calibration,sanity,language} ms_longitudinal/compare vqa_rad/language; do
    WHOLE+=("all/$name/figures.md")
done
OTHERS= # whose page is there
for part in "${PARTS[@]}"; do
    IFS='|' read -r name pages _ <<<"$part"
    [[ -n $pages ]] || continue
    case $name in folds-* | detect | localise | ablations) OTHERS+=,$BUILD/${pages%/*/figures.md} ;; esac
done
part all "${WHOLE[*]}" medic-ad evaluate all --model "$MODEL" --data "$ROOT" --training "$TRAINING" \
    ${OTHERS:+--others "${OTHERS#,}"} --out "$BUILD/all"

{ # the text is written whole: every line between two markers comes from the command named in them
    echo "# Results"
    echo
    echo "Written by runs/results.sh; nothing here is typed by hand. ROOT is the folder of the data sets."
    for part in "${PARTS[@]}"; do
        IFS='|' read -r name pages command <<<"$part"
        printf '\n<!-- %s: begin; %s -->\n' "$name" "$command"
        [[ -n $pages ]] || printf '\nNot made yet: ONLY=%s runs/results.sh\n' "$name"
        for page in $pages; do # whose links would lead out of the text
            [[ -f $BUILD/$page ]] || continue
            echo && sed -E 's/\[([^]]+)\]\([^)]+\.md\)/\1/g' "$BUILD/$page"
        done
        printf '\n<!-- %s: end -->\n' "$name"
    done
} >"$BUILD/results.md"
mkdir -p "$(dirname "$RESULTS")"
mv "$BUILD/results.md" "$RESULTS"
echo "Written: $RESULTS"
