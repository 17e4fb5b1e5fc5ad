"""Step 2 of the road: current and prior image -> both on one halfway grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg

from medic_ad.errors import StudyError
from medic_ad.image import Image, same_body_part, same_modality
from medic_ad.registration import SIDE, Array, Fit, Matrix, estimate, sample

# Below these, by axes, images have too little in common to be compared. In a volume the outline
# of a head alone reaches 0.3 wherever it is turned; in 2-D no limit parts right from wrong, so this
# one only finds other things (reports warn). Measured by benchmarks/similarity.py.
MIN_SIMILARITY = {2: 0.1, 3: 0.37}
MIN_OVERLAP = 0.3  # of the smaller view
MIN_THICKNESS = 5 / 112  # of a volume, as a part of the longest side: five working pixels
# Images on one grid are resampled only where the transform moves them by this much (in working
# pixels, 224 or 112 a side), and leaves less than this part of their dissimilarity or raises
# their similarity by this factor.
MIN_MOVE = 0.4
MAX_REST = 0.85
MIN_RISE = 1.3
MAX_PLANE_ANGLE_DEG = 30.0
MOTION_MM = 5.0  # that a patient may move along the normal of a slice between two dates


@dataclass(frozen=True, eq=False)
class Alignment:
    """Both dates on the halfway grid, and the way back to the current one.

    The transform is estimated from the image whose hash comes first to the other, whatever
    their dates, and each image is resampled once, by half of it: exchanging current and prior
    exchanges the halfway images bit for bit.

    Args:
        current_half, prior_half: float32 on one grid, NaN outside the view of either.
        ok: whether the two can be compared; `reason` says in one sentence why not.
        transform: prior -> current; 3x3 on pixels `(h, w, 1)` in 2-D, 4x4 on LPS mm in 3-D (on
            voxels `(d, h, w, 1)` where a file gives no position).
        quality: `similarity` (mean squared local correlation, 0 to 1) and `similarity_before`
            (as the files lie), `ncc_after` and `ncc_before`, `overlap` (part of the smaller
            view that both see), and the mean `displacement_mm` or, without spacing,
            `displacement_px`; empty where nothing was estimated.
        current_frame, prior_frame: from voxels of each date `(d, h, w, 1)` to one common frame
            halfway between the dates, mm where the files give a spacing; exchanged with them.
    """

    current_half: Array
    prior_half: Array
    ok: bool
    reason: str | None
    transform: Matrix
    quality: dict[str, float]
    current_frame: Matrix = field(repr=False)
    prior_frame: Matrix = field(repr=False)
    _half_from_current: Matrix = field(repr=False)
    _prior_from_current: Matrix = field(repr=False)
    _current_grid: tuple[int, ...] = field(repr=False)
    _prior_pixels: Array = field(repr=False)

    def to_current(self, map_half: Array, fill: float = float("nan")) -> Array:
        """A map on the halfway grid carried onto the current grid (linear), `fill` outside."""
        carried = _resample(map_half, self._half_from_current, self._current_grid)
        return np.where(np.isnan(carried), np.float32(fill), carried)

    def prior_to_current(self, map_prior: Array, fill: float = float("nan")) -> Array:
        """A map on the prior's own grid carried onto the current grid (linear), `fill` outside."""
        carried = _resample(map_prior, self._prior_from_current, self._current_grid)
        return np.where(np.isnan(carried), np.float32(fill), carried)

    def to_half(self, map_current: Array, map_prior: Array) -> tuple[Array, Array]:
        """Maps on the grids of current and prior carried onto the halfway grid (linear)."""
        current_from_half = np.linalg.inv(self._half_from_current)
        ways = current_from_half, self._prior_from_current @ current_from_half
        shape = self.current_half.shape
        current, prior = (
            _resample(values, way, shape)
            for values, way in zip((map_current, map_prior), ways, strict=True)
        )
        return current, prior

    def prior_on_current(self) -> Array:
        """The prior's pixels on the current grid, for display; NaN outside its view."""
        return _resample(self._prior_pixels, self._prior_from_current, self._current_grid)


