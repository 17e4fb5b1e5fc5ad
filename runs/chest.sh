#!/usr/bin/env bash
# Refits nano to chest radiographs by the recipe of runs/nano.sh, and measures it over time.
#
#   runs/chest.sh [ROOT]     ROOT holds cxr_kermany, cxr_hannover, cxr_followup_ieee8023
#                            (default ../shared/data)
#
# The weights are named so and not bundled: opacities drawn into radiographs of healthy children show
# that the recipe carries over, not that chest radiographs are read well. As many steps as nano's,
# so some hours on 2 CPU cores; with STEPS=900 (docs/results.md) it was 80 minutes. A stage that is
# done is skipped, one that was interrupted resumes, one whose command, table or weights have changed
# starts over; remove build/chest to start all over. BUILD names another place, STEPS another number of
# steps of every stage, for a trial.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=${1:-../shared/data}
BUILD=${BUILD:-build/chest}
DATA=$BUILD/chest.parquet
CACHE=$BUILD/cache
STEPS=(${STEPS:+--steps "$STEPS"})
. runs/stage.sh

train() { # STAGE MODEL...: one stage of training on the table
    local name=$1
    shift
    stage "$name" medic-ad train "$name" --data "$DATA" --out "$BUILD/$name" --cache "$CACHE" \
        ${STEPS[@]+"${STEPS[@]}"} "$@"
}

stage table python runs/chest_table.py "$ROOT/cxr_kermany" "$BUILD/drawn"
stage data medic-ad data prepare table --csv "$BUILD/drawn/table.csv" --out "$DATA"
train base ${STEPS:+--language-steps "${STEPS[1]}"}
train detect --model "$BUILD/base" --hint-weight 1
train compare --model "$BUILD/detect" --hint-weight 1
train explain --model "$BUILD/compare"
stage calibrate medic-ad calibrate --model "$BUILD/explain" --data "$DATA" --out "$BUILD/nano-chest" \
    --cache "$CACHE"
stage evaluate medic-ad evaluate chest --model "$BUILD/nano-chest" --data-root "$ROOT" \
    --out "$BUILD/evaluate"
