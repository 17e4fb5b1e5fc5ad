"""Training, second half: rendered slices -> randomly drawn, augmented scans and pairs.

Lesions are transplanted into other slices and removed from their own, so that source and class
are independent; every negative and every stable pair goes through the same operation as a sham.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import affine_grid, grid_sample

from medic_ad.data.blend import box_of
from medic_ad.data.head import draw_place
from medic_ad.data.synthetic import (
    TRAIN_BLENDS,
    draw_growth,
    rescale_lesion,
    transplant,
)
from medic_ad.errors import DataError
from medic_ad.train.render import Rendered
from medic_ad.words import cell_of

SCAN_KINDS = {"real": 0.34, "sham": 0.14, "clean": 0.26, "transplant": 0.18, "graft": 0.08}
PAIR_KINDS = {"grown": 0.3, "new": 0.1, "sham": 0.45, "absent": 0.15}
MINIMUM_LESION = 6  # pixels on the canvas below which a slice is drawn as neither class


def _grey(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 255


class Slices:
    """Draws scans and pairs from rendered slices; one source is drawn as often as its weight.

    Args:
        rendered: the slices.
        weights: source name -> share of the draws; sources left out share the rest by size.
        masked: draw only slices whose lesions are known pixel by pixel; without it, slices that
            have no mask but a label or a question are drawn too, as they are.
    """

    def __init__(
        self, rendered: Rendered, weights: dict[str, float] | None = None, masked: bool = True
    ) -> None:
        self.rendered = rendered
        area = rendered.mask.sum((1, 2))
        asked = np.array([s.question is not None and s.prior is None for s in rendered.samples])
        told = rendered.labelled | ((np.isfinite(rendered.label) | asked) & (not masked))
        self.usable = np.flatnonzero(told & ((area == 0) | (area >= MINIMUM_LESION)))
        if not len(self.usable):
            raise DataError(
                "expected slices with a label and a mask (or label 0), found none; fill the "
                "columns label and mask of the table"
            )
        self.lesions = np.flatnonzero(area >= MINIMUM_LESION)
        sources = np.array([s.source for s in rendered.samples])
        self.by_source = {
            name: self.usable[sources[self.usable] == name] for name in np.unique(sources)
        }
        given = weights or {}
        unknown = sorted(set(given) - set(self.by_source))
        if unknown:
            raise DataError(
                f"expected --weights to name sources of the table ({', '.join(self.by_source)}), "
                f"got {unknown[0]!r}; correct the name or leave it out"
            )
        sizes = {n: len(i) for n, i in self.by_source.items()}
        rest = max(0.0, 1 - sum(given.values()))
        free = sum(v for n, v in sizes.items() if n not in given) or 1
        shares = [given.get(n, rest * sizes[n] / free) for n in self.by_source]
        self.names, self.shares = list(self.by_source), np.array(shares) / sum(shares)

    def _index(self, rng: np.random.Generator) -> int:
        return int(
            rng.choice(self.by_source[self.names[rng.choice(len(self.names), p=self.shares)]])
        )

    def transplanted(
        self,
        host: np.ndarray,
        rng: np.random.Generator,
        sequence: str | None = None,
        healthy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A donor's lesion (of `sequence`, where there is one) in a lesion-free uint8 slice.

        `healthy` is the sham: the same place of the donor after its lesion was removed, same
        blending, no lesion in the mask.
        """
        r, clean = self.rendered, _grey(host)
        alike = [i for i in self.lesions if r.samples[i].sequence == sequence]
        donor = int(rng.choice(alike or self.lesions))
        factor = float(np.exp(rng.uniform(np.log(0.4), np.log(1.6))))
        lesion = r.mask[donor]
        centre = draw_place(clean, lesion[box_of(lesion, 1)], rng)
        if centre is None:
            return clean, np.zeros_like(lesion)
        blend = TRAIN_BLENDS[rng.integers(len(TRAIN_BLENDS))]
        source = r.clean if healthy else r.image
        out, mask = transplant(clean, _grey(source[donor]), lesion, centre, factor, rng, blend)
        return out, mask & (not healthy)

    def scan(self, rng: np.random.Generator) -> dict:
        """One scan: `image` and, for stage 3, its lesion-free twin `clean`, with `mask`."""
        r, i = self.rendered, self._index(rng)
        kind = rng.choice(list(SCAN_KINDS), p=list(SCAN_KINDS.values()))
        image, mask, known = _grey(r.image[i]), r.mask[i], bool(r.labelled[i])
        sample, dialogue = r.samples[i], None
        if sample.question and sample.answer and sample.prior is None:
            # of an image without mask and label nothing else is known
            alone = not (known or np.isfinite(r.label[i]))
            if alone or rng.random() < 0.5:
                dialogue, kind = (sample.question, sample.answer), "real"
        if not known:  # nothing is known to remove or to keep: drawn as it is
            kind = "real"
        if kind in ("transplant", "graft") and len(self.lesions):
            image, mask = self.transplanted(
                r.clean[i], rng, sample.sequence, healthy=kind == "graft"
            )
        elif kind == "sham":
            image = _grey(r.sham[i])
        elif kind == "clean":
            image, mask = _grey(r.clean[i]), np.zeros_like(mask)
        return {
            "image": image,
            "clean": _grey(r.clean[i]),
            "mask": mask,
            "known": known,
            "label": float(r.label[i]),
            "dialogue": dialogue,
            "sequence": sample.sequence,
        }

    def pair(self, rng: np.random.Generator) -> dict:
        """Two dates of one slice: `image` (baseline) and `followup`, their masks, and `change`.

        A slice without lesion, and every second other one, gets a lesion of another slice.
        """
        if not len(self.lesions):
            raise DataError(
                "expected lesions with masks to make pairs from, found none; fill the column mask"
            )
        r, kind = self.rendered, rng.choice(list(PAIR_KINDS), p=list(PAIR_KINDS.values()))
        i = self._index(rng)
        clean, none = _grey(r.clean[i]), np.zeros_like(r.mask[i])
        image, lesion = _grey(r.image[i]), r.mask[i]
        if kind != "absent" and (not lesion.any() or rng.random() < 0.5):
            image, lesion = self.transplanted(r.clean[i], rng, r.samples[i].sequence)
        if not lesion.any():  # found no place
            kind = "absent"
        blend = TRAIN_BLENDS[rng.integers(len(TRAIN_BLENDS))]
        if kind == "absent":
            first, second, masks = clean, clean, (none, none)
        else:

            def paste(factor: float):
                return rescale_lesion(clean, image, lesion, factor, rng, blend)

            growth = draw_growth(rng) if kind == "grown" else 1.0
            start = float(np.exp(rng.uniform(np.log(0.5), 0.0))) if kind == "grown" else 1.0
            (first, m1), (second, m2) = paste(start), paste(start * growth)
            if kind == "new":
                first, m1 = clean, none
            masks = (m1, m2)
        change = "worse" if kind in ("grown", "new") else "stable"
        if change == "worse" and rng.random() < 0.5:
            first, second, masks, change = second, first, masks[::-1], "better"
        return {
            "image": first,
            "followup": second,
            "mask": masks[0],
            "mask_followup": masks[1],
            "known": True,
            "change": change,
            "dialogue": None,
            "sequence": r.samples[i].sequence,
        }


