"""Training data: the public sets that can be prepared, by name; imports nothing heavy."""

from __future__ import annotations

from medic_ad.data.facts import bmad, brain, chest, language
from medic_ad.data.facts.info import SetInfo

SETS: dict[str, SetInfo] = {
    **brain.SETS,
    **bmad.SETS,
    **chest.SETS,
    **language.SETS,
    "table": SetInfo(
        task="any: your own images",
        modality="as the column `modality` says",
        n="your rows",
        licence="yours",
        ship=False,
        where="a CSV file of your own",
        layout="CSV: image[, slice, prior, patient, date, label, mask, change, question, answer,"
        " split, modality, body_part, sequence]",
        module="medic_ad.data.sets.table",
        split="yours, or drawn by patient and duplicate group",
    ),
}

COMBINATIONS: dict[str, tuple[str, ...]] = {
    "nano": ("brain_tumour_cheng", "ms_cross_sectional", "mni152"),
    # the paper's, stage by stage (Medic-AD, arXiv 2603.27176)
    "paper_detect": (
        "bmad_brats2021",
        "bmad_liver",
        "bmad_resc",
        "bmad_oct2017",
        "bmad_rsna",
        "bmad_camelyon16",
        "chestx_det",
        "vqa_rad",
        "slake",
        "pathvqa",
    ),
    "paper_compare": ("mimic_diff_vqa",),
    "paper_explain": ("bmad_brats2021", "bmad_liver", "bmad_resc", "chestx_det"),
}
