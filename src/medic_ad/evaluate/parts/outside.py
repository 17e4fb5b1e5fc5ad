"""Evaluation: images that nothing should be found in, photographs, and what the gate says."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import data as pictures
from sklearn.datasets import load_sample_images

from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.predictions.store import Context, digest
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict
from medic_ad.image import Image
from medic_ad.road import read
from medic_ad.study import Study

SIDE = 224
EACH = 10  # noise images of a kind
PHOTOGRAPHS = (
    "astronaut",
    "camera",
    "cat",
    "coffee",
    "rocket",
    "page",
    "text",
    "coins",
    "brick",
    "grass",
    "gravel",
    "horse",
    "clock",
    "moon",
    "hubble_deep_field",
)


def blank_and_noise(seed: int) -> dict[str, list[np.ndarray]]:
    """Grey values 0 to 255 `(SIDE, SIDE)`: constant images and noise of several kinds."""
    rng, shape = np.random.default_rng(seed), (SIDE, SIDE)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)

    def smooth(sigma: float) -> np.ndarray:
        field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
        return np.clip(128 + 50 * field / field.std(), 0, 255)

    return {
        "blank": [np.full(shape, level, float) for level in np.linspace(0, 255, EACH)],
        "nearly blank": [level + rng.integers(0, 2, shape) for level in np.linspace(0, 254, EACH)],
        "ramp": [
            255 * np.abs(np.cos(a) * x + np.sin(a) * y) / 1.5 for a in np.linspace(0, np.pi, EACH)
        ],
        "white noise": [np.clip(rng.normal(128, 10 + 8 * k, shape), 0, 255) for k in range(EACH)],
        "uniform noise": [rng.uniform(0, 255, shape) for _ in range(EACH)],
        "smooth noise": [smooth(1 + 2 * k) for k in range(EACH)],
        "salt and pepper": [255.0 * (rng.random(shape) < 0.02 * (k + 1)) for k in range(EACH)],
    }


def photographs() -> list[np.ndarray]:
    """Pictures that scikit-image and scikit-learn carry, as grey values; those at hand."""
    out = [p.astype(float) for p in load_sample_images().images]
    for name in PHOTOGRAPHS:
        try:
            out.append(np.asarray(getattr(pictures, name)(), dtype=float))
        except (OSError, ImportError):  # some are fetched from the network on first use
            continue
    # two-tone pictures come as booleans
    grey = [p[..., :3] @ (0.299, 0.587, 0.114) if p.ndim == 3 else p for p in out]
    return [g * 255 if g.max() <= 1 else g for g in grey]


def refused(context: Context, name: str, images: list[Image]) -> np.ndarray:
    """Whether the gate alone, without a stated modality, calls each image out of scope."""
    key = digest(name, [i.source.sha256 for i in images])
    seen = context.store.predictions(
        context.weights,
        f"scope-{digest(name)}",
        key,
        lambda: columns(predict(context.model, images, f"gate: {name}"), ("in_scope",)),
    )
    return 1.0 - seen["in_scope"]


def blank_figures(context: Context, of: str) -> list[Figure]:
    """Share of blank and noise images that are not read as abnormal, through `read`."""
    made = blank_and_noise(context.seed)

    def make() -> dict[str, np.ndarray]:
        return {
            kind: np.array(
                [
                    read(Study(as_image(np.round(p), f"{kind}.png")), context.model).decision
                    for p in slices
                ]
            )
            for kind, slices in made.items()
        }

    decisions = context.store.predictions(
        context.weights, "blank", digest(context.seed, EACH), make, test=False
    )
    kinds = np.repeat(list(decisions), [len(v) for v in decisions.values()])
    said = np.concatenate(list(decisions.values()))
    sampling = context.resampling([f"{k}-{i}" for i, k in enumerate(kinds)], "image", "made")
    return [
        sampling.mean(
            "blank and noise images not read as abnormal",
            (said != "abnormal"),
            of,
            aim="= 100 %",
        ),
        sampling.mean("blank and noise images out of scope", (said == "out_of_scope"), of),
    ]


def photograph_figure(context: Context) -> Figure:
    """Share of photographs that the gate keeps out."""
    images = [as_image(p, "photograph.png") for p in photographs()]
    sampling = context.resampling([str(k) for k in range(len(images))], "picture", "all")
    return sampling.mean("out of scope", refused(context, "photographs", images), "photographs")
