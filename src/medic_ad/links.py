"""Step 5 of the road, over time, below: which label of one date is which label of another.

Labels are int32 (D, H, W), 0 outside and 1..n the lesions. Everything treats both dates alike, so
that exchanging them transposes every result, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Matrix = NDArray[np.float64]
Frames = tuple[Matrix, Matrix]  # from the voxels of either date to one common frame in mm


def mapped(
    labels: np.ndarray,
    onto: np.ndarray,
    n: int,
    m: int,
    frames: Frames | None,
    looked: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Where the voxels of one date's lesions lie on the other date.

    Args:
        labels, onto: of the dates, on grids of their own.
        n, m: how many lesions they have.
        frames: of the dates in this order; None when they share a grid.
        looked: bool, which voxels of the other date were looked at; None for all.

    Returns:
        Parts of each lesion: float (n, m) in each lesion of the other date, and (n,) in its view,
        where it was looked at.
    """
    index = np.argwhere(labels)
    own = labels[tuple(index.T)] - 1
    there = index
    if frames is not None:
        way = np.linalg.inv(frames[1]) @ frames[0]
        there = np.rint(index @ way[:3, :3].T + way[:3, 3]).astype(int)
    inside = np.all((there >= 0) & (there < onto.shape), axis=1)
    total = np.maximum(np.bincount(own, minlength=n), 1)
    own, places = own[inside], tuple(there[inside].T)
    viewed = own if looked is None else own[looked[places]]
    seen = np.bincount(viewed, minlength=n) / total
    hit = onto[places]
    pairs = own[hit > 0] * max(m, 1) + hit[hit > 0] - 1
    counts = np.bincount(pairs, minlength=n * m).reshape(n, m)
    return counts / total[:, None], seen


def link(
    there: np.ndarray,
    back: np.ndarray,
    voxel_before: float,
    voxel_after: float,
    sizes: tuple[np.ndarray, np.ndarray],
    least: float,
) -> np.ndarray:
    """Bool (n, m): which lesions belong together because they overlap.

    Args:
        there, back: float (n, m), part of the earlier lesion in the later, and the reverse.
        voxel_before, voxel_after: volume of a voxel.
        sizes: voxels of each lesion.
        least: part of either lesion that must lie in the other.

    A link stays only where no other shares more volume with the one of its ends, or the other.
    """
    before, after = sizes[0] * voxel_before, sizes[1] * voxel_after
    shared = (there * before[:, None] + back * after[None, :]) / 2
    likeness = 2 * shared / (before[:, None] + after[None, :])
    strong = np.where(np.maximum(there, back) >= least, likeness, 0.0)
    best_before = strong.max(1, initial=0.0)[:, None]
    best_after = strong.max(0, initial=0.0)[None, :]
    return (strong > 0) & ((strong == best_before) | (strong == best_after))


def places_mm(
    labels: np.ndarray, spacing_mm: Sequence[float], frame: Matrix | None
) -> list[np.ndarray]:
    """Voxel centres of each lesion in the common frame, float (voxels, 3), in mm."""
    out = []
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        index = np.argwhere(labels[box] == i) + [s.start for s in box]
        if frame is None:
            out.append(index * np.asarray(spacing_mm))
        else:
            out.append(index @ frame[:3, :3].T + frame[:3, 3])
    return out


def join_near(
    links: np.ndarray,
    before: list[np.ndarray],
    after: list[np.ndarray],
    reach_mm: float,
    alike: np.ndarray,
) -> None:
    """Link what overlaps nothing to its nearest like on the other date, one to one, in place.

    Nearest pairs come first; equally near ones in the order of their places.
    """
    alone = [np.flatnonzero(~links.any(axis)) for axis in (1, 0)]
    middles = [np.array([p.mean(0) for p in part]).reshape(-1, 3) for part in (before, after)]
    radii = [
        np.array([np.linalg.norm(p - m, axis=1).max() for p, m in zip(part, middle, strict=True)])
        for part, middle in zip((before, after), middles, strict=True)
    ]
    candidates = []
    for i in alone[0]:
        way = np.linalg.norm(middles[1] - middles[0][i], axis=1)
        close = alike[i] & (way <= radii[1] + radii[0][i] + 1.001 * reach_mm)  # spheres around both
        tree = cKDTree(before[i])
        for j in alone[1][close[alone[1]]]:
            gap = float(tree.query(after[j], distance_upper_bound=1.001 * reach_mm)[0].min())
            if gap <= reach_mm:
                ends = sorted((tuple(middles[0][i]), tuple(middles[1][j])))
                candidates.append((gap, ends, i, j))
    for _, _, i, j in sorted(candidates, key=lambda c: c[:2]):
        if not links[i].any() and not links[:, j].any():
            links[i, j] = True


def groups(links: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Indices before and after of all lesions that hang together."""
    n, m = links.shape
    if n + m == 0:
        return []
    whole = np.zeros((n + m, n + m), bool)
    whole[:n, n:] = links
    count, member = connected_components(sparse.csr_array(whole), directed=False)
    both = [np.flatnonzero(member == k) for k in range(count)]
    return [([int(i) for i in g if i < n], [int(i) - n for i in g if i >= n]) for g in both]
