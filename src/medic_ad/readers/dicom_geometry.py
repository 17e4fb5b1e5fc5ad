"""Step 1 of the road: positions of DICOM slices -> their order and the matrix to LPS mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medic_ad.errors import ReadError
from medic_ad.readers.dicom_pixels import frame_item

SAME_PLACE_MM = 0.01
REGULAR = 0.1  # allowed deviation from a regular stack, in slice distances
SAME_DIRECTION = 1e-3  # allowed difference of direction cosines within a stack


@dataclass(frozen=True)
class Plane:
    """One slice in LPS mm: the first pixel's centre, unit vectors along +w and +h, pixel size."""

    origin: NDArray[np.float64]
    along_w: NDArray[np.float64]
    along_h: NDArray[np.float64]
    spacing: tuple[float, float]  # (h, w)
    thickness: float | None

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector +d: w x h, so that axial slices are ordered towards the head."""
        return np.cross(self.along_w, self.along_h)

    def affine(self, step: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = np.eye(4)
        matrix[:3, 0] = step
        matrix[:3, 1] = self.along_h * self.spacing[0]
        matrix[:3, 2] = self.along_w * self.spacing[1]
        matrix[:3, 3] = self.origin
        return matrix


@dataclass(frozen=True)
class Stack:
    """Slices in order: the planes at each place, matrix, spacing (d, h, w), notes."""

    places: tuple[tuple[int, ...], ...]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    notes: tuple[str, ...]


def planes_of(dataset: Dataset) -> list[Plane | None]:
    """The plane of each frame, None where the file does not give a complete one."""
    return [_plane(dataset, frame) for frame in range(int(dataset.get("NumberOfFrames") or 1))]


def lone_affine(plane: Plane) -> NDArray[np.float64]:
    return plane.affine(plane.normal * (plane.thickness or 1.0))


def projection_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str | None]:
    """Pixel size (h, w) of an image without a plane, and the note on where it holds."""
    for keyword, place in (
        ("PixelSpacing", None),
        ("ImagerPixelSpacing", "pixel size measured at the detector, not in the patient"),
    ):
        values = _numbers(dataset.get(keyword), 2)
        if values is not None and min(values) > 0:
            return (values[0], values[1]), place
    return None, None


def stack(planes: list[Plane], name: str) -> Stack:
    """Order slices along their normal and check that they make one regular volume.

    Slices may be sheared (a tilted gantry): the matrix holds the shear.

    Raises:
        ReadError: if directions or sizes differ, slices are missing, or places are irregular.
    """
    first = planes[0]
    for plane in planes[1:]:
        turned = max(
            np.abs(plane.along_w - first.along_w).max(),
            np.abs(plane.along_h - first.along_h).max(),
        )
        if turned > SAME_DIRECTION or not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            raise ReadError(
                f"{name}: expected slices of one direction and pixel size, came a mixture (a "
                "localiser or a second stack); leave only the slices of one stack."
            )
    height = np.array([plane.origin @ first.normal for plane in planes])
    order = np.argsort(height, kind="stable")
    places: list[list[int]] = []
    for index in order:
        if places and height[index] - height[places[-1][0]] <= SAME_PLACE_MM:
            places[-1].append(int(index))
        else:
            places.append([int(index)])
    if len(places) == 1:
        step = first.normal * (first.thickness or 1.0)
        return Stack((tuple(places[0]),), first.affine(step), (_length(step), *first.spacing), ())
    origins = np.array([planes[place[0]].origin for place in places])
    _check_gaps(height[[place[0] for place in places]], name)
    step = (origins[-1] - origins[0]) / (len(places) - 1)
    distance = float(step @ first.normal)
    off = np.abs(origins - origins[0] - np.arange(len(places))[:, None] * step).max()
    if off > REGULAR * distance:
        raise ReadError(
            f"{name}: expected slices at regular places, came one {off:.2f} mm from its place "
            f"at a slice distance of {distance:.2f} mm; leave only the slices of one stack."
        )
    notes = [f"slice places regular within {off:.2g} mm"] if off > SAME_PLACE_MM else []
    if distance < 0.999 * _length(step):
        notes.append("slices are sheared (tilted gantry)")
    lowest = planes[places[0][0]]
    return Stack(
        tuple(tuple(place) for place in places),
        lowest.affine(step),
        (distance, *first.spacing),
        tuple(notes),
    )


def _check_gaps(height: NDArray[np.float64], name: str) -> None:
    distances = np.diff(height)
    usual = float(np.median(distances))
    missing = np.rint(distances / usual).astype(int) - 1
    # Whole multiples of the usual distance are gaps; anything else is left to the fit.
    gaps = np.flatnonzero(
        (missing > 0) & (np.abs(distances - (missing + 1) * usual) <= REGULAR * usual)
    )
    if len(gaps):
        at = gaps[0]
        raise ReadError(
            f"{name}: expected a series without gaps, came one with {missing[gaps].sum()} "
            f"slice(s) missing, the first between slices {at + 1} and {at + 2} of {len(height)} "
            f"({distances[at]:.2f} mm apart, usually {usual:.2f} mm); give the complete series."
        )


def _plane(dataset: Dataset, frame: int) -> Plane | None:
    def find(sequence: str, keyword: str, count: int) -> list[float] | None:
        item = frame_item(dataset, frame, sequence) or dataset
        return _numbers(item.get(keyword), count)

    position = find("PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = find("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = find("PixelMeasuresSequence", "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    if int(dataset.get("NumberOfFrames") or 1) > 1 and not frame_item(
        dataset, frame, "PlanePositionSequence"
    ):
        return None  # one position for many frames says nothing on the others
    along_w, along_h = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along_w), np.linalg.norm(along_h)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(along_w @ along_h) > 1e-2:
        return None
    thickness = find("PixelMeasuresSequence", "SliceThickness", 1)
    return Plane(
        origin=np.array(position),
        along_w=along_w / lengths[0],
        along_h=along_h / lengths[1],
        spacing=(spacing[0], spacing[1]),
        thickness=thickness[0] if thickness and thickness[0] > 0 else None,
    )


def _numbers(value: Any, count: int) -> list[float] | None:
    if value is None or value == "":
        return None
    values = [value] if count == 1 else list(value)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _length(vector: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vector))
