"""Evaluation: the map that needs no model, a threshold on the grey value, on any table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medic_ad.calibrate import HEATMAP_GRID
from medic_ad.data.sample import Sample, read_samples
from medic_ad.evaluate.baselines.grey import dice_by_level, intensity
from medic_ad.evaluate.figures.maps import Maps
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.run import Run
from medic_ad.evaluate.predictions.store import digest
from medic_ad.evaluate.predictions.table import (
    Lazy,
    file_of,
    images_of,
    mask_of,
    slice_of,
    state_of,
)

LEVEL_IMAGES = 200  # that the threshold is chosen from
GREY = "grey value"


def grey_of(sample: Sample) -> np.ndarray:
    return intensity(slice_of(sample), file_of(sample)[1])


def level_of(run: Run, sign: int) -> tuple[float, str]:
    """The grey threshold of highest mean Dice, from val, else train, else the measured split."""
    rows = {s.split for s in read_samples(run.arguments.data) if s.mask}
    kept = [name for name in ("val", "train") if name in rows and name != run.arguments.split]
    chosen: list[Sample] = []
    for name in kept:
        images, _ = images_of(run.arguments.data, name)
        chosen = chosen or [s for s in images if s.mask and s.label != 0]
        source = f"from {name}"
    if not chosen:
        chosen = [s for s in run.samples if s.mask and s.label != 0]
        source = "chosen on these very images, in its favour"
    rng = np.random.default_rng(run.arguments.seed)
    if len(chosen) > LEVEL_IMAGES:
        picked = np.sort(rng.choice(len(chosen), LEVEL_IMAGES, replace=False))
        chosen = [chosen[i] for i in picked]

    def make() -> dict[str, np.ndarray]:
        found = []
        for s in bar(chosen, "grey value's threshold"):
            grey, mask = grey_of(s), mask_of(s)
            if mask is not None and mask.any():
                found.append(dice_by_level(grey if sign > 0 else 1 - grey, mask))
        return {"dice": np.array(found).reshape(-1, len(HEATMAP_GRID))}

    key = digest(sign, [state_of(s) for s in chosen])
    dices = run.context.store.material(f"level-{run.name}", key, make)["dice"]
    level = HEATMAP_GRID[int(dices.mean(0).argmax())] if len(dices) else 0.5
    return float(level), source


def grey_maps(
    run: Run, masks: Sequence[np.ndarray]
) -> tuple[Maps, str, Sequence[np.ndarray], np.ndarray]:
    """The intensity threshold: bright or dark, whichever fits these masks better."""
    n = len(run.samples)

    def at(sign: int) -> tuple[Maps, str, Sequence[np.ndarray], np.ndarray]:
        def one(i: int) -> np.ndarray:
            grey = grey_of(run.samples[i])
            return grey if sign > 0 else 1 - grey

        level, source = level_of(run, sign)
        words = "bright" if sign > 0 else "dark"
        note = (
            f"Grey value: the pixel in the model's window, {words} is abnormal (turned in its "
            f"favour); its threshold {level:.2f} is {source}."
        )
        maps = Lazy(one, n)
        return Maps(maps, masks, np.full(n, level)), note, maps, np.full(n, level)

    found = at(1)
    lesion = np.array([m.any() for m in masks], float)
    return found if found[0].statistics["pixel AUROC"](lesion) >= 0.5 else at(-1)
