"""Step 1 of the road: PNG, JPEG and TIFF -> Image, through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from medic_ad.errors import MedicADError, ReadError
from medic_ad.image import Image, Source, check_grid
from medic_ad.readers.common import cause, sha256_of, to_grey

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
# One plugin each, so that only these decoders see the file.
_PLUGIN: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_EXIF_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC = 262


def kind_of(head: bytes) -> str | None:
    """ "PNG", "JPEG" or "TIFF" by the first bytes of a file, else None."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def read_raster(path: Path, kind: str) -> Image:
    """Read a picture as grey values; patient, date, modality and geometry stay unknown.

    Raises:
        ReadError: if it is damaged, too large or too small, or has several pages.
    """
    try:
        with path.open("rb") as file, _PLUGIN[kind](file) as picture:
            check_grid((picture.height, picture.width), str(path))  # before decoding
            pages = getattr(picture, "n_frames", 1)
            if pages > 1:
                raise ReadError(
                    f"{path}: expected a {kind} of one page, came {pages} pages; save the page "
                    "to read alone, or give a volume as DICOM or NIfTI."
                )
            pixels, notes = _grey(picture)
    except MedicADError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise ReadError(
            f"{path}: expected a complete {kind} file, came one that cannot be decoded "
            f"({cause(error)}); copy or export it again."
        ) from error
    source = Source(path=str(path), sha256=sha256_of(path), format=kind, notes=tuple(notes))
    return Image(pixels=np.ascontiguousarray(pixels, dtype=np.float32), source=source)


def _grey(picture: Pillow.Image) -> tuple[NDArray[Any], list[str]]:
    notes: list[str] = []
    white_is_zero = getattr(picture, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == 0
    if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
        notes.append("turned upright as its EXIF orientation says")
    if "A" in picture.getbands() or "transparency" in picture.info:
        notes.append("alpha channel dropped")
    if picture.mode == "P" or picture.mode.startswith("PA"):
        picture = picture.convert("RGB")
        notes.append("palette applied")
    elif picture.mode == "1":
        picture = picture.convert("L")
        notes.append("one bit a pixel read as 0 and 255")
    elif picture.mode not in ("L", "LA", "F", "I") and not picture.mode.startswith("I;16"):
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        notes.append("16 bits a pixel")
        if white_is_zero:
            array = 65535 - array
            notes.append("white-is-zero grey inverted")
    if array.ndim == 2:
        return array, notes
    if array.shape[-1] == 2:
        return array[..., 0], notes
    grey, note = to_grey(array)
    return grey, [*notes, note]
