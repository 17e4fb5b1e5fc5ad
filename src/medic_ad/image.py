"""Step 1 of the road: what a reader hands over, pixels in real units with their geometry."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medic_ad.errors import ReadError

MIN_SIDE_PX = 16
SMALL_SIDE_PX = 32  # a slice with a shorter side is read, with a warning in the report
MAX_SIDE_PX = 8192
MAX_VOXELS = 2**29  # 2 GiB as float32
# Longest side of a slice: a dental film has 35 mm, cut-outs are smaller; nobody is longer than the
# picture of a whole body. Beyond, a report warns: micrometres, centimetres or metres came as mm.
FIELD_MM = (20.0, 2000.0)

# Terms that name the same part for a comparison: scanners use them interchangeably.
_SAME_PART = ({"BRAIN", "HEAD", "SKULL"}, {"CHEST", "LUNG", "THORAX"})
_SAME_MODALITY = ({"CR", "DX", "RG"},)
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


@dataclass(frozen=True)
class Source:
    """Where an image came from and how it was read.

    `sha256` is the hash of the file's bytes; for a series, of the concatenated hexadecimal
    hashes of its files in slice order.  `sop_instance_uids` are in slice order too; `frames` are
    the numbers (from 1) that the slices have in the one file of several frames that holds them.
    `sex` is M or F, None when the file says neither.  `notes` are sentences on every choice the
    reader made, `doubts` those on what contradicts itself in the file: the report warns of them.
    """

    path: str
    sha256: str
    format: str
    patient_id: str | None = None
    patient_name: str | None = None
    sex: str | None = None
    birth_date: datetime.date | None = None
    study_date: datetime.date | None = None
    sop_instance_uids: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    sop_class_uid: str | None = None
    series_description: str | None = None
    laterality: str | None = None
    view: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Image:
    """One grey image `(H, W)` or volume `(D, H, W)` of one patient on one date.

    Args:
        pixels: float32, finite, in real units after the modality LUT (HU, scanner units, grey).
        affine: 4x4 from voxel-centre indices `(d, h, w, 1)` to LPS millimetres (`d` is 0 in a
            2-D image), or None when the file does not say.
        spacing_mm: millimetres between pixel centres along each axis of `pixels`, or None.
        modality: DICOM code ("MR", "CT", "CR", "DX"), or None when unknown.
        body_part: DICOM term in upper case ("BRAIN", "CHEST"), or None when unknown.
        window: centre and width for display, in the units of `pixels`; a note says whose they are.
        directions: letters (of L R A P H F) towards which the columns (+w) and the rows (+h)
            run, where a file without position says so (radiographs); not needed with an affine.
        source: the file it came from.

    Raises:
        ReadError: if the pixels or the geometry are not of that kind.
    """

    pixels: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    modality: str | None = None
    body_part: str | None = None
    window: tuple[float, float] | None = None
    directions: tuple[str, str] | None = None
    source: Source = field(kw_only=True)

    def __post_init__(self) -> None:
        name = self.source.path
        pixels = self.pixels
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.float32:
            came = getattr(pixels, "dtype", type(pixels).__name__)
            raise ReadError(f"{name}: expected float32 pixels, came {came}; convert them first.")
        check_grid(pixels.shape, name)
        if not np.isfinite(pixels).all():
            count = int(pixels.size - np.isfinite(pixels).sum())
            raise ReadError(
                f"{name}: expected finite pixel values, came {count} that are NaN or infinite; "
                "replace them by numbers (for example 0) and read again."
            )
        if self.affine is not None:
            _check_affine(self.affine, name)
        if self.spacing_mm is not None and (
            len(self.spacing_mm) != pixels.ndim
            or not all(np.isfinite(s) and s > 0 for s in self.spacing_mm)
        ):
            raise ReadError(
                f"{name}: expected one positive spacing in mm for each of {pixels.ndim} axes, "
                f"came {self.spacing_mm}; correct the file's pixel spacing."
            )
        if self.directions is not None and not set(self.directions) <= set(_OPPOSITE):
            raise ReadError(
                f"{name}: expected patient directions of L, R, A, P, H or F, came "
                f"{self.directions}; correct the file's patient orientation."
            )

    @property
    def is_volume(self) -> bool:
        return self.pixels.ndim == 3

    @property
    def grid(self) -> tuple[int, ...]:
        return self.pixels.shape

    @property
    def orientation_known(self) -> bool:
        """Whether a side of the patient may be named."""
        return self.affine is not None or self.directions is not None

    def slices(self) -> NDArray[np.float32]:
        """The pixels as `(D, H, W)`, a view; D is 1 for a 2-D image."""
        return self.pixels if self.is_volume else self.pixels[None]

    def side_letters(self) -> dict[str, str] | None:
        """The patient's side at each border of a slice as displayed, None when unknown.

        Letters: R right, L left, A anterior, P posterior, H head, F feet.
        """
        if self.affine is not None:
            right, bottom = (_letter(self.affine[:3, axis]) for axis in (2, 1))
        elif self.directions is not None:
            right, bottom = self.directions
        else:
            return None
        return {
            "left": _OPPOSITE[right],
            "right": right,
            "top": _OPPOSITE[bottom],
            "bottom": bottom,
        }


def in_memory(
    pixels: NDArray[np.float32], affine: NDArray[np.float64], modality: str, body_part: str
) -> Image:
    """A made volume `(D, H, W)` as a reader would hand it over; `affine` as in `Image`."""
    d, h, w = (float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Image(
        pixels,
        affine=affine,
        spacing_mm=(d, h, w),
        modality=modality,
        body_part=body_part,
        source=Source("made", hashlib.sha256(pixels.tobytes()).hexdigest(), "NIFTI"),
    )


def check_grid(shape: tuple[int, ...], name: str) -> None:
    """Refuse a grid that cannot be read; readers call it on the header, before decoding.

    Raises:
        ReadError: unless 2 or 3 axes, every in-plane side 16 to 8192 px, at most 2**29 voxels.
    """
    size = " x ".join(str(n) for n in shape)
    if len(shape) not in (2, 3):
        raise ReadError(
            f"{name}: expected an image of 2 or 3 axes, came {len(shape)} ({size}); "
            "give one image or one volume."
        )
    if min(shape) < 1 or min(shape[-2:]) < MIN_SIDE_PX:
        raise ReadError(
            f"{name}: expected at least {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels, came {size}; "
            "give the image at its full size."
        )
    if max(shape[-2:]) > MAX_SIDE_PX:
        raise ReadError(
            f"{name}: expected at most {MAX_SIDE_PX} x {MAX_SIDE_PX} pixels, came {size}; "
            "crop the image or make it smaller."
        )
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    if voxels > MAX_VOXELS:
        raise ReadError(
            f"{name}: expected at most {MAX_VOXELS} voxels, came {voxels} ({size}); "
            "crop the volume or make it smaller."
        )


def same_body_part(a: str, b: str) -> bool:
    """Whether two DICOM body part terms may be compared (HEAD with BRAIN, LUNG with CHEST)."""
    return a == b or any({a, b} <= group for group in _SAME_PART)


def same_modality(a: str, b: str) -> bool:
    """Whether two DICOM modality codes may be compared (the kinds of radiograph may)."""
    return a == b or any({a, b} <= group for group in _SAME_MODALITY)


def _check_affine(affine: Any, name: str) -> None:
    good = (
        isinstance(affine, np.ndarray)
        and affine.shape == (4, 4)
        and affine.dtype == np.float64
        and bool(np.isfinite(affine).all())
        and np.array_equal(affine[3], (0, 0, 0, 1))
        and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    )
    if not good:
        raise ReadError(
            f"{name}: expected a 4 x 4 invertible matrix from voxels to millimetres, came "
            f"{np.asarray(affine).tolist()}; correct the file's geometry."
        )


def _letter(direction: NDArray[np.float64]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return ("LPH" if direction[axis] > 0 else "RAF")[axis]
