"""Step 1 of the road: which of a DICOM file's grey-scale windows an image is shown with."""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset

from medic_ad.readers.dicom_pixels import first_number, frame_item

Window = tuple[float, float]  # centre and width, in the units of the pixels

# Customary windows of CT in HU, by DICOM body part; what is not named has the last.
_CT_WINDOWS: tuple[tuple[set[str], Window], ...] = (
    ({"BRAIN", "HEAD", "SKULL"}, (40, 80)),
    ({"CHEST", "LUNG", "THORAX"}, (-600, 1500)),
    ({"ABDOMEN", "LIVER", "PELVIS"}, (50, 400)),
    (set(), (40, 400)),
)


def choose_window(dataset: Dataset, mirror: float | None) -> tuple[Window | None, str | None]:
    """The window to show the first frame with, and the note that says which it is.

    Of several the first counts, in CT the one nearest to the body part's own, which also stands in
    where a CT declares none.

    Args:
        mirror: of a MONOCHROME1 image that was turned over, see `Frames`.
    """
    declared = _declared(dataset)
    part = str(dataset.get("BodyPartExamined") or "").strip().upper()
    own = next(window for parts, window in _CT_WINDOWS if part in parts or not parts)
    of_ct = dataset.get("Modality") == "CT"
    if not declared:
        if not of_ct:
            return None, None
        words = f"CT of {part}" if part else "CT"
        return own, f"declares no window: shown as {words}, centre {own[0]:g}, width {own[1]:g}"
    number = 0
    if of_ct:
        number = min(range(len(declared)), key=lambda n: _distance(declared[n][0], own))
    (centre, width), name = declared[number]
    centre = centre if mirror is None else mirror - centre
    which = "declares the window"
    if len(declared) > 1:
        which = f"declares {len(declared)} windows, shown with number {number + 1}"
        which += f" ({name})," if name else ","
    return (centre, width), f"{which} centre {centre:g}, width {width:g}"


def _declared(dataset: Dataset) -> list[tuple[Window, str]]:
    """Windows with their names; a centre without a width, or a width of 0, is none."""
    holder = frame_item(dataset, 0, "FrameVOILUTSequence") or dataset
    keywords = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation")
    centres, widths, names = (_values(holder.get(keyword)) for keyword in keywords)
    out = []
    for number, pair in enumerate(zip(centres, widths, strict=False)):
        centre, width = map(first_number, pair)
        if centre is not None and width is not None and width > 0:
            name = str(names[number]).strip() if number < len(names) else ""
            out.append(((centre, width), name))
    return out


def _values(value: Any) -> list:
    if value is None or value == "":
        return []
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        return [value]
    return list(value)


def _distance(window: Window, other: Window) -> float:
    """How differently two windows show: centre in widths, width in octaves."""
    return abs(window[0] - other[0]) / other[1] + abs(math.log2(window[1] / other[1]))
