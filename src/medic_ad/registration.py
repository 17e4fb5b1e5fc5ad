"""Step 2 of the road: the transform between two images, estimated on small working grids.

Mutual information of locally normalised images (SimpleITK) follows anatomy rather than
brightness, so that a tumour that appears or grows does not pull the transform.  Everything is
deterministic: every pixel of a level counts, in one thread.

Points are millimetres around the centre of each image's own grid (without spacing: units of
the working grid), with coordinates in the order of the array's axes: `(h, w)` in 2-D, and
towards head, back and left in 3-D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

SIDE = {2: 224, 3: 112}  # longest side of the working grids, pixels
COARSE = {2: 6, 3: 4}  # working pixels in one pixel of the coarse grids, on which starts compete
NORMALISE = 1 / 28  # reach (sigma) of the local normalisation, as a part of SIDE
CORRELATE = 3 / 56  # reach (sigma) of the local correlation, as a part of SIDE
TURNS_DEG = (0.0, 15.0, -15.0)  # in-plane starts in 2-D
MIN_SIDE = 4  # pixels along each axis that the smoothing of SimpleITK needs
MIN_SEEN = 0.1  # of the smaller view, for a similarity
AFFINE_GAIN = 0.9  # an affine transform must leave less than this part of the dissimilarity


@dataclass(frozen=True)
class Fit:
    """A transform from points of the first to points of the second image, and how they agree.

    `similarity` is the mean squared local correlation, 0 (unrelated) to 1, whatever the
    contrast; `ncc` the correlation of all values; `_before` as the files lie.  `unit` is the
    side of a working pixel in the units of points.
    """

    matrix: Matrix
    similarity: float
    similarity_before: float
    ncc: float
    ncc_before: float
    unit: float


def sample(
    pixels: Array, to_index: Matrix, shape: Sequence[int], fill: float = float("nan")
) -> Array:
    """`pixels` on another grid: linear interpolation at `to_index @ (index there, 1)`.

    A point lies inside the field of view up to half a pixel beyond the outer pixel centres.
    """
    n = pixels.ndim
    transform = sitk.AffineTransform(n)
    transform.SetMatrix(to_index[:n, :n][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(to_index[:n, n][::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(s) for s in reversed(shape)])
    resampler.SetTransform(transform)
    resampler.SetDefaultPixelValue(fill)
    source = sitk.GetImageFromArray(np.ascontiguousarray(pixels, dtype=np.float32))
    return sitk.GetArrayFromImage(resampler.Execute(source))


def estimate(
    first: Array, second: Array, first_to_mm: Matrix, second_to_mm: Matrix, lie: Matrix
) -> Fit | None:
    """Register two images; None where one has no structure or nothing overlaps.

    Args:
        first, second: pixels, `(H, W)` or `(D, H, W)`.
        first_to_mm, second_to_mm: from their indices to points.
        lie: the transform from first to second that the files' own geometry says.
    """
    n = first.ndim
    reach = np.max([_extent(first.shape, first_to_mm), _extent(second.shape, second_to_mm)])
    unit = float(reach) / SIDE[n]
    fixed = _Level.of(first, first_to_mm, unit)
    moving = _Level.of(second, second_to_mm, unit)
    if not (fixed.structured and moving.structured):
        return None
    matrix = _best_start(fixed, moving, lie)
    if matrix is None:
        return None
    half_fixed, half_moving = fixed.shrunk(2), moving.shrunk(2)
    similarity = _similarity(half_fixed, half_moving, matrix)
    rigid = sitk.Similarity2DTransform() if n == 2 else sitk.VersorRigid3DTransform()
    for transform, gain in ((rigid, 1.0), (sitk.AffineTransform(n), AFFINE_GAIN))[: n - 1]:
        found = _optimise(fixed, moving, _set(transform, matrix), (4, 2), 1.0, 100)
        if found is None:
            continue
        reached = _similarity(half_fixed, half_moving, found)
        if 1 - reached < gain * (1 - similarity):
            matrix, similarity = found, reached
    return Fit(
        matrix,
        similarity,
        _similarity(half_fixed, half_moving, lie),
        _ncc(half_fixed, half_moving, matrix),
        _ncc(half_fixed, half_moving, lie),
        unit,
    )


@dataclass(frozen=True)
class _Level:
    """One image on a cubic grid around its centre, plain and locally normalised, 0 outside.

    `unit` is the side of its pixels in the units of points, `factor` in working pixels.
    """

    values: Array
    normalised: Array
    inside: NDArray[np.bool_]
    unit: float
    factor: int = 1

    @classmethod
    def of(cls, pixels: Array, to_mm: Matrix, unit: float) -> _Level:
        n = pixels.ndim
        sides = np.ceil(_extent(pixels.shape, to_mm) / unit)
        shape = tuple(max(1, int(side)) for side in sides)
        # Average before sampling, so that a coarser grid does not pick up noise.
        step = np.linalg.norm(to_mm[:n, :n], axis=0)
        block = np.clip(unit // step, 1, pixels.shape).astype(int)
        image = sitk.GetImageFromArray(np.ascontiguousarray(pixels))
        means = sitk.GetArrayFromImage(sitk.BinShrink(image, [int(f) for f in block[::-1]]))
        from_means = np.diag([*block.astype(float), 1.0])
        from_means[:n, n] = (block - 1) / 2
        to_index = np.linalg.inv(to_mm @ from_means) @ _grid_to_mm(shape, unit)
        values = sample(means, to_index, shape)
        inside = np.isfinite(values)
        values[~inside] = 0
        return cls(values, _normalise(values, inside, NORMALISE * SIDE[n]), inside, unit)

    @property
    def structured(self) -> bool:
        return bool(self.inside.any()) and float(np.ptp(self.values[self.inside])) > 0

    def to_mm(self) -> Matrix:
        return _grid_to_mm(self.values.shape, self.unit)

    def shrunk(self, factor: int) -> _Level:
        shape = tuple(max(1, round(s / factor)) for s in self.values.shape)
        unit = self.unit * factor
        to_index = np.linalg.inv(self.to_mm()) @ _grid_to_mm(shape, unit)
        values, normalised, inside = (
            sample(ndimage.gaussian_filter(a, factor / 2, truncate=2.0), to_index, shape, 0.0)
            for a in (self.values, self.normalised, self.inside.astype(np.float32))
        )
        return _Level(values, normalised, inside > 0.5, unit, self.factor * factor)

    def padded(self) -> _Level:
        """The same, with room outside the view where a slab is too thin for SimpleITK."""
        rest = [((max(0, MIN_SIDE - side) + 1) // 2,) * 2 for side in self.values.shape]
        values, normalised = np.pad(self.values, rest), np.pad(self.normalised, rest)
        return _Level(values, normalised, np.pad(self.inside, rest), self.unit, self.factor)

    def image(self, array: NDArray[np.generic]) -> sitk.Image:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([self.unit] * array.ndim)
        image.SetOrigin([-(s - 1) / 2 * self.unit for s in reversed(array.shape)])
        return image

    def middle(self) -> NDArray[np.float64]:
        """The centre of mass of what stands out from the background."""
        low, high = np.percentile(self.values[self.inside], (20, 95))
        weight = np.clip(self.values - low, 0, high - low) * self.inside
        if not weight.any():
            return np.zeros(weight.ndim)
        centre = np.append(ndimage.center_of_mass(weight), 1.0)
        return np.asarray((self.to_mm() @ centre)[:-1])


def _best_start(fixed: _Level, moving: _Level, lie: Matrix) -> Matrix | None:
    """The best of several coarse registrations, judged by local correlation."""
    n = fixed.values.ndim
    fixed, moving = fixed.shrunk(COARSE[n]), moving.shrunk(COARSE[n])
    starts = [(lie, True), (lie, False)]
    here, there = fixed.middle(), moving.middle()
    for turn in TURNS_DEG if n == 2 else (0.0,):
        start = np.eye(n + 1)
        if turn:
            c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
            start[:2, :2] = [[c, -s], [s, c]]
        start[:n, n] = there - start[:n, :n] @ here
        starts.append((start, False))
    best: tuple[float, Matrix] | None = None
    for start, normalised in starts:
        rigid = sitk.Similarity2DTransform() if n == 2 else sitk.VersorRigid3DTransform()
        found = _optimise(fixed, moving, _set(rigid, start), (1,), 0.7, 40, normalised)
        if found is None:
            continue
        similarity = sum(_similarity(fixed, moving, found, kind) for kind in (True, False))
        if best is None or similarity > best[0]:
            best = similarity, found
    return None if best is None else best[1]


def _optimise(
    fixed: _Level,
    moving: _Level,
    transform: sitk.Transform,
    shrink: Sequence[int],
    step: float,
    iterations: int,
    normalised: bool = True,
) -> Matrix | None:
    """Climb the mutual information from `transform`; None where the images lose each other."""
    fixed, moving = fixed.padded(), moving.padded()
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)  # the sums of several would end in any order
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step * fixed.unit,
        minStep=1e-3 * fixed.unit,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel([s / 2 if s > 1 else 0 for s in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    if not fixed.inside.all():
        method.SetMetricFixedMask(fixed.image(fixed.inside.astype(np.uint8)))
    if not moving.inside.all():
        method.SetMetricMovingMask(moving.image(moving.inside.astype(np.uint8)))
    arrays = [level.normalised if normalised else level.values for level in (fixed, moving)]
    try:
        method.Execute(fixed.image(arrays[0]), moving.image(arrays[1]))
    except RuntimeError:
        return None
    return _get(transform)


def _similarity(fixed: _Level, moving: _Level, matrix: Matrix, normalised: bool = True) -> float:
    """Mean squared local correlation where both have a view, weighted by local structure."""
    values, inside = _carry(fixed, moving, matrix, normalised)
    if inside.sum() < MIN_SEEN * min(fixed.inside.sum(), moving.inside.sum()):
        return 0.0
    sigma = CORRELATE * SIDE[values.ndim] / fixed.factor
    weight = inside.astype(np.float32)
    blur_weight = ndimage.gaussian_filter(weight, sigma, truncate=2.5) + 1e-6

    def mean(a: Array) -> Array:
        return ndimage.gaussian_filter(a * weight, sigma, truncate=2.5) / blur_weight

    a, b = fixed.normalised if normalised else fixed.values, values
    mean_a, mean_b = mean(a), mean(b)
    spread_a = np.sqrt(np.maximum(mean(a * a) - mean_a**2, 0))
    spread_b = np.sqrt(np.maximum(mean(b * b) - mean_b**2, 0))
    high_a, high_b = (np.percentile(s[inside], 90) + 1e-12 for s in (spread_a, spread_b))
    scale = np.sqrt((spread_a * spread_b) ** 2 + (1e-3 * high_a * high_b) ** 2)
    r = (mean(a * b) - mean_a * mean_b) / scale
    structure = np.minimum(spread_a / high_a, 1) + np.minimum(spread_b / high_b, 1)
    structure = structure * weight
    return float(np.sum(structure * r * r) / max(float(np.sum(structure)), 1e-12))


def _ncc(fixed: _Level, moving: _Level, matrix: Matrix) -> float:
    values, inside = _carry(fixed, moving, matrix)
    a, b = fixed.values[inside].astype(np.float64), values[inside].astype(np.float64)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _carry(
    fixed: _Level, moving: _Level, matrix: Matrix, normalised: bool = False
) -> tuple[Array, NDArray[np.bool_]]:
    """The moving image on the fixed grid, and where both have a view."""
    to_index = np.linalg.inv(moving.to_mm()) @ matrix @ fixed.to_mm()
    array = moving.normalised if normalised else moving.values
    values = sample(array, to_index, fixed.values.shape)
    seen = np.isfinite(values) & fixed.inside
    if not moving.inside.all():
        inside = sample(moving.inside.astype(np.float32), to_index, fixed.values.shape, 0.0)
        seen &= inside > 0.5
    values[~seen] = 0
    return values, seen


def _normalise(values: Array, inside: NDArray[np.bool_], sigma: float) -> Array:
    """Values less the mean of their neighbourhood, divided by its spread; 0 outside."""
    weight = inside.astype(np.float32)
    total = ndimage.gaussian_filter(weight, sigma, truncate=2.5) + 1e-6
    mean = ndimage.gaussian_filter(values * weight, sigma, truncate=2.5) / total
    square = ndimage.gaussian_filter(values * values * weight, sigma, truncate=2.5) / total
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    floor = 0.05 * np.percentile(spread[inside], 99) + 1e-12
    return np.asarray((values - mean) / (spread + floor) * weight, dtype=np.float32)


def _extent(shape: Sequence[int], to_mm: Matrix) -> NDArray[np.float64]:
    """Size along each axis of the box around a grid, pixels counted whole."""
    n = len(shape)
    return np.asarray(np.abs(to_mm[:n, :n]) @ np.array(shape, dtype=np.float64))


def _grid_to_mm(shape: Sequence[int], unit: float) -> Matrix:
    n = len(shape)
    matrix = np.diag([unit] * n + [1.0])
    matrix[:n, n] = [-(s - 1) / 2 * unit for s in shape]
    return matrix


def _set(transform: sitk.Transform, matrix: Matrix) -> sitk.Transform:
    n = len(matrix) - 1
    transform.SetMatrix(matrix[:n, :n][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(matrix[:n, n][::-1].tolist())
    return transform


def _get(transform: sitk.Transform) -> Matrix:
    n = transform.GetDimension()
    matrix = np.eye(n + 1)
    matrix[:n, :n] = np.array(transform.GetMatrix()).reshape(n, n)[::-1, ::-1]
    matrix[:n, n] = transform.GetTranslation()[::-1]
    return matrix
