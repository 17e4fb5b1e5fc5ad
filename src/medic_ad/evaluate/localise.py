"""`medic-ad evaluate localise`: heatmaps of any model on any table, beside the grey value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medic_ad.calibrate import HEATMAP_GRID
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.baselines.grey_maps import GREY, grey_maps
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling
from medic_ad.evaluate.figures.maps import PIXEL_FIGURES, Maps, by_size, false_areas, within
from medic_ad.evaluate.figures.regions import FreeResponse
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import case_row, finish, picture, scope_figures
from medic_ad.evaluate.output.page import Picture, verdict
from medic_ad.evaluate.predictions.run import Run, start
from medic_ad.evaluate.predictions.store import Part
from medic_ad.evaluate.predictions.table import TableArguments, images_of, masks_of
from medic_ad.evaluate.unet import UNet

WORST_LESIONS, WORST_NORMALS = 6, 2
FIXED = len(HEATMAP_GRID)  # column of the fixed threshold, after those of the curve
UNET = "U-Net"
COMPARED = ("pixel AUROC", "mean Dice")


@dataclass
class LocaliseArguments(TableArguments):
    """Arguments of `medic-ad evaluate localise`."""

    unet: str = field(
        default="", metadata={"help": "folder of a U-Net of `medic-ad evaluate unet`, beside it"}
    )


def masked(data: str, name: str) -> tuple[list[Sample], list[np.ndarray | None], list[str]]:
    """Images of a split, their masks (`None` where lesions are not known by pixel), and notes.

    Raises:
        DataError: there is no lesion mask.
    """
    images, notes = images_of(data, name)
    if not any(s.mask for s in images):
        raise DataError(
            f"expected lesion masks in split {name!r} of {data}, got none; fill the column mask"
        )
    masks = masks_of(images)
    known = [(s, m) for s, m in zip(images, masks, strict=True) if m is not None]
    if not any(m.any() for _, m in known):
        raise DataError(
            f"expected a lesion in some mask of split {name!r} of {data}, all of them are empty; "
            "check the masks"
        )
    if len(known) < len(images):
        notes.append(f"{len(images) - len(known)} abnormal images without a mask are left out.")
    odd = sum(s.label == 0 and bool(m.any()) for s, m in known)
    odd += sum(s.label == 1 and not m.any() for s, m in known)
    if odd:
        notes.append(f"In {odd} images label and mask contradict each other; the mask counts.")
    return images, masks, notes


def lesion_figures(
    maps: dict[str, Maps], lesion: np.ndarray, sampling: Resampling, own: str
) -> list[Figure]:
    """All figures on some images, methods beside each other, and the first one's differences."""
    figures = []
    for name in maps[own].statistics:
        at = {of: within(m.statistics[name], lesion) for of, m in maps.items()}
        figures += [sampling.figure(name, statistic, of) for of, statistic in at.items()]
        if name in COMPARED:
            figures += [
                sampling.difference(name, at[own], at[of], f"{own} - {of}")
                for of in maps
                if of != own
            ]
    return figures


def with_normals(run: Run, maps: dict[str, Maps], lesion: np.ndarray) -> Part | None:
    """Pooled figures once more with the lesion-free images, and what is drawn on these."""
    if lesion.all():
        return None
    normal, of = ~lesion, run.own.of
    sampling = run.sampling()
    figures = [
        sampling.figure(f"{name}, all images", m.statistics[name], who)
        for name in PIXEL_FIGURES
        for who, m in maps.items()
    ]
    outside = run.sampling(normal)
    figures += false_areas(outside, maps[of].area[normal], run.own.in_scope[normal], of)
    figures += [
        outside.mean("false-positive area, without the gate", m.area[normal], who)
        for who, m in maps.items()
        if who != of
    ]
    note = f"{normal.sum()} images without lesion: label 0, or an empty mask."
    return Part("With images that hold no lesion", [note], figures)


def lesions(run: Run, free: dict[str, FreeResponse]) -> Part:
    """Lesions counted one by one, at the fixed threshold."""
    sampling, figures = run.sampling(), []
    for of, found in free.items():
        figures.append(sampling.figure("share of lesions found", found.sensitivity(FIXED), of))
        figures.append(sampling.mean("false marks per image", found.false[:, FIXED], of))
    note = (
        "At the fixed threshold; every drawn region (8-connected) makes one mark, its highest "
        "pixel, which finds the lesion that it lies in or is false. The curve below sweeps "
        "thresholds from 0.05 to 0.95."
    )
    return Part("Lesion by lesion", [note], figures)