def _affine(rows: list[dict], strength: float, generator: torch.Generator) -> torch.Tensor:
    """`(n, 2, 3)` random rotation, scale, shift and left-right flip for `affine_grid`.

    What a table's own answer is about is not flipped: it may name a side.
    """
    n = len(rows)
    asked = torch.tensor([row["dialogue"] is not None for row in rows])

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=generator)

    angle = uniform(-1, 1) * math.radians(15) * strength
    scale = torch.exp(uniform(-1, 1) * 0.18 * strength)
    flip = torch.where((torch.rand(n, generator=generator) < 0.5) & ~asked, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos() * flip, -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin() * flip, scale * angle.cos()
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) * 2 - 1) * 0.2 * strength
    return theta


def warp(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Images `(n, C, S, S)` moved by `theta` `(n, 2, 3)`; outside is dark."""
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", align_corners=False)


def photometric(x: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Gamma, contrast, bias field and noise on `(n, C, S, S)`; one draw for all C of a row."""
    n, side = x.shape[0], x.shape[-1]

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    gamma = torch.exp(uniform(-1, 1, 1, 1, 1) * 0.35 * strength)
    gain = 1 + uniform(-0.15, 0.15, 1, 1, 1) * strength
    field = torch.nn.functional.interpolate(
        uniform(-1, 1, 1, 3, 3), (side, side), mode="bicubic", align_corners=True
    )
    x = x.clamp(0, 1) ** gamma * gain * (1 + 0.12 * strength * field)
    noise = torch.randn(x.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1) * strength
    return (x + noise * (x > 0.01)).clamp(0, 1)


def scan_batch(rows: list[dict], generator: torch.Generator) -> dict:
    """Rows of `Slices.scan` -> augmented image, clean, mask `(B, S, S)`, labels, cells, sequences.

    `known` `(B,)` says whose mask is the truth; `label` `(B,)` is 1, 0 or NaN; `dialogue` holds a
    question of the table and its answer, or `None`.
    """
    image, clean, mask = (
        torch.from_numpy(np.stack([r[k] for r in rows]).astype(np.float32))
        for k in ("image", "clean", "mask")
    )
    moved = warp(torch.stack([image, clean, mask], 1), _affine(rows, 1.0, generator))
    image, clean = photometric(moved[:, :2], generator).unbind(1)
    mask = (moved[:, 2] > 0.5).float()
    known = torch.tensor([r["known"] for r in rows])
    told = torch.tensor([r["label"] for r in rows])
    return {
        "image": image,
        "clean": clean,
        "mask": mask,
        "known": known,
        "label": torch.where(known, mask.flatten(1).amax(1), told),
        "cell": [mask_cell(m) for m in mask],
        "dialogue": [r["dialogue"] for r in rows],
        "sequence": [r["sequence"] for r in rows],
    }


def pair_batch(rows: list[dict], generator: torch.Generator) -> dict:
    """Rows of `pair` -> tensors; each date has its own light and a small misalignment."""
    stack = [
        torch.from_numpy(np.stack([r[k] for r in rows]).astype(np.float32))
        for k in ("image", "mask", "followup", "mask_followup")
    ]
    moved = warp(torch.stack(stack, 1), _affine(rows, 1.0, generator))
    small = torch.eye(2, 3).repeat(len(rows), 1, 1)
    small[:, :, 2] += torch.randn(len(rows), 2, generator=generator) * 0.004
    moved = torch.cat([moved[:, :2], warp(moved[:, 2:], small)], 1)
    baseline = photometric(moved[:, :1], generator, 0.6)[:, 0]
    followup = photometric(moved[:, 2:3], generator, 0.6)[:, 0]
    masks = (moved[:, (1, 3)] > 0.5).float()
    return {
        "image": baseline,
        "followup": followup,
        "mask": masks[:, 0],
        "mask_followup": masks[:, 1],
        **{k: [r[k] for r in rows] for k in ("known", "change", "dialogue", "sequence")},
    }


def mask_cell(mask: torch.Tensor) -> tuple[int, int] | None:
    """The 3 x 3 cell of a mask's largest region's centroid; `None` when the mask is empty."""
    labels, n = ndimage.label(mask.numpy())
    if n == 0:
        return None
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    y, x = ndimage.center_of_mass(labels == largest)
    return cell_of(y, x, mask.shape)