def align(current: Image, prior: Image) -> Alignment:
    """Bring two images of one body part onto a common grid.

    2-D: similarity (shift, turn, scale); 3-D: rigid, then affine where that clearly fits
    better.  Images on one grid that already fit are left exactly as they are.

    Below `MIN_SIMILARITY` nothing is compared. It does not tell two people, or left from right,
    apart (docs/decisions-volumes.md has the figures).

    Raises:
        StudyError: if one is an image and the other a volume.
    """
    if current.is_volume != prior.is_volume:
        raise StudyError(
            f"{prior.source.path}: expected two images or two volumes to align, came one of "
            "each; give a prior of the same kind."
        )
    swapped = _comes_first(prior, current)
    first, second = (prior, current) if swapped else (current, prior)
    place = _Place.of(first, second)
    same = place.one_grid and np.array_equal(first.pixels, second.pixels)
    fit: Fit | None = None
    reason = _obstacle(current, prior) or (None if same else place.too_thin())
    if reason is None and not same:
        fit = estimate(first.pixels, second.pixels, place.first, place.second, place.lie)
        if fit is None:
            reason = "one image shows no structure, or the two do not overlap"
    moved = fit is not None and not _fits_as_it_lies(fit, place)
    agreement = _agreement(fit, moved) if same or fit is not None else {}
    limit = MIN_SIMILARITY[current.pixels.ndim]
    if reason is None and agreement["similarity"] < limit:
        reason = (
            "the images have too little in common after registration (local correlation "
            f"{agreement['similarity']:.2f}, at least {limit} needed)"
        )
    matrix, half = place.lie, linalg.sqrtm(place.lie)
    if fit is not None and moved and reason is None:
        matrix, half = fit.matrix, linalg.sqrtm(fit.matrix)
        if not (np.isrealobj(half) and np.isfinite(half).all()):
            reason = "the images are turned against each other by half a turn or more"
            matrix, half = place.lie, linalg.sqrtm(place.lie)

    # The halfway grid has the indices of the first image's grid.
    first_from_half: Matrix = np.eye(len(matrix))
    second_from_half: Matrix = np.eye(len(matrix))
    if matrix is not place.lie or not place.one_grid:
        first_from_half = np.linalg.inv(place.first) @ np.linalg.inv(half) @ place.first
        second_from_half = np.linalg.inv(place.second) @ half @ place.first
    first_half = _resample(first.pixels, first_from_half, first.grid)
    second_half = _resample(second.pixels, second_from_half, first.grid)
    outside = np.isnan(first_half) | np.isnan(second_half)
    first_half[outside] = np.nan
    second_half[outside] = np.nan

    quality = agreement and place.quality(matrix, float(1 - outside.mean())) | agreement
    if reason is None and quality["overlap"] < MIN_OVERLAP:
        reason = (
            f"the images overlap too little ({quality['overlap']:.0%} of the smaller view, at "
            f"least {MIN_OVERLAP:.0%} needed)"
        )
    first_frame, second_frame = (
        place.first @ np.linalg.inv(m) for m in (first_from_half, second_from_half)
    )
    one = (first_half, first_from_half, first_frame)
    other = (second_half, second_from_half, second_frame)
    before, now = (one, other) if swapped else (other, one)
    prior_half, prior_from_half, prior_frame = before
    current_half, current_from_half, current_frame = now
    half_from_current: Matrix = np.asarray(np.linalg.inv(current_from_half), dtype=np.float64)
    transform: Matrix = current_from_half @ np.linalg.inv(prior_from_half)
    still = place.one_grid and np.array_equal(transform, np.eye(len(transform)))
    if current.is_volume and current.affine is not None and prior.affine is not None and not still:
        transform = current.affine @ transform @ np.linalg.inv(prior.affine)
    return Alignment(
        current_half,
        prior_half,
        reason is None,
        reason,
        transform,
        quality,
        current_frame,
        prior_frame,
        half_from_current,
        prior_from_half @ half_from_current,
        current.grid,
        prior.pixels,
    )


@dataclass(frozen=True)
class _Place:
    """Where two grids lie: matrices from indices to points around each grid's centre.

    Points are in mm where both files say so (and then `lie` holds the files' own relation of
    volumes), else in parts of the longest side, which is taken to show the same field.
    """

    first: Matrix
    second: Matrix
    lie: Matrix
    one_grid: bool
    in_mm: bool
    sides: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, a: Image, b: Image) -> _Place:
        n = a.pixels.ndim
        grids = np.array([a.grid, b.grid])
        in_mm = a.spacing_mm is not None and b.spacing_mm is not None
        posed = a.is_volume and a.affine is not None and b.affine is not None
        if a.affine is not None and b.affine is not None and posed:
            first, second = (np.vstack([m[2::-1], m[3:]]) for m in (a.affine, b.affine))
        elif a.spacing_mm is not None and b.spacing_mm is not None:
            first, second = (np.diag([*s, 1.0]) for s in (a.spacing_mm, b.spacing_mm))
        else:
            first, second = (np.diag([SIDE[n] / max(g)] * n + [1.0]) for g in grids)
        one_grid = a.grid == b.grid and np.allclose(first, second, rtol=0, atol=1e-4)
        centres = [
            m @ np.append((grid - 1) / 2, 1) for m, grid in zip((first, second), grids, strict=True)
        ]
        lie = np.eye(n + 1)
        if posed and not one_grid:
            lie[:n, n] = (centres[0] - centres[1])[:n]
        for matrix, centre in zip((first, second), centres, strict=True):
            matrix[:n, n] -= centre[:n]
        return cls(first, second, lie, one_grid, in_mm or posed, (a.grid, b.grid))

    def too_thin(self) -> str | None:
        """Why a slab cannot be registered: in a thin one a turn looks like a shift."""
        if len(self.lie) == 3:
            return None
        sides = [
            np.linalg.norm(m[:3, :3], axis=0) * grid
            for m, grid in zip((self.first, self.second), self.sides, strict=True)
        ]
        least = MIN_THICKNESS * np.max(sides)
        thin = int(np.argmin(np.min(sides, axis=0)))
        if (thickness := np.min(sides)) >= least:
            return None
        unit = "mm" if self.in_mm else "working pixels"
        return (
            f"one volume is too thin to register ({thickness:.1f} {unit} along {'dhw'[thin]}, "
            f"at least {least:.1f} needed)"
        )

    def quality(self, matrix: Matrix, seen: float) -> dict[str, float]:
        """Overlap and displacement, `seen` being the part of the first grid that both see."""
        views = [
            abs(np.linalg.det(m)) * np.prod(grid)
            for m, grid in zip((self.first, self.second), self.sides, strict=True)
        ]
        way = self.displacement(matrix)
        return {
            "overlap": min(1.0, float(seen * views[0] / min(views))),
            **(
                {"displacement_mm": way}
                if self.in_mm
                else {"displacement_px": way / float(self.first[0, 0])}
            ),
        }

    def displacement(self, matrix: Matrix) -> float:
        """Mean way, over the first grid, between a transform and how the files lie."""
        grid = self.sides[0]
        corners = np.meshgrid(*[np.linspace(0, s - 1, 8) for s in grid], indexing="ij")
        index = np.stack([c.ravel() for c in corners] + [np.ones(8 ** len(grid))])
        way = ((matrix - self.lie) @ self.first @ index)[:-1]
        return float(np.linalg.norm(way, axis=0).mean())


