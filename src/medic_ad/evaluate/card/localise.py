"""Evaluation: heatmap against mask on tumour slices, beside a U-Net and the grey value itself."""

from __future__ import annotations

import numpy as np

from medic_ad.calibrate import HEATMAP_GRID
from medic_ad.evaluate.baselines.grey import dice_by_level, intensity
from medic_ad.evaluate.figures.maps import Maps, by_size, false_areas
from medic_ad.evaluate.material.sets import CHENG, CLUSTER, cheng_twins, samples_of
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict, threshold_of
from medic_ad.evaluate.unet import UNet
from medic_ad.readers import read_image

AIMS = {"pixel AUROC": ">= 0.97", "mean Dice": ">= 0.70", "pointing game": ">= 0.85"}
NO_TUMOUR = "brain_no_tumour"


def heatmaps_of(context: Context) -> dict[str, np.ndarray]:
    """Predictions for the tumour slices as published, and how much of each twin's map is lesion."""
    twins = cheng_twins(context)

    def make() -> dict[str, np.ndarray]:
        model = context.model
        out: dict[str, np.ndarray] = {}
        for name in ("image", "clean", "sham"):
            images = [as_image(p, f"{name}.png") for p in getattr(twins, name)]
            seen = predict(model, images, f"reading test slices ({name})")
            out |= {f"{name}_{key}": value for key, value in columns(seen).items()}
            thresholds = np.array([threshold_of(model, p) for p in seen])
            out[f"{name}_threshold"] = thresholds
            out[f"{name}_area"] = np.array(
                [(p.heatmap >= t).mean() for p, t in zip(seen, thresholds, strict=True)]
            )
            if name == "image":
                out["heatmap"] = np.stack([p.heatmap for p in seen])
        return out

    key = digest(context.seed, twins.image.shape, int(twins.clean.sum(dtype=np.int64)))
    return context.store.predictions(context.weights, CHENG, key, make)


def intensity_threshold(context: Context) -> float:
    """The grey value of highest mean Dice on validation."""
    samples = samples_of(context.root, CHENG, "val")

    def make() -> dict[str, np.ndarray]:
        rows = []
        for s in bar(samples, "intensity threshold on val"):
            mask = read_image(str(s.mask)).pixels > 0
            rows.append(dice_by_level(intensity(read_image(s.image).pixels), mask))
        return {"dice": np.array(rows)}

    scores = context.store.material("intensity", digest([s.image for s in samples]), make)["dice"]
    return float(HEATMAP_GRID[int(np.nanmean(scores, 0).argmax())])


def measure(context: Context) -> Part:
    """Pixel AUROC, AP, Dice at the fixed threshold, pointing game; the U-Net in the same table."""
    twins, seen = cheng_twins(context), heatmaps_of(context)
    sampling = context.resampling(twins.groups, CLUSTER, f"{CHENG} test")
    masks = twins.mask
    methods = {context.of: Maps(list(seen["heatmap"]), list(masks), seen["image_threshold"])}
    notes = [
        "Maps lie on the file's own 224 x 224 grid; pixel AUROC and AP are pooled over all pixels. "
        "The heatmap's threshold was chosen on validation, the gate is not applied.",
    ]
    if context.unet is not None:
        unet = UNet.load(context.unet)
        drawn = context.store.predictions(
            unet.sha256,
            f"{CHENG}-unet",
            digest(twins.image.shape),
            lambda: {"heatmap": np.stack(unet.maps(list(twins.image), "U-Net on test slices"))},
        )
        thresholds = np.full(len(masks), unet.record["threshold"])
        methods["U-Net"] = Maps(list(drawn["heatmap"]), list(masks), thresholds)
        notes.append(unet.description())
    level = intensity_threshold(context)
    grey = [intensity(p.astype(np.float32)) for p in twins.image]
    methods["grey value"] = Maps(grey, list(masks), np.full(len(masks), level))
    notes.append(
        f"Grey value: the pixel in the model's window; its threshold {level:.2f} is from val."
    )
    figures = []
    for name in AIMS | {"pixel AP": ""}:
        for of, maps in methods.items():
            aim = AIMS.get(name) if of == context.of else None
            figures.append(sampling.figure(name, maps.statistics[name], of, aim))
        if "U-Net" in methods:
            figures.append(
                sampling.difference(
                    name,
                    methods[context.of].statistics[name],
                    methods["U-Net"].statistics[name],
                    f"{context.of} - U-Net",
                )
            )
    figures += by_size(sampling, methods[context.of].dice, masks.mean((1, 2)), context.of)
    name = "area drawn on the same slices, tumour inpainted"
    figures.append(sampling.mean(name, seen["clean_area"], context.of))
    return Part("Localise", notes, figures)


def false_positives(context: Context) -> Part:
    """Share of the image above the heatmap's threshold on slices without tumour."""
    samples = samples_of(context.root, NO_TUMOUR, "test")

    def make() -> dict[str, np.ndarray]:
        images = [as_image(read_image(s.image).pixels, s.image) for s in samples]
        seen = predict(context.model, images, "reading slices without tumour")
        area = [(p.heatmap >= threshold_of(context.model, p)).mean() for p in seen]
        return {**columns(seen), "area": np.array(area)}

    key = digest([s.image for s in samples])
    seen = context.store.predictions(context.weights, NO_TUMOUR, key, make)
    calibration = context.model.network.calibration
    high = calibration.band_high.cpu().numpy()[seen["entry"]]
    inside = seen["in_scope"]
    sampling = context.resampling(
        [s.group for s in samples], "duplicate group", f"{NO_TUMOUR} test"
    )
    figures = [
        *false_areas(sampling, seen["area"], inside, context.of, "<= 1 %"),
        sampling.mean("share read as abnormal", (inside & (seen["score"] >= high)), context.of),
    ]
    notes = [
        "Another source than the tumours, never trained on; T1, T2 and FLAIR in all planes, so "
        "some lie outside the declared scope. Its labels say no tumour, not healthy.",
    ]
    return Part("False positives on slices without tumour", notes, figures)
