"""Ablations: the rows of the table, each one change and what it stands beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medic_ad.evaluate.ablations import variations
from medic_ad.model.modeling import MedicADForConditionalGeneration

HINTED = {"hint_weight": 1.0}  # as in `runs/nano.sh`
NO_SWAP = {"swap_weight": 0.0}


@dataclass(frozen=True)
class Row:
    """One training, repeated over the seeds.

    Attributes:
        name: in the table.
        stage: what is trained: "detect", "compare" or "explain"; the last two on the reference of
            the stage before (`BEFORE`) with the same seed.
        against: the row of the same stage that it differs from by one thing; itself for a
            reference.
        vary: the change of the network.
        arguments: of the stage's training, where they differ from its defaults.
        config: of the heads.
        bare: whether it starts from the base made without masks and labels.
    """

    name: str
    stage: str
    against: str
    vary: Callable[[MedicADForConditionalGeneration], None] = variations.nothing
    arguments: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    bare: bool = False


DETECT, COMPARE, EXPLAIN = "stage 1", "stage 2", "stage 3"  # the references
BEFORE = {"compare": DETECT, "explain": COMPARE}  # what a stage is trained on
UNHINTED, PIXEL = "16 tokens, no hints", "language, image and pixel loss"
UNSWAPPED = "stage 3, no twin's <Ano> in training"
ROWS = (
    Row(DETECT, "detect", DETECT, arguments=HINTED),
    Row("softmax over the patches", "detect", DETECT, variations.softmax, HINTED),
    Row("without modulation", "detect", DETECT, variations.without_modulation, HINTED),
    Row("without <Ano>", "detect", UNHINTED, variations.without_ano),
    Row("taps scrambled", "detect", DETECT, variations.scrambled, HINTED),
    Row(UNHINTED, "detect", DETECT),
    Row("1 token (P = 1), no hints", "detect", UNHINTED, config={"pooled_size": 1}),
    Row(PIXEL, "detect", PIXEL, bare=True),
    Row("language and image loss", "detect", PIXEL, arguments={"pixel_weight": 0.0}, bare=True),
    Row(
        "language loss alone",
        "detect",
        PIXEL,
        arguments={"pixel_weight": 0.0, "image_weight": 0.0},
        bare=True,
    ),
    Row(COMPARE, "compare", COMPARE, arguments=HINTED),
    Row("<Diff> without subtraction", "compare", COMPARE, variations.without_subtraction, HINTED),
    Row("change head not antisymmetric", "compare", COMPARE, variations.one_way, HINTED),
    Row(EXPLAIN, "explain", EXPLAIN),
    Row(UNSWAPPED, "explain", UNSWAPPED, arguments=NO_SWAP),
    Row("heatmap without <Ano>", "explain", UNSWAPPED, variations.heatmap_without_ano, NO_SWAP),
)
PARTS = {  # title -> reference rows that open it, and a note
    "Stage 1": (
        (DETECT, UNHINTED),
        "Fresh heads on the backbone as it is. Hints pull stage tokens to the words that stood in "
        "their place in `base`. One token has no room for the two words of a place, and a "
        "constant in place of <Ano> has none to learn: these rows go without hints, beside 16 "
        "tokens without.",
    ),
    "Supervision": (
        (PIXEL,),
        "Fresh heads on a base made without masks and labels; no hints, which say where lesions "
        "are. An AUROC whose interval holds 0.5 has learned nothing in this budget.",
    ),
    "Stage 2": (
        (COMPARE,),
        "On stage 1 of the same seed, frozen. The change map still subtracts the dates in every "
        "row. A head that always says stable is consistent, too: swap consistency is to be read "
        "beside the accuracy.",
    ),
    "Stage 3": (
        (EXPLAIN, UNSWAPPED),
        "On stages 1 and 2 of the same seed, frozen. What punishes a map that ignores its <Ano> "
        "would punish one that sees none for every lesion: that row goes without it, beside one "
        "with <Ano> that does.",
    ),
}