def _agreement(fit: Fit | None, moved: bool) -> dict[str, float]:
    """How the images agree; without a fit they are the same."""
    before = (1.0, 1.0) if fit is None else (fit.similarity_before, fit.ncc_before)
    after = (fit.similarity, fit.ncc) if fit is not None and moved else before
    return {
        "similarity_before": before[0],
        "similarity": after[0],
        "ncc_before": before[1],
        "ncc_after": after[1],
    }


def _fits_as_it_lies(fit: Fit, place: _Place) -> bool:
    if not place.one_grid:
        return False
    before, after = fit.similarity_before, fit.similarity
    better = 1 - after < MAX_REST * (1 - before) or after > MIN_RISE * before
    return place.displacement(fit.matrix) < MIN_MOVE * fit.unit or not better


def _comes_first(a: Image, b: Image) -> bool:
    """An order of two images by pixels and geometry; the hash of a file knows its date."""
    keys = [hashlib.sha256(i.pixels.tobytes() + repr(i.affine).encode()).digest() for i in (a, b)]
    return keys[0] < keys[1]


def _obstacle(current: Image, prior: Image) -> str | None:
    """Why two images cannot be compared, from what their files say."""
    for word, a, b, same in (
        ("modality", current.modality, prior.modality, same_modality),
        ("body part", current.body_part, prior.body_part, same_body_part),
    ):
        if a is not None and b is not None and not same(a, b):
            return f"the images differ in {word} ({b} before, {a} now)"
    if not current.is_volume and current.affine is not None and prior.affine is not None:
        return _apart(current, prior, current.affine, prior.affine)
    return None


def _apart(current: Image, prior: Image, now: Matrix, before: Matrix) -> str | None:
    """Why two slices show other places; their distance counts in one frame of reference only."""
    normals = np.array([np.cross(m[:3, 1], m[:3, 2]) for m in (now, before)])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cosine = float(normals[0] @ normals[1])
    angle = float(np.degrees(np.arccos(min(1.0, abs(cosine)))))
    if angle > MAX_PLANE_ANGLE_DEG:
        return f"the slices lie in different planes ({angle:.0f} degrees apart)"
    frame = current.source.frame_of_reference_uid
    if frame is None or frame != prior.source.frame_of_reference_uid:
        return None
    mean = normals[0] + np.copysign(1.0, cosine) * normals[1]
    middles = [
        m @ (0, (i.grid[0] - 1) / 2, (i.grid[1] - 1) / 2, 1)
        for m, i in ((now, current), (before, prior))
    ]
    way = float(abs(mean @ (middles[0] - middles[1])[:3]) / np.linalg.norm(mean))
    limit = MOTION_MM + max(float(np.linalg.norm(m[:3, 0])) for m in (now, before))
    if way > limit:
        return (
            f"the slices lie {way:.1f} mm apart in one frame of reference (at most {limit:.1f} mm, "
            f"a slice and {MOTION_MM:g} mm of motion)"
        )
    return None


def _resample(pixels: Array, to_index: Matrix, shape: tuple[int, ...]) -> Array:
    """`sample`, except that the identity leaves every bit as it is."""
    if pixels.shape == shape and np.array_equal(to_index, np.eye(len(shape) + 1)):
        return pixels.astype(np.float32)
    return sample(pixels, to_index, shape)
