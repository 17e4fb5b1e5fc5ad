"""De-identification: what stands in pixel data beside the pixels, where no viewer shows it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length

from medic_ad.deidentify.scrub import Action
from medic_ad.errors import DeidentifyError
from medic_ad.readers.dicom_pixels import PIXELS

CLEARED = "bytes and bits beside the pixels cleared"


def clear_outside(dataset: Dataset) -> list[Action]:
    """Cut bytes behind the last pixel and clear bits that no pixel has, in place.

    The bits once held overlays (PS3.5 8.1.2). The pixel data must not be compressed.

    Raises:
        DeidentifyError: pixels of an odd layout, or fewer than the header says.
    """
    if dataset.BitsAllocated not in (1, 8, 16, 32, 64):
        raise DeidentifyError(
            "expected pixels of 1, 8, 16, 32 or 64 bits, came pixels of "
            f"{dataset.BitsAllocated}; convert the file first."
        )
    actions = []
    for keyword in (keyword for keyword in PIXELS if keyword in dataset):
        element = dataset[keyword]
        length = get_expected_length(dataset)
        if len(element.value) < length:
            raise DeidentifyError(
                f"expected {length} bytes of pixels, came {len(element.value)}; copy or export the "
                "file again."
            )
        kept = element.value[:length]
        if keyword == "PixelData" and dataset.BitsStored < dataset.BitsAllocated:
            kept = _without_spare_bits(dataset, kept)
        kept += b"\0" * (length % 2)
        if kept != element.value:
            element.value = kept
            actions.append(Action(str(element.tag), keyword, CLEARED))
    return actions


def _without_spare_bits(dataset: Dataset, stored: bytes) -> bytes:
    """Words whose bits above those stored are 0, or the sign's."""
    if dataset.HighBit != dataset.BitsStored - 1:
        raise DeidentifyError(
            f"expected pixels whose highest bit is {dataset.BitsStored - 1} (PS3.5 8.1.1), came "
            f"{dataset.HighBit}; convert the file first, for example with dcmconv of DCMTK."
        )
    kind = "i" if dataset.PixelRepresentation else "u"
    words: NDArray = np.frombuffer(stored, f"<{kind}{dataset.BitsAllocated // 8}")
    spare = dataset.BitsAllocated - dataset.BitsStored
    return ((words << spare) >> spare).astype(words.dtype).tobytes()
