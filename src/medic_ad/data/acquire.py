"""Test data, generator: one volume as another date and another scanner would have seen it.

All functions are pure. Volumes are float32 (D, H, W); affines lead from voxel-centre indices
(d, h, w, 1) to LPS mm, as in `Image`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Matrix = NDArray[np.float64]

MOST_MM, MOST_DEG = 20.0, 15.0  # a patient lies this differently on another date
THICKNESS_MM = (1.0, 4.0)
IN_PLANE_MM = (0.8, 1.3)
LEAST_FIELD = 0.75  # of the reference field of view, along each axis
_PLANES = ((0, 1, 2), (0, 1, 2), (0, 1, 2), (1, 0, 2), (2, 0, 1))  # mostly axial


@dataclass(frozen=True, eq=False)
class Acquisition:
    """How one date is scanned: everything that differs without disease.

    Attributes:
        motion: 4x4, from where the patient lies in the reference to where on this date, LPS mm.
        affine, grid: of the date's own voxels.
        gain, gamma: of the grey scale.
        bias: five factors of a smooth field.
        noise: standard deviation over the volume's 99th percentile.
    """

    motion: Matrix
    affine: Matrix
    grid: tuple[int, int, int]
    gain: float = 1.0
    gamma: float = 1.0
    bias: tuple[float, ...] = (0.0,) * 5
    noise: float = 0.0

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    def to_reference(self, affine: Matrix) -> Matrix:
        """From indices of this date to indices of the reference volume with that affine."""
        return np.linalg.inv(self.motion @ affine) @ self.affine


def draw_motion(
    rng: np.random.Generator, centre: Sequence[float], most_mm: float, most_deg: float
) -> Matrix:
    """A rigid transform about a point: any axis, angle and way uniform up to their most."""
    axis, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = Rotation.from_rotvec(axis * rng.uniform(0, most_deg), degrees=True).as_matrix()
    motion = np.eye(4)
    motion[:3, :3] = turn
    middle = np.asarray(centre, float)
    motion[:3, 3] = middle - turn @ middle + way * rng.uniform(0, most_mm)
    return motion


def draw_acquisition(
    rng: np.random.Generator,
    affine: Matrix,
    grid: Sequence[int],
    most_mm: float = MOST_MM,
    most_deg: float = MOST_DEG,
) -> Acquisition:
    """Draw pose, plane, voxels, field of view and grey scale of one date.

    Args:
        affine, grid: of the reference volume, whose axes (not its voxels) the date's share.
    """
    shape = np.asarray(grid)
    step = np.linalg.norm(affine[:3, :3], axis=0)
    centre = (affine @ np.append((shape - 1) / 2, 1))[:3]
    order = list(_PLANES[int(rng.integers(len(_PLANES)))])
    spacing = np.array([rng.uniform(*THICKNESS_MM), *[rng.uniform(*IN_PLANE_MM)] * 2])
    field = (shape * step)[order] * rng.uniform(LEAST_FIELD, 1.0, 3)
    size = np.maximum(np.floor(field / spacing).astype(int), 16)
    axes = (affine[:3, :3] / step)[:, order] * rng.choice((-1.0, 1.0), 3)
    slack = np.maximum((shape * step)[order] - size * spacing, 0)
    own = np.eye(4)
    own[:3, :3] = axes * spacing
    own[:3, 3] = centre + axes @ (rng.uniform(-0.5, 0.5, 3) * slack)
    own[:3, 3] -= own[:3, :3] @ ((size - 1) / 2)
    return Acquisition(
        motion=draw_motion(rng, centre, most_mm, most_deg),
        affine=own,
        grid=(int(size[0]), int(size[1]), int(size[2])),
        gain=float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))),
        gamma=float(np.exp(rng.uniform(-0.15, 0.15))),
        bias=tuple(rng.uniform(-0.12, 0.12, 5)),
        noise=float(rng.uniform(0.0, 0.025)),
    )


def acquire(
    volume: np.ndarray, affine: Matrix, how: Acquisition, rng: np.random.Generator
) -> np.ndarray:
    """The reference volume as a date sees it: float32 on its own grid, never negative.

    A voxel is the mean over its own extent (thick slices blur), 0 outside the reference.
    """
    out = _average(volume.astype(np.float32), how.to_reference(affine), how.grid)
    top = max(float(np.percentile(volume, 99)), 1e-6)
    out = top * (np.clip(out, 0, None) / top) ** how.gamma
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in how.grid), indexing="ij", sparse=True)
    a, b, c, e, f = how.bias
    out = out * np.exp(a * d + b * h + c * w + e * h * w + f * (d * d - 0.5))
    out = out + how.noise * top * rng.standard_normal(how.grid, dtype=np.float32)
    return np.asarray(how.gain * np.clip(out, 0, None), dtype=np.float32)


def acquire_labels(labels: np.ndarray, affine: Matrix, how: Acquisition) -> np.ndarray:
    """Labels as a date sees them: int32, each voxel the label that fills at least half of it."""
    to_reference = how.to_reference(affine)
    from_reference = np.linalg.inv(to_reference)
    out = np.zeros(how.grid, np.int32)
    fullest = np.full(how.grid, 0.5, np.float32)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        low = np.array([s.start for s in box]) - 1.5
        high = np.array([s.stop for s in box]) + 0.5
        corners = np.stack([np.where([i & 4, i & 2, i & 1], high, low) for i in range(8)])
        there = corners @ from_reference[:3, :3].T + from_reference[:3, 3]
        first = np.maximum(np.floor(there.min(0)).astype(int), 0)
        last = np.minimum(np.ceil(there.max(0)).astype(int) + 1, how.grid)
        if (last <= first).any():
            continue
        near = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in box)
        start = np.array([s.start for s in near])
        part = to_reference.copy()
        part[:3, 3] += to_reference[:3, :3] @ first - start
        shape = tuple(int(n) for n in last - first)
        filled = _average((labels[near] == label).astype(np.float32), part, shape)
        area = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        wins = filled >= fullest[area]
        out[area][wins] = label
        fullest[area][wins] = filled[wins]
    return out


def _average(pixels: np.ndarray, to_source: Matrix, shape: Sequence[int]) -> np.ndarray:
    """Each voxel of the new grid as the mean of the source over its extent, 0 outside."""
    reach = np.linalg.norm(to_source[:3, :3], axis=0)  # source voxels in one step of the new grid
    parts = np.maximum(np.rint(reach), 1).astype(int)
    fine = to_source.copy()
    fine[:3, :3] = to_source[:3, :3] / parts
    fine[:3, 3] = to_source[:3, 3] - to_source[:3, :3] @ ((parts - 1) / (2 * parts))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(fine[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(fine[:3, 3][::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n * p) for n, p in zip(shape, parts, strict=True)][::-1])
    resampler.SetTransform(transform)
    source = sitk.GetImageFromArray(np.ascontiguousarray(pixels))
    image = resampler.Execute(source)
    if (parts > 1).any():
        image = sitk.BinShrink(image, [int(p) for p in parts[::-1]])
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)
