"""Evaluation: one made study of two dates, followed with its true masks and with a model's own."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from skimage.measure import label as label_components

from medic_ad.align import Alignment, align
from medic_ad.course import measure_date
from medic_ad.data.acquire import Acquisition, acquire, acquire_labels, draw_acquisition
from medic_ad.data.longitudinal import (
    BLENDS,
    BRIGHT,
    DARK,
    Host,
    Longitudinal,
    draw_longitudinal,
)
from medic_ad.image import Image, in_memory
from medic_ad.lesions import EXCHANGED, LesionChange, Lesions, match_lesions, measure_lesions
from medic_ad.links import mapped
from medic_ad.load import Model
from medic_ad.road import calibrated, scan

LEAST_ML = 0.5  # of lesions whose volume error counts
IN_VIEW = 0.99  # of a lesion on both dates, or it is left out
TRUE = "true masks"


@dataclass(frozen=True)
class Outcome:
    """One lesion or fate of one study, or one number of the study itself.

    Attributes:
        study, host: where it comes from.
        what: "carried" and "measured" are relative volume errors, "link" is 1 where true and found,
            0.5 where true alone, 0 where found alone, "kind" whether the fate is right, "left_out"
            whether a fate that one date does not show whole got a class all the same, "exchanged"
            whether the other order inverts it, "in_scope" whether the model reads a date at all.
        masks: whose: `TRUE`, or those of a model.
    """

    study: str
    host: str
    what: str
    value: float
    detail: str = ""
    masks: str = TRUE


@dataclass(frozen=True, eq=False)
class Made:
    """Two dates as their scanners saw them, with everything that is true of them.

    Attributes:
        study: the lesions and their fates, on the host's grid.
        ways, images: of each date.
        truth: int32 labels of each date on its own grid.
        visible: labels that both dates show whole.
    """

    name: str
    host: str
    study: Longitudinal
    ways: list[Acquisition]
    images: list[Image]
    truth: list[np.ndarray]
    visible: set[int]

    def say(self, what: str, value: float, detail: str = "", masks: str = TRUE) -> Outcome:
        return Outcome(self.name, self.host, what, float(value), detail, masks)


def make_study(
    name: str,
    host_name: str,
    host: Host,
    affine: np.ndarray,
    lesions: int,
    rng: np.random.Generator,
) -> Made:
    """Draw lesions and their fates, and scan both dates, each in its own way."""
    contrast = DARK if host_name == "mni152" else BRIGHT
    study = draw_longitudinal(host, rng, 2, lesions, contrast, BLENDS["test"])
    ways = [draw_acquisition(rng, affine, host.clean.shape) for _ in range(2)]
    images = [
        in_memory(acquire(volume, affine, how, rng), how.affine, "MR", "BRAIN")
        for volume, how in zip(study.volumes, ways, strict=True)
    ]
    truth = [
        acquire_labels(label, affine, how) for label, how in zip(study.labels, ways, strict=True)
    ]
    return Made(name, host_name, study, ways, images, truth, _visible(study, ways, affine))


def try_study(made: Made, model: Model | None) -> list[Outcome]:
    """Align both dates, carry and match the lesions, compare with what was made."""
    start = time.process_time()
    found = align(made.images[1], made.images[0])
    out = [made.say("align_cpu_seconds", time.process_time() - start)]
    out.append(made.say("comparable", found.ok))
    spacings = [how.spacing_mm for how in made.ways]
    dates = [measure_lesions(t > 0, s) for t, s in zip(made.truth, spacings, strict=True)]
    out += judge(made, found, dates, TRUE)
    if model is not None:
        scans = [scan(image, model) for image in made.images]
        thresholds = [calibrated(model, s.entry)("heatmap_threshold") for s in scans]
        dates = [
            measure_date(s.heatmap, threshold, image)
            for s, threshold, image in zip(scans, thresholds, made.images, strict=True)
        ]
        out += [made.say("in_scope", s.entry is not None, masks=model.name) for s in scans]
        out += judge(made, found, dates, model.name)
    return out


def judge(made: Made, found: Alignment, dates: list[Lesions], masks: str) -> list[Outcome]:
    """Volumes, links and fates of measured lesions against the truth.

    A measured lesion stands for the true labels that it touches; a link between two of which one
    touches none is a false one.
    """
    out = []

    def say(what: str, value: float, detail: str = "") -> None:
        out.append(made.say(what, value, detail, masks))

    frames = found.prior_frame, found.current_frame
    start = time.process_time()
    changes = match_lesions(dates[0], dates[1], frames=frames)
    say("match_cpu_seconds", time.process_time() - start)
    say("exchanged", _exchanged(changes, match_lesions(dates[1], dates[0], frames=frames[::-1])))
    names = [_named(d, t) for d, t in zip(dates, made.truth, strict=True)]
    said = [(c, _all(names[0], c.before), _all(names[1], c.after)) for c in changes]
    fates, visible = made.study.fates[0], made.visible
    true_links = {(b, a) for f in fates for b in f.before for a in f.after if {b, a} <= visible}
    got_links = {(b, a) for _, old, new in said for b in old for a in new if {b, a} <= visible}
    for link in true_links | got_links:
        say("link", (link in true_links) - (link not in got_links) * 0.5, str(link))
    for change, old, new in said:
        if change.before and change.after and not (old and new):
            say("link", 0.0, f"{change.before} {change.after} of nothing")
    for fate in fates:
        touched = [
            (c, old, new) for c, old, new in said if old & {*fate.before} or new & {*fate.after}
        ]
        if not {*fate.before, *fate.after} <= visible:
            say("left_out", any(c.kind != "not_comparable" for c, *_ in touched), fate.kind)
            continue
        right = any(
            c.kind == fate.kind and set(fate.before) == old and set(fate.after) == new
            for c, old, new in touched
        )
        say("kind", right, fate.kind)
    measured = _volumes(dates[0], names[0])
    carried = _carried(found, dates[0], names[0], made.ways[1])
    for number, ml in made.study.volumes_ml().items():
        if number in visible and ml[0] > LEAST_ML:
            say("measured", abs(measured.get(number, 0) / ml[0] - 1), str(number))
            say("carried", abs(carried.get(number, 0) / ml[0] - 1), str(number))
    return out


def _exchanged(one: tuple[LesionChange, ...], other: tuple[LesionChange, ...]) -> bool:
    turned = {(c.after, c.before): c for c in other}
    return len(one) == len(other) and all(
        (c.before, c.after) in turned
        and turned[c.before, c.after].kind == EXCHANGED[c.kind]
        and turned[c.before, c.after].log_ratio == -c.log_ratio
        for c in one
    )


def _visible(made: Longitudinal, ways: list[Acquisition], affine: np.ndarray) -> set[int]:
    """Labels that the field of view of both dates shows whole, wherever they are."""
    lost = set()
    for labels in made.labels:
        index = np.argwhere(labels)
        own = labels[tuple(index.T)]
        for how in ways:
            way = np.linalg.inv(how.to_reference(affine))
            there = index @ way[:3, :3].T + way[:3, 3]
            inside = np.all((there > -0.5) & (there < np.array(how.grid) - 0.5), axis=1)
            seen = np.bincount(own[inside], minlength=own.max(initial=0) + 1)
            total = np.bincount(own, minlength=len(seen))
            lost |= {int(n) for n in np.flatnonzero(seen < IN_VIEW * total)}
    return {int(n) for labels in made.labels for n in np.unique(labels) if n} - lost


def _named(date: Lesions, truth: np.ndarray) -> dict[int, set[int]]:
    """Number of each lesion as measured -> the true labels within it."""
    inside = (date.labels > 0) & (truth > 0)
    pairs = np.unique(np.stack([date.labels[inside], truth[inside]]), axis=1)
    out: dict[int, set[int]] = {lesion.number: set() for lesion in date.items}
    for number, label in pairs.T:
        out[int(number)].add(int(label))
    return out


def _all(names: dict[int, set[int]], numbers: tuple[int, ...]) -> set[int]:
    return set().union(*(names[n] for n in numbers))


def _volumes(date: Lesions, names: dict[int, set[int]]) -> dict[int, float]:
    """Volume of each true label as measured; of lesions that touch it and no other."""
    out: dict[int, float] = {}
    for lesion in date.items:
        if len(names[lesion.number]) == 1:
            [label] = names[lesion.number]
            out[label] = out.get(label, 0.0) + lesion.volume_ml
    return out


def _carried(
    found: Alignment, prior: Lesions, names: dict[int, set[int]], current: Acquisition
) -> dict[int, float]:
    """Volume on the current grid of each prior label whose mask the alignment has carried there."""
    mask = found.prior_to_current((prior.labels > 0).astype(np.float32), fill=0.0) >= 0.5
    parts = label_components(mask, connectivity=3)
    n = int(parts.max(initial=0))
    frames = found.current_frame, found.prior_frame
    share, _ = mapped(parts, prior.labels, n, len(prior.items), frames)
    out: dict[int, float] = {}
    counts = np.bincount(parts.ravel(), minlength=n + 1)[1:]
    for part in range(n):
        if prior.items and share[part].max() > 0:
            labels = names[int(share[part].argmax()) + 1]
            if len(labels) == 1:
                [label] = labels
                ml = float(counts[part]) * float(np.prod(current.spacing_mm)) / 1000
                out[label] = out.get(label, 0.0) + ml
    return out
