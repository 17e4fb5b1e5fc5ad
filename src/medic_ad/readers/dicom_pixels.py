"""Step 1 of the road: the stored pixels of one DICOM file -> grey frames in real units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medic_ad.errors import ReadError
from medic_ad.image import MAX_VOXELS
from medic_ad.readers.common import cause, to_grey

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Who decodes a compressed transfer syntax, by the start of its UID.
_PACKAGES = (
    ("1.2.840.10008.1.2.4.5", "pylibjpeg-libjpeg"),  # JPEG
    ("1.2.840.10008.1.2.4.7", "pylibjpeg-libjpeg"),  # JPEG lossless
    ("1.2.840.10008.1.2.4.8", "pyjpegls"),  # JPEG-LS
    ("1.2.840.10008.1.2.4.9", "pylibjpeg-openjpeg"),  # JPEG 2000
    ("1.2.840.10008.1.2.4.20", "pylibjpeg-openjpeg"),  # high-throughput JPEG 2000
)
# pydicom's plugins in the order they are tried. GDCM's is left out: on damaged JPEG data its C++
# exception ends the whole process.
PLUGINS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom")


@dataclass(frozen=True)
class Frames:
    """Grey frames `(F, H, W)` after the modality LUT.

    `mirror` is the sum of the ends of the grey scale where MONOCHROME1 was inverted
    (value -> mirror - value), `rescales` the slopes and intercepts that were applied.
    """

    pixels: NDArray[np.float32]
    mirror: float | None
    rescales: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


def frame_item(dataset: Dataset, frame: int, sequence: str) -> Dataset | None:
    """The item of an enhanced multi-frame image's functional group for one frame."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*groups[frame : frame + 1], *shared[:1]):
        if items := group.get(sequence):
            return items[0]
    return None


def decode(dataset: Dataset, name: str) -> Frames:
    """Decode, convert colour to grey, apply the modality LUT, turn MONOCHROME1 over.

    Raises:
        ReadError: if there are no pixels, no decoder for them, or damaged ones.
    """
    notes: list[str] = []
    if not any(keyword in dataset for keyword in PIXELS):
        raise ReadError(
            f"{name}: expected a DICOM image, came {kind_of(dataset)} whose pixel data are "
            "missing or cut off; copy or export it again."
        )
    stored = _stored(dataset, name, notes)
    interpretation = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if interpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
        notes.append("palette applied")
    if int(dataset.get("SamplesPerPixel", 1)) == 3 or interpretation == "PALETTE COLOR":
        stored, note = to_grey(stored)
        notes.append(note)
    count = int(dataset.get("NumberOfFrames") or 1)
    stored = stored.reshape(count, *stored.shape[-2:])
    if _holds_padding(dataset, stored):
        notes.append(f"pixel padding value {dataset.PixelPaddingValue} left in place")
    pixels = np.empty(stored.shape, dtype=np.float32)
    rescales: dict[tuple[float, float], None] = {}
    for frame in range(count):
        pixels[frame], rescale = _to_units(stored[frame], dataset, frame)
        if rescale is not None:
            rescales[rescale] = None
    if dataset.get("ModalityLUTSequence"):
        notes.append("modality LUT applied")
    mirror = None
    if interpretation == "MONOCHROME1":
        if dataset.get("Modality") == "CT" or dataset.get("RescaleType") == "HU":
            notes.append("MONOCHROME1 with values in HU: not inverted")
        else:
            mirror = float(_to_units(_ends(dataset, stored), dataset, 0)[0].sum())
            np.subtract(np.float32(mirror), pixels, out=pixels)
            notes.append("MONOCHROME1 inverted")
    if dataset.get("VOILUTSequence"):
        notes.append("VOI LUT present, not applied")
    if dataset.get("LossyImageCompression") == "01":
        notes.append("lossy compressed")
    if dataset.get("BurnedInAnnotation") == "YES":
        notes.append("annotation burned into the pixels")
    return Frames(pixels, mirror, tuple(rescales), tuple(notes))


