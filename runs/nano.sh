#!/usr/bin/env bash
# Makes the bundled weights from the published data sets, and the figures of MODEL_CARD.md.
#
#   runs/nano.sh [ROOT]     ROOT holds the data sets under their names (default ../shared/data)
#
# Some three and a half hours on 2 CPU cores: base 45 min, detect 6, compare 50, explain 50, the
# reference U-Net 20, calibration and figures 10, the first rendering of slices 5. A GPU is used
# where there is one.
# A stage that is done is skipped, one that was interrupted resumes at its last checkpoint, one whose
# command, table or weights have changed starts over; remove build/nano to start all over. BUILD, OUT
# and CARD name other places than the defaults below.
#
# Leave one MS patient out (figures of a refit, labelled so in its own card; no U-Net):
#   LEAVE_OUT=patient07 runs/nano.sh     the other patient trains, this one is never looked at
set -euo pipefail
SPLIT=() EXCLUDE=() PEER=()
cd "$(dirname "$0")/.."

ROOT=${1:-../shared/data}
LEAVE_OUT=${LEAVE_OUT:-}
if [[ -n $LEAVE_OUT ]]; then # its FLAIR slices are neither trained on nor used for calibration
    BUILD=${BUILD:-build/without-$LEAVE_OUT}
    OUT=${OUT:-$BUILD/nano}
    SPLIT=(--validation "$LEAVE_OUT")
    EXCLUDE=(--exclude "$LEAVE_OUT")
fi
BUILD=${BUILD:-build/nano}
OUT=${OUT:-src/medic_ad/weights/nano}
CARD=${CARD-$([[ -n $LEAVE_OUT ]] || echo MODEL_CARD.md)}
DATA=$BUILD/nano.parquet
CACHE=$BUILD/cache
WEIGHTS=ms_cross_sectional=0.15,mni152=0.08 # share of the draws per source
. runs/stage.sh

stage data medic-ad data prepare nano --root "$ROOT" --out "$DATA" ${SPLIT[@]+"${SPLIT[@]}"}
stage base medic-ad train base --data "$DATA" --out "$BUILD/base" --cache "$CACHE" --weights "$WEIGHTS"
stage detect medic-ad train detect --model "$BUILD/base" \
    --data "$DATA" --out "$BUILD/detect" --cache "$CACHE" --weights "$WEIGHTS" --hint-weight 1
stage compare medic-ad train compare --model "$BUILD/detect" --volumes 24 --steps 4000 \
    --data "$DATA" --out "$BUILD/compare" --cache "$CACHE" --weights "$WEIGHTS" --hint-weight 1
stage explain medic-ad train explain --model "$BUILD/compare" \
    --data "$DATA" --out "$BUILD/explain" --cache "$CACHE" --weights "$WEIGHTS"
stage calibrate medic-ad calibrate --model "$BUILD/explain" \
    --data "$DATA" --out "$OUT" --cache "$CACHE" ${EXCLUDE[@]+"${EXCLUDE[@]}"}
if [[ -z $LEAVE_OUT ]]; then
    stage unet medic-ad evaluate unet --data "$DATA" --out "$BUILD/unet" --cache "$CACHE" \
        --weights "$WEIGHTS" --source brain_tumour_cheng
    PEER=(--unet "$BUILD/unet" --data "$DATA")
fi
stage card medic-ad evaluate card --model "$OUT" --data-root "$ROOT" \
    --out "$BUILD/card" --card "$CARD" ${PEER[@]+"${PEER[@]}"}
