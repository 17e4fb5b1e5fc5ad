"""`medic-ad demo`: a study of two dates whose truth is known, read by the one road, both shown.

The anatomy is the MNI152 T1 template inside the package nilearn, the lesion is drawn here. Training
used slices of that template as hosts of other lesions; this lesion and its blending it never saw.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
from scipy import ndimage

from medic_ad.data.sets import mni152
from medic_ad.data.synthetic import TEST_BLENDS, nuisance, rescale_lesion, transplant
from medic_ad.readers import read_image
from medic_ad.report.html import template
from medic_ad.report.schema import NOTICE
from medic_ad.words import cell_of, cell_words

if TYPE_CHECKING:
    from medic_ad.report.report import Report

SLICE_MM = 36.0  # height of the axial slice in the template's space, above the ventricles
CENTRE_MM = (40.0, 36.0)  # of the lesion, towards the patient's left and back, in the same space
RADIUS_MM = 12.0  # of the lesion at the first date
GROWTH = 1.8  # in area, between the dates
SEED = 7
HEADROOM = 0.7  # grey of the brightest tissue, so that the lesion can be brighter
_GREY = 1000  # of the written files
CAVEAT = (
    "One made case shows how a report reads, not how good the model is; "
    "MODEL_CARD.md has the figures."
)


@dataclass(frozen=True, eq=False)
class Planted:
    """The made study: float32 slices (H, W) in [0, 1] and bool masks on the same grids.

    Attributes:
        healthy: the slice without a lesion.
        prior, current: the two dates, each with noise, pose and contrast of its own.
        prior_mask, mask: the lesion at each date.
        grown: what the lesion gained, on the current grid.
        growth: area of the lesion now over prior, before the pose of either date is changed.
        affine: voxel-centre indices (d, h, w) to LPS mm, of all three.
    """

    healthy: np.ndarray
    prior: np.ndarray
    current: np.ndarray
    prior_mask: np.ndarray
    mask: np.ndarray
    grown: np.ndarray
    growth: float
    affine: np.ndarray


@dataclass(frozen=True)
class Row:
    """One thing that was planted, and what the model made of it; `right` None: not a yes or no."""

    what: str
    planted: str
    found: str
    right: bool | None


@dataclass(frozen=True)
class Demo:
    """What `run` wrote, and truth beside result."""

    rows: tuple[Row, ...]
    verdict: str
    dice: float
    page: Path
    report: Path


def plant(seed: int = SEED) -> Planted:
    """The template's slice with a drawn lesion that grows by GROWTH between two dates.

    Raises:
        DataError: nilearn is not installed.
    """
    rng = np.random.default_rng(seed)
    template = read_image(mni152.samples()[0].image, modality="MR", body_part="BRAIN")
    if template.affine is None:
        raise ValueError("the template of nilearn carries its position")
    to_index = np.linalg.inv(template.affine)
    d, h, w = np.rint(to_index @ (*CENTRE_MM, SLICE_MM, 1.0))[:3].astype(int)
    plane = template.pixels[d]
    healthy = np.clip(HEADROOM * plane / np.percentile(plane, 99.5), 0, 1).astype(np.float32)
    donor, shape = draw_lesion(healthy, (int(h), int(w)), RADIUS_MM, rng)
    [blend] = TEST_BLENDS
    first, first_mask = transplant(healthy, donor, shape, (float(h), float(w)), 1.0, rng, blend)
    second, second_mask = rescale_lesion(healthy, first, first_mask, GROWTH, rng, blend)
    prior, prior_mask = nuisance(first, first_mask, rng)
    current, masks = nuisance(second, np.stack([second_mask, first_mask]), rng)
    affine = template.affine.copy()
    affine[:3, 3] += affine[:3, 0] * d
    return Planted(
        healthy=healthy,
        prior=prior,
        current=current,
        prior_mask=prior_mask,
        mask=masks[0],
        grown=masks[0] & ~masks[1],
        growth=int(second_mask.sum()) / int(first_mask.sum()),
        affine=affine,
    )


def draw_lesion(
    tissue: np.ndarray, centre: tuple[int, int], radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an irregular bright blob, a little darker in the middle, as enhancing tumours are.

    Args:
        tissue: float32 (H, W) in [0, 1].
        centre: (y, x) of the blob, pixels.
        radius: mean radius, pixels.
        rng: its outline and grain.

    Returns: the slice with the blob, and the blob's mask.
    """
    y, x = np.indices(tissue.shape) - np.reshape(centre, (2, 1, 1))
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    outline = np.full(tissue.shape, radius)
    for wave in (2, 3, 5):
        size, phase = 0.25 * radius * rng.uniform(0.4, 1.0) / wave, rng.uniform(0, 2 * np.pi)
        outline += size * np.cos(wave * angle + phase)
    depth = 1 - distance / outline  # 1 in the middle, 0 at the outline
    mask = depth >= 0
    grain = ndimage.gaussian_filter(rng.normal(size=tissue.shape), 2.0)
    grey = 0.95 - 0.12 * depth.clip(0) + 0.03 * grain / grain.std()
    return np.where(mask, grey, tissue).clip(0, 1).astype(np.float32), mask


