"""Evaluation: worse, stable or better on pairs with known change; files read in both orders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from medic_ad.evaluate.figures.bootstrap import Figure, Resampling
from medic_ad.evaluate.figures.metrics import PixelCounts, macro_f1
from medic_ad.evaluate.material.made_pairs import Pairs
from medic_ad.evaluate.material.sets import CHENG, CLUSTER, held_out_pairs
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.pairs import compare_images, inverse_of
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.evaluate.predictions.sweep import as_image
from medic_ad.load import Model
from medic_ad.road import read
from medic_ad.study import read_study
from medic_ad.words import CHANGE_LABELS


def compare_all(model: Model, pairs: Pairs) -> dict[str, np.ndarray]:
    """Label and map of every pair, as `read` gives them."""
    rows = bar(zip(pairs.first, pairs.second, strict=True), "comparing pairs", total=len(pairs))
    seen = [
        compare_images(model, as_image(second, "current.png"), as_image(first, "prior.png"))
        for first, second in rows
    ]
    return {name: np.stack([one[name] for one in seen]) for name in ("label", "map")}


def read_both_ways(model: Model, pairs: Pairs, count: int, folder: Path) -> dict[str, np.ndarray]:
    """Write pairs as files and read them through `read_study` and `read` in both orders."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in bar(range(min(count, len(pairs))), "reading pairs in both orders"):
        paths = []
        for name, pixels in (("a", pairs.first[k]), ("b", pairs.second[k])):
            paths.append(folder / f"{k:03d}{name}.png")
            Pillow.fromarray(pixels).save(paths[-1])
        reports = [
            read(read_study(current, prior=prior), model) for prior, current in (paths, paths[::-1])
        ]
        labels = [r.change.label if r.change else "" for r in reports]
        ahead, back = ((r.change and r.change.scores) or {} for r in reports)
        rows.append((*labels, list(ahead.values()) == list(back.values())[::-1]))
    ahead_labels, back_labels, exact = zip(*rows, strict=True)
    return {
        "ahead": np.array(ahead_labels),
        "back": np.array(back_labels),
        "exact": np.array(exact),
    }


def map_figures(pairs: Pairs, maps: np.ndarray, sampling: Resampling, of: str) -> list[Figure]:
    """The signed map on changed pairs, against the pixels that changed that way."""
    changed = pairs.change != "stable"
    worse = (pairs.change[changed] == "worse")[:, None, None]
    truth = np.where(worse, pairs.more[changed], pairs.less[changed])
    counts = PixelCounts(list(np.where(worse, maps[changed], -maps[changed])), list(truth))
    part = sampling.subset(changed)
    return [
        part.figure("signed change map, pixel AUROC, changed pairs", counts.auroc, of),
        part.figure("signed change map, pixel AP, changed pairs", counts.average_precision, of),
    ]


def measure(context: Context) -> Part:
    """Accuracy, macro F1, per growth bin, and exchange of the files."""
    pairs = held_out_pairs(context)
    key = digest(context.seed, len(pairs), int(pairs.second.sum(dtype=np.int64)))
    seen = context.store.predictions(
        context.weights, "pairs", key, lambda: compare_all(context.model, pairs)
    )
    both = context.store.predictions(
        context.weights,
        "pairs-read",
        digest(key, context.read_pairs),
        lambda: read_both_ways(
            context.model, pairs, context.read_pairs, context.store.out / "pairs"
        ),
    )
    split = f"pairs from {CHENG} test"
    sampling = context.resampling(pairs.group.tolist(), CLUSTER, split)
    label, truth, of = seen["label"], pairs.change, context.of
    right = (label == truth).astype(float)
    figures = [
        sampling.mean("3-class accuracy", right, of, ">= 0.85"),
        sampling.mean("3-class accuracy", (truth == "stable"), "always stable"),
        sampling.figure("macro F1", macro_f1(label, truth, CHANGE_LABELS), of),
        sampling.figure(
            "direction F1 (worse, better)", macro_f1(label, truth, ("worse", "better")), of
        ),
    ]
    figures += [
        sampling.mean(f"accuracy, {kind}", np.where(pairs.kind == kind, right, np.nan), of)
        for kind in sorted(set(pairs.kind.tolist()))
    ]
    figures += map_figures(pairs, seen["map"], sampling, of)
    count = len(both["ahead"])
    reading = context.resampling(pairs.group[:count].tolist(), CLUSTER, split)
    # what neither order compares says nothing of exchange; what one of them does has failed
    neither = ~(np.isin(both["ahead"], CHANGE_LABELS) | np.isin(both["back"], CHANGE_LABELS))
    inverted = np.where(neither, np.nan, inverse_of(both["ahead"]) == both["back"])
    figures += [
        reading.mean("files exchanged: label inverted", inverted, of, "= 100 %"),
        reading.mean(
            "files exchanged: scores exchanged to the last bit",
            np.where(neither, np.nan, both["exact"]),
            of,
        ),
        reading.mean(
            "3-class accuracy through `read`",
            (both["ahead"] == truth[:count]),
            of,
        ),
    ]
    refused = float((label == "not_comparable").mean())
    notes = [
        f"{len(pairs)} pairs, a third each worse, stable and better; stable are shams (the lesion "
        "cut out and pasted back on both dates) and slices inpainted twice. Blending and "
        "inpainting as in no training; half of the lesions are another test slice's. Each date "
        "is moved, turned, relit and given noise on its own, then registered as `read` does it. "
        f"Growth is of area. {refused:.1%} were refused as not comparable and count as wrong.",
        f"{count} pairs were written as PNG files and read in both orders; {int(neither.sum())} of "
        "them, which neither order can compare, are left out of the exchange.",
    ]
    return Part("Compare, pairs with known change", notes, figures)