def one_per_group(run: Run, maps: dict[str, Maps], lesion: np.ndarray) -> Part | None:
    """One image of each group, where groups hold several."""
    keep = np.zeros(len(lesion), bool)
    keep[np.flatnonzero(lesion)] = run.pick(lesion).one_per_group()
    if keep.sum() == lesion.sum():
        return None
    note = (
        f"{lesion.sum()} images with a lesion in {keep.sum()} groups; one of each is drawn by the "
        "seed. The figures above count every image and resample whole groups."
    )
    figures = lesion_figures({run.own.of: maps[run.own.of]}, keep, run.sampling(keep), run.own.of)
    return Part("One image of each group", [note], figures)


def worst(run: Run, maps: Maps, lesion: np.ndarray) -> list[Picture]:
    """Lesions of lowest Dice, and the largest areas drawn where there is none."""
    dices = np.where(lesion, maps.dice, np.inf)
    low = np.argsort(dices, kind="stable")[: min(WORST_LESIONS, int(lesion.sum()))]
    area = np.where(lesion, -1.0, maps.area)
    high = [i for i in np.argsort(-area, kind="stable")[:WORST_NORMALS] if area[i] > 0]
    return [picture(run, i, f"Dice {maps.dice[i]:.3f}") for i in low] + [
        picture(run, i, f"no lesion, {area[i]:.2%} of the image drawn") for i in high
    ]


def main(arguments: LocaliseArguments) -> Path:
    """Measure heatmaps on one split of a table; predictions that exist are used again."""
    images, found, notes = masked(arguments.data, arguments.split)
    unet = UNet.load(Path(arguments.unet)) if arguments.unet else None
    if unet is not None:
        peers.refuse_other(unet.record, arguments.data, arguments.split, "unet")
    run = start("localise", arguments, images, [m is not None for m in found], notes)
    masks = [m for m in found if m is not None]
    lesion = np.array([m.any() for m in masks])
    fixed = {p.of: p.fitted("heatmap_threshold") for p in run.seen}
    drawn_by = {p.of: p.heatmaps for p in run.seen}
    maps = {of: Maps(drawn_by[of], masks, fixed[of]) for of in fixed}
    maps[GREY], grey_note, drawn_by[GREY], fixed[GREY] = grey_maps(run, masks)
    if unet is not None:
        drawn_by[UNET] = unet.heatmaps(
            run.samples, run.context.store, run.name, arguments.opens_test
        )
        fixed[UNET] = np.full(len(masks), unet.record["threshold"])
        maps[UNET] = Maps(drawn_by[UNET], masks, fixed[UNET])
        notes.append(unet.description())
    sampling, own = run.sampling(lesion), run.own.of
    free = {
        of: FreeResponse(
            drawn_by[of], masks,
            np.column_stack([np.broadcast_to(HEATMAP_GRID, (len(masks), FIXED)), fixed[of]]),
        )
        for of in maps
    }  # fmt: skip
    scope, scope_note = scope_figures(run)
    note = (
        f"{lesion.sum()} images with a lesion, on the grids of their files; pixel figures are "
        "pooled over their pixels. The heatmap's threshold is the one stored with the weights."
    )
    figures = lesion_figures(maps, lesion, sampling, own)
    difference = next(f for f in figures if (f.name, f.of) == ("mean Dice", f"{own} - {GREY}"))
    sentence, beats = verdict(difference, own, GREY)
    area = np.array([m.mean() for m in masks])[lesion]
    parts = [
        Part("Localisation", [note, *run.notes, grey_note, scope_note], figures + scope),
        Part("By lesion size", ["Thirds of the images with a lesion."],
             by_size(sampling, maps[own].dice[lesion], area, own)),
        lesions(run, free), with_normals(run, maps, lesion), one_per_group(run, maps, lesion),
    ]  # fmt: skip
    points = {of: f.curve() for of, f in free.items()}
    shown = {of: (false[:FIXED], found[:FIXED]) for of, (false, found) in points.items()}
    return finish(
        run,
        verdict=sentence,
        beats_baseline=beats,
        parts=parts,
        curves=[
            Picture("Free response", curves.free_response(shown)),
            Picture("ROC of the pixels", curves.pixel_roc(maps, lesion)),
        ],
        worst=worst(run, maps[own], lesion),
        worst_words="Lesions of lowest Dice, and the largest areas drawn without a lesion.",
        cases=[
            case_row(run, i)
            | {
                "dice": f"{maps[own].dice[i]:.6f}" if lesion[i] else "",
                "drawn_area": f"{maps[own].area[i]:.6f}",
                "lesion_area": f"{masks[i].mean():.6f}",
            }
            for i in range(len(masks))
        ],
        extra={
            "best_baseline": GREY,
            "free_response": {
                of: {"false_per_image": list(f), "lesions_found": list(t)}
                for of, (f, t) in shown.items()
            },
        },
    )