def run(out: str | Path, model: str = "nano") -> Demo:
    """Make the study, read it, save its report and the page with the truth beside it.

    Args:
        out: folder; gets prior.nii.gz, current.nii.gz, healthy.nii.gz, report/, demo.html,
            demo.png and demo.json.
        model: of `load_model`.
    """
    from medic_ad.load import load_model
    from medic_ad.road import read
    from medic_ad.study import read_study

    out = Path(out)
    network = load_model(model)
    out.mkdir(parents=True, exist_ok=True)
    planted = plant()
    files = {name: out / f"{name}.nii.gz" for name in ("healthy", "prior", "current")}
    for name, file in files.items():
        _write(file, getattr(planted, name), planted.affine)
    said = {"modality": "MR", "body_part": "BRAIN"}
    healthy = read(read_study(files["healthy"], **said), network)
    before = read(read_study(files["prior"], **said), network)
    now = read(read_study(files["current"], files["prior"], **said), network)
    rows = compare(planted, healthy, before, now)
    judged = [row.right for row in rows if row.right is not None]
    report = now.save(out / "report") / "report.html"
    verdict = f"{sum(judged)} of {len(judged)} as planted. {CAVEAT}"
    demo = Demo(tuple(rows), verdict, dice(found(now), planted.mask), out / "demo.html", report)
    _write_page(demo, planted, now)
    return demo


def found(report: Report) -> np.ndarray:
    """The model's outline: bool, where the heatmap reaches its threshold."""
    return np.asarray(report.heatmap >= report.heatmap_threshold)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks, 1 the same, 0 apart; two empty masks are the same."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def compare(planted: Planted, healthy: Report, before: Report, now: Report) -> list[Row]:
    """What was planted, what was found, and whether they agree."""
    from medic_ad.report.labels import decision_word
    from medic_ad.report.text import located_cell, told_change

    truth = planted.mask
    y, x = (float(c.mean()) for c in np.nonzero(truth))
    cell = cell_of(y, x, (truth.shape[0], truth.shape[1]))
    place, inside = "none", False
    if now.findings:
        first = now.findings[0]
        place = first.location
        inside = bool(truth[tuple(round(c) for c in first.centroid)])
    area_before, area_now = int(found(before).sum()), int(found(now).sum())
    growth = f"× {area_now / area_before:.2f}" if area_before else "not seen on the prior"
    label = "none" if now.change is None else now.change.label
    scores = None if now.change is None else now.change.scores
    label_found = label.replace("_", " ") + ("" if scores is None else f" {scores[label]:.2f}")
    said = re.split(r"(?<=\.)\s", now.text)[0] or "none"
    told = told_change(now.text)
    overlap = f"{area_now} mm², Dice {dice(found(now), truth):.2f}"
    score_now = _scored(decision_word(now), now.score)
    score_healthy = _scored(decision_word(healthy), healthy.score)
    return [
        Row("Current scan", "abnormal", score_now, now.decision == "abnormal"),
        Row("Same slice, no lesion", "normal", score_healthy, healthy.decision == "normal"),
        Row("Place of the first finding", f"{cell_words(*cell)} of the image", place, inside),
        Row(
            "Place in the text",
            cell_words(*cell),
            said,
            located_cell(now.text) == cell,
        ),
        Row("Change", "worse", label_found, label == "worse"),
        Row("Change in the text", "worse", told or "none", told == "worse"),
        Row("Area now", f"{int(truth.sum())} mm²", overlap, None),
        Row("Area, now over prior", f"× {planted.growth:.2f}", growth, None),
    ]


def _scored(word: str, score: float) -> str:
    return word if np.isnan(score) else f"{word}, score {score:.2f}"


def _write(path: Path, grey: np.ndarray, affine: np.ndarray) -> None:
    """A slice as NIfTI, whose matrix is in RAS mm."""
    voxels = np.rint(grey[None] * _GREY).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _write_page(demo: Demo, planted: Planted, report: Report) -> None:
    from medic_ad.demo_figure import figure_png

    png = figure_png(planted, report)
    folder = demo.page.parent
    (folder / "demo.png").write_bytes(png)
    page = template("demo.html.j2").render(
        demo=demo,
        notice=NOTICE,
        figure=f"data:image/png;base64,{base64.b64encode(png).decode()}",
        report=demo.report.relative_to(folder).as_posix(),
    )
    demo.page.write_text(page, encoding="utf-8")
    record = {
        "rows": [dataclasses.asdict(row) for row in demo.rows],
        "verdict": demo.verdict,
        "dice": demo.dice,
        "model": report.provenance["model"],
        "weights_sha256": report.provenance["weights_sha256"],
        "notice": NOTICE,
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / "demo.json").write_text(text + "\n", encoding="utf-8")
