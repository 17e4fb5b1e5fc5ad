"""Training data: facts of the six sets of the benchmark BMAD (Bao et al. 2024)."""

from __future__ import annotations

from medic_ad.data.facts.info import SetInfo

_WHERE = "https://github.com/DorisBao/BMAD"
_LAYOUT = (
    "{train,valid,test}/{good,Ungood}/, train without Ungood; images in it, or in img/ with masks"
    " of the same name in label/; valid may be called val, img/ and label/ may come first"
)


def _set(modality: str, n: str, source: str, task: str) -> SetInfo:
    return SetInfo(
        task=task,
        modality=modality,
        n=n,
        licence=f"that of {source}: not verified here; Bao et al. 2024",
        ship=False,
        where=_WHERE,
        layout=_LAYOUT,
        module="medic_ad.data.sets.bmad",
    )


_MASKS = "detect, explain"
_LABELS = "detect"

SETS: dict[str, SetInfo] = {
    "bmad_brats2021": _set("MR, FLAIR, brain, axial slices", "11,298 slices", "BraTS 2021", _MASKS),
    "bmad_liver": _set("CT, liver, axial slices", "3,201 slices", "BTCV and LiTS", _MASKS),
    "bmad_resc": _set("OPT, retina, B-scans", "6,217 B-scans", "RESC", _MASKS),
    "bmad_oct2017": _set("OPT, retina, B-scans", "27,315 B-scans", "OCT2017", _LABELS),
    "bmad_rsna": _set("DX, chest radiographs", "26,684 images", "RSNA Pneumonia", _LABELS),
    "bmad_camelyon16": _set(
        "SM, lymph node, patches of 256 px", "7,321 patches", "Camelyon16", _LABELS
    ),
}
