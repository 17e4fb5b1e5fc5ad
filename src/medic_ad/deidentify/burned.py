"""De-identification: text in the pixels, found by class, tag and OCR, and blacked out.

OCR is Debian's tesseract, where it is installed. It misses some text, so that what is likely to
bear text is refused where nothing could look, and where the file says that there is text and
nothing was found.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import UID

from medic_ad.errors import DeidentifyError

ROUNDS = 3  # of looking and blacking out, before what is still seen makes the file refused
LEAST_CONFIDENCE = 30.0  # percent, of tesseract
LEAST_LETTERS = 2
TEXT_HEIGHT_SIDE = 1400  # small pictures are enlarged to about this side: letters of 20 px and more
_SUSPECTS = ("Ultrasound", "Secondary Capture", "Visible Light", "Video", "Photography",
             "Endoscopic", "Fluoroscopic")  # fmt: skip
_PROJECTIONS = ("CR", "DX", "MG", "RF", "XA", "RG", "IO", "PX", "OT", "US")


@dataclass(frozen=True)
class Box:
    """Pixels that were blacked out in one frame: rows and columns from, to (exclusive)."""

    frame: int
    top: int
    left: int
    bottom: int
    right: int


def reading_possible() -> bool:
    """Whether tesseract is installed."""
    return shutil.which("tesseract") is not None


def suspicion(dataset: Dataset) -> str | None:
    """Why a file is likely to bear text, by its class and tags; None where it is not."""
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        return "its tags say that text is burned in"
    name = UID(dataset.SOPClassUID).name
    if any(word in name for word in _SUSPECTS):
        return f"files of its class ({name}) often bear text"
    if dataset.get("ConversionType"):
        return "it was scanned, filmed or captured from a screen"
    if "SCREEN SAVE" in " ".join(dataset.get("ImageType") or ()).upper():
        return "it was captured from a screen"
    return None


def worth_a_look(dataset: Dataset) -> bool:
    """Whether OCR looks at a file: all but the slices that a scanner itself made."""
    kind = [str(word).upper() for word in dataset.get("ImageType") or ("", "")]
    original = kind[:2] == ["ORIGINAL", "PRIMARY"]
    placed = "ImagePositionPatient" in dataset or "PerFrameFunctionalGroupsSequence" in dataset
    projection = str(dataset.get("Modality")) in _PROJECTIONS
    return suspicion(dataset) is not None or projection or not (original and placed)


def blacken_text(dataset: Dataset) -> list[Box]:
    """Black out what OCR takes for text, in place; the pixel data must not be compressed.

    Raises:
        DeidentifyError: text is likely and nobody can look, or not all of it can be found.
    """
    why = suspicion(dataset)
    if not reading_possible():
        if why is None:
            return []
        raise DeidentifyError(
            f"expected an image without burned-in text, came one that may have some: {why}; "
            "install tesseract, which finds it."
        )
    if not worth_a_look(dataset):
        return []
    stored = dataset.pixel_array
    frames = stored.reshape(-1, *stored.shape[1:]) if _many(dataset) else stored[None]
    frames = frames.copy()
    fill = frames.max() if dataset.PhotometricInterpretation == "MONOCHROME1" else frames.min()
    boxes: list[Box] = []
    for number, frame in enumerate(frames):
        boxes += _blacken(dataset, frame, number, fill)
    if boxes:
        _put_back(dataset, frames if _many(dataset) else frames[0])
    elif str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        raise DeidentifyError(
            "expected the burned-in text that the tags speak of, came none that OCR could find; "
            "black it out by hand and set Burned In Annotation to NO."
        )
    dataset.BurnedInAnnotation = "NO"
    return boxes


def _put_back(dataset: Dataset, pixels: NDArray) -> None:
    """Pixels as `pixel_array` gave them, colour as RGB, into a data set and its tags."""
    if "PixelData" not in dataset or dataset.BitsAllocated not in (8, 16):
        raise DeidentifyError(
            "expected text in pixels of 8 or 16 bits, came text in others, which cannot be written "
            "back; black it out by hand."
        )
    colour = dataset.SamplesPerPixel == 3
    kind = "RGB" if colour else dataset.PhotometricInterpretation
    dataset.set_pixel_data(pixels, kind, dataset.BitsStored, generate_instance_uid=False)


def _many(dataset: Dataset) -> bool:
    return int(dataset.get("NumberOfFrames") or 1) > 1


def _blacken(dataset: Dataset, frame: NDArray, number: int, fill: float) -> list[Box]:
    boxes: list[Box] = []
    for _ in range(ROUNDS):
        found = text_boxes(_grey(dataset, frame))
        if not found:
            return boxes
        for top, left, bottom, right in found:
            frame[top:bottom, left:right] = fill
            boxes.append(Box(number, top, left, bottom, right))
    if text_boxes(_grey(dataset, frame)):
        raise DeidentifyError(
            f"expected burned-in text that can be blacked out, came frame {number + 1} where OCR "
            f"still sees some after {ROUNDS} rounds; black it out by hand."
        )
    return boxes


def _grey(dataset: Dataset, frame: NDArray) -> NDArray[np.uint8]:
    """The picture for OCR alone: 8 bits from the darkest to the brightest pixel."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        frame = apply_color_lut(frame, dataset)
    values = frame.astype(np.float32)
    values = values.max(-1) if values.ndim == 3 else values
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    if high <= low:
        high = float(values.max())
    scaled = (values - low) / max(high - low, 1e-6)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)


def text_boxes(grey: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    """Boxes `(top, left, bottom, right)` of what tesseract takes for words.

    A word's box is a letter wider at both ends, and a quarter of a letter higher.

    Three looks: bright letters as they are, dark ones, and the brightest pixels alone, since text
    is mostly drawn at the top of the range and stands out there from anatomy.
    """
    if grey.min() == grey.max():
        return []
    looks = (255 - grey, grey, np.where(grey >= 250, 0, 255).astype(np.uint8))
    boxes = [box for look in looks for box in _words(look)]
    return sorted(set(boxes))


def _words(look: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    import pytesseract

    height, width = look.shape
    factor = max(1, round(TEXT_HEIGHT_SIDE / max(height, width)))
    size = width * factor, height * factor
    picture = Pillow.fromarray(look).resize(size, Pillow.Resampling.BICUBIC)
    found = pytesseract.image_to_data(
        picture, config="--psm 11", output_type=pytesseract.Output.DICT
    )
    boxes = []
    for text, sure, left, top, wide, high in zip(
        *(found[name] for name in ("text", "conf", "left", "top", "width", "height")), strict=True
    ):
        letters = sum(letter.isalnum() for letter in text)
        if float(sure) < LEAST_CONFIDENCE or letters < LEAST_LETTERS:
            continue
        above, beside = 2 + high // (4 * factor), 2 + high // factor  # ends of words are missed
        box = (
            max(0, top // factor - above),
            max(0, left // factor - beside),
            min(height, -(-(top + high) // factor) + above),
            min(width, -(-(left + wide) // factor) + beside),
        )
        boxes.append(box)
    return boxes
