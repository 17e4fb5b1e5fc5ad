"""Makes the table of `runs/chest.sh`: `python runs/chest_table.py KERMANY OUT`.

No set of radiographs with masks is free enough for weights that are given away. So soft opacities
are drawn into the lungs of healthy children (cxr_kermany, CC BY 4.0), where their place is known.
The radiographs with pneumonia join with their label alone.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import clear_border

from medic_ad.data.sets import classes
from medic_ad.processor import grey_window
from medic_ad.readers import read_image

DRAWN = 5  # radiographs with opacities of each healthy one
MOST = 3  # opacities in one
RADIUS = (0.04, 0.16)  # of the longer side, log-uniform
DENSITY = (0.25, 0.7)  # of the way from the lung's grey to that of dense tissue
COLUMNS = ("image", "patient", "modality", "body_part", "sequence", "label", "mask")
KIND = {"modality": "DX", "body_part": "CHEST", "sequence": "radiograph"}


def lungs(grey: np.ndarray) -> np.ndarray:
    """Roughly the air in the chest: large dark regions that do not touch the border."""
    smooth = ndimage.gaussian_filter(grey, max(grey.shape) / 80)
    dark = clear_border(smooth < threshold_otsu(smooth))
    labels, count = ndimage.label(ndimage.binary_opening(dark, iterations=3))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.isin(labels, 1 + np.flatnonzero(sizes[1:] > 0.02 * grey.size))


def with_opacities(
    grey: np.ndarray, room: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A radiograph (H, W) in [0, 1] with up to `MOST` opacities in the lungs, and their mask."""
    out, mask = grey.copy(), np.zeros(grey.shape, bool)
    dense = float(np.percentile(grey[ndimage.binary_dilation(room, iterations=12)], 90))
    y, x = np.indices(grey.shape)
    for _ in range(int(rng.integers(1, MOST + 1))):
        at = rng.choice(np.argwhere(room))
        radius = max(grey.shape) * float(np.exp(rng.uniform(*np.log(RADIUS))))
        turn, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.4, 0.4))
        u = (y - at[0]) * np.cos(turn) + (x - at[1]) * np.sin(turn)
        v = (x - at[1]) * np.cos(turn) - (y - at[0]) * np.sin(turn)
        waves = ndimage.gaussian_filter(rng.normal(size=grey.shape), radius / 3)
        depth = 1 - np.hypot(u * stretch, v / stretch) / radius + 0.25 * waves / waves.std()
        soft = ndimage.gaussian_filter(np.clip(depth / 0.5, 0, 1), radius / 10)
        grain = ndimage.gaussian_filter(rng.normal(size=grey.shape), 1.5)
        soft = soft * np.clip(1 + 0.15 * grain / grain.std(), 0, None)
        soft = soft * ndimage.gaussian_filter(room.astype(float), 3)  # it ends where the lung does
        out += rng.uniform(*DENSITY) * soft * np.clip(dense - grey, 0, None)
        mask |= soft > 0.5
    return out.clip(0, 1), mask


def save(pixels: np.ndarray, path: Path) -> str:
    """Write grey values in [0, 1]; the path as the table has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path)
    return f"{path.parent.name}/{path.name}"


def main(root: Path, out: Path) -> None:
    rows, rng = [], np.random.default_rng(0)
    for number, sample in enumerate(classes.reading(root, "cxr_kermany").samples):
        pixels = read_image(root / sample.image).pixels
        low, high = grey_window(pixels)
        grey = np.clip((pixels - low) / (high - low), 0, 1)
        said = {"patient": sample.patient, **KIND}
        name = f"{number:04d}"
        image = save(grey, out / "images" / f"{name}.png")
        rows.append({"image": image, "label": int(sample.label), **said})
        room = lungs(grey)
        if sample.label or not room.any():
            continue
        for k in range(DRAWN):
            drawn, mask = with_opacities(grey, room, rng)
            if mask.any():
                image = save(drawn, out / "images" / f"{name}-{k}.png")
                mask_file = save(mask.astype(float), out / "masks" / f"{name}-{k}.png")
                rows.append({"image": image, "label": 1, "mask": mask_file, **said})
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python runs/chest_table.py KERMANY OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