def check_samples(dataset: Dataset, name: str) -> None:
    """Refuse what would be too large once decoded, by its header.

    Raises:
        ReadError: if frames x rows x columns x samples are more than `MAX_VOXELS`.
    """
    keywords = ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")
    sizes = [int(dataset.get(keyword) or 1) for keyword in keywords]
    if math.prod(sizes) > MAX_VOXELS:
        raise ReadError(
            f"{name}: expected at most {MAX_VOXELS} values in all frames, came "
            f"{' x '.join(map(str, sizes))}; give a part of the frames."
        )


def kind_of(dataset: Dataset) -> str:
    """What a file calls itself, for messages."""
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if not uid:
        return "an object of no stated class"
    return UID(uid).name if UID(uid).is_valid else "an object whose class is no valid UID"


def _stored(dataset: Dataset, name: str, notes: list[str]) -> NDArray[Any]:
    meta = dataset.file_meta
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        notes.append(f"no transfer syntax given: read as {meta.TransferSyntaxUID.name}")
    syntax = meta.TransferSyntaxUID
    package = next((p for start, p in _PACKAGES if syntax.startswith(start)), None)
    try:
        decoder = get_decoder(syntax)
        plugins = [name for name in PLUGINS if name in decoder.available_plugins]
        available = bool(plugins) or (decoder.is_available and not syntax.is_encapsulated)
    except NotImplementedError:  # what pydicom raises for a syntax that it has no decoder for
        available, package = False, None
    if not available:
        remedy = (
            f"install the package that decodes it (pip install {package})"
            if package
            else "no Python package decodes it here, so convert the file to Explicit VR Little "
            "Endian, for example with dcmconv or gdcmconv --raw of DCMTK or GDCM"
        )
        raise ReadError(
            f"{name}: expected pixels in a transfer syntax that this installation decodes, came "
            f"{syntax.name} ({syntax}); {remedy}."
        )
    try:
        return _decoded(dataset, plugins)
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise ReadError(
            f"{name}: expected complete pixel data ({syntax.name}), came data that cannot be "
            f"decoded ({cause(error)}); copy or export the file again."
        ) from error


def _decoded(dataset: Dataset, plugins: list[str]) -> NDArray[Any]:
    """By the first plugin that can; uncompressed data needs none."""
    for plugin in plugins[:-1]:
        try:
            with no_panic():
                return pixel_array(dataset, decoding_plugin=plugin)
        except Exception:  # of the last one the error is told
            continue
    with no_panic():
        return pixel_array(dataset, decoding_plugin=plugins[-1] if plugins else "")


@contextmanager
def no_panic() -> Iterator[None]:
    """Damaged data makes a decoder written in Rust panic, which is no `Exception`: now it is."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from error


def _to_units(
    stored: NDArray[Any], dataset: Dataset, frame: int
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    item = frame_item(dataset, frame, "PixelValueTransformationSequence") or dataset
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset), None
    slope, intercept = (first_number(item.get(key)) for key in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or (slope, intercept) == (1.0, 0.0):
        return stored, None
    return stored * slope + intercept, (slope, intercept)


def _ends(dataset: Dataset, stored: NDArray[Any]) -> NDArray[Any]:
    """The two ends of the stored grey scale."""
    if stored.dtype.kind == "f":
        return np.array([stored.min(), stored.max()], dtype=stored.dtype)
    bits = int(dataset.BitsStored)
    if int(dataset.get("PixelRepresentation", 0)):
        return np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1], dtype=np.int64)
    return np.array([0, 2**bits - 1], dtype=np.int64)


def _holds_padding(dataset: Dataset, stored: NDArray[Any]) -> bool:
    value = dataset.get("PixelPaddingValue")
    return isinstance(value, int) and bool((stored == value).any())


def first_number(value: Any) -> float | None:
    """The first number of a value that may be multiple, text or absent."""
    if value is None:
        return None
    if not isinstance(value, (str, bytes)) and hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
