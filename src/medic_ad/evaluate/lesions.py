"""Evaluation: `medic-ad evaluate lesions`, made lesions followed with their true masks.

Registration, measuring and matching are judged apart from any network: the masks are true, the
registration is estimated from the images of both dates.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from skimage.measure import label as label_components

from medic_ad.align import Alignment, align
from medic_ad.data.acquire import Acquisition, acquire, acquire_labels, draw_acquisition
from medic_ad.data.longitudinal import BLENDS, Host, Longitudinal, draw_longitudinal, prepare_host
from medic_ad.data.sets import mni152
from medic_ad.errors import DataError
from medic_ad.evaluate.bars import bar
from medic_ad.evaluate.bootstrap import Figure, Resampling, Statistic
from medic_ad.evaluate.markdown import table
from medic_ad.evaluate.registration import in_memory
from medic_ad.image import Image
from medic_ad.lesions import EXCHANGED, LesionChange, Lesions, match_lesions, measure_lesions
from medic_ad.links import mapped
from medic_ad.readers import read_image

LEAST_ML = 0.5  # of lesions whose volume error counts
IN_VIEW = 0.99  # of a lesion on both dates, or it is left out
MS = "ms_cross_sectional"
DARK, BRIGHT = (0.5, 0.75), (1.3, 1.7)  # lesions on T1, on FLAIR


@dataclass
class LesionArguments:
    """Arguments of `medic-ad evaluate lesions`."""

    out: str = field(metadata={"help": "folder of lesions.json and lesions.md"})
    data_root: str = field(
        default="", metadata={"help": f"folder that holds {MS}; without: MNI152 alone"}
    )
    studies: int = field(
        default=20, metadata={"help": "made pairs of dates, of all hosts together"}
    )
    lesions: int = field(default=12, metadata={"help": "lesions a study, where there is room"})
    seed: int = field(default=0, metadata={"help": "of lesions, scanners and resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})


@dataclass(frozen=True)
class Outcome:
    """One lesion or fate of one study, or one number of the study itself.

    Attributes:
        study, host: where it comes from.
        what: "carried" and "measured" are relative volume errors, "link" is (found, true),
            "kind" whether the fate is right, "left_out" whether a fate that one date does not show
            whole got a class all the same, "exchanged" whether the other order inverts it.
    """

    study: str
    host: str
    what: str
    value: float
    detail: str = ""


def hosts(root: str, rng: np.random.Generator) -> dict[str, tuple[Host, np.ndarray]]:
    """Anatomy without lesions and its affine, by name."""
    out = {}
    template = read_image(mni152.samples()[0].image, modality="MR", body_part="BRAIN")
    found: list[tuple[str, Image, np.ndarray | None]] = [("mni152", template, None)]
    if root:
        folders = sorted((Path(root) / MS).glob("patient*"))
        if not folders:
            raise DataError(
                f"expected patients in {Path(root) / MS}, found none; give the folder that holds "
                "the data sets, or leave --data-root out"
            )
        for folder in folders:
            said = {"modality": "MR", "body_part": "BRAIN"}
            flair, mask = (
                read_image(folder / f"{name}_MNI.nii.gz", **said) for name in ("FLAIR", "lesions")
            )
            found.append((f"{MS}/{folder.name}", flair, mask.pixels > 0.5))
    for name, image, lesions in found:
        if image.affine is None or image.spacing_mm is None:
            raise DataError(f"expected {name} to say where its voxels lie; give another file")
        made = prepare_host(image.pixels, image.spacing_mm, rng, lesions)
        out[name] = made, image.affine
    return out


def try_study(
    name: str,
    host_name: str,
    host: Host,
    affine: np.ndarray,
    lesions: int,
    rng: np.random.Generator,
) -> list[Outcome]:
    """Make two dates, align them, carry and match the true masks, compare with what was made."""
    contrast = DARK if host_name == "mni152" else BRIGHT
    made = draw_longitudinal(host, rng, 2, lesions, contrast, BLENDS["test"])
    ways = [draw_acquisition(rng, affine, host.clean.shape) for _ in range(2)]
    images = [
        in_memory(acquire(volume, affine, how, rng), how.affine)
        for volume, how in zip(made.volumes, ways, strict=True)
    ]
    truth = [
        acquire_labels(label, affine, how) for label, how in zip(made.labels, ways, strict=True)
    ]
    start = time.process_time()
    found = align(images[1], images[0])
    seconds = time.process_time() - start

    def say(what: str, value: float, detail: str = "") -> Outcome:
        return Outcome(name, host_name, what, float(value), detail)

    out = [say("align_cpu_seconds", seconds), say("comparable", found.ok)]
    start = time.process_time()
    dates = [
        measure_lesions(labels > 0, how.spacing_mm) for labels, how in zip(truth, ways, strict=True)
    ]
    frames = found.prior_frame, found.current_frame
    changes = match_lesions(dates[0], dates[1], frames=frames)
    out.append(say("match_cpu_seconds", time.process_time() - start))
    back = match_lesions(dates[1], dates[0], frames=frames[::-1])
    out.append(say("exchanged", _exchanged(changes, back)))
    visible = _visible(made, ways, affine)
    names = [_named(d, t) for d, t in zip(dates, truth, strict=True)]
    true_links = {
        (b, a) for f in made.fates[0] for b in f.before for a in f.after if {b, a} <= visible
    }
    said = [(c, _all(names[0], c.before), _all(names[1], c.after)) for c in changes]
    got_links = {(b, a) for _, old, new in said for b in old for a in new if {b, a} <= visible}
    for link in true_links | got_links:
        out.append(say("link", (link in true_links) - (link not in got_links) * 0.5, str(link)))
    for fate in made.fates[0]:
        if not {*fate.before, *fate.after} <= visible:
            touched = [c for c, old, new in said if old & {*fate.before} or new & {*fate.after}]
            judged = any(c.kind != "not_comparable" for c in touched)
            out.append(say("left_out", judged, fate.kind))
            continue
        right = any(
            c.kind == fate.kind and set(fate.before) == old and set(fate.after) == new
            for c, old, new in said
        )
        out.append(say("kind", right, fate.kind))
    ml = made.volumes_ml()
    measured = _volumes(truth[0], ways[0].spacing_mm)
    carried = _carried(found, truth[0], dates[0], names[0], ways[1])
    for number in sorted(visible):
        true_ml = ml[number][0]
        if true_ml > LEAST_ML:
            out.append(say("measured", abs(measured.get(number, 0) / true_ml - 1), str(number)))
            out.append(say("carried", abs(carried.get(number, 0) / true_ml - 1), str(number)))
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
    inside = date.labels > 0
    pairs = np.unique(np.stack([date.labels[inside], truth[inside]]), axis=1)
    out: dict[int, set[int]] = {lesion.number: set() for lesion in date.items}
    for number, label in pairs.T:
        out[int(number)].add(int(label))
    return out


def _all(names: dict[int, set[int]], numbers: tuple[int, ...]) -> set[int]:
    return set().union(*(names[n] for n in numbers))


def _volumes(labels: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[int, float]:
    counts = np.bincount(labels.ravel())
    ml = float(np.prod(spacing_mm)) / 1000
    return {int(n): float(counts[n]) * ml for n in np.flatnonzero(counts) if n}


def _carried(
    found: Alignment,
    truth: np.ndarray,
    prior: Lesions,
    names: dict[int, set[int]],
    current: Acquisition,
) -> dict[int, float]:
    """Volume on the current grid of each prior label whose mask the alignment has carried there."""
    mask = found.prior_to_current((truth > 0).astype(np.float32), fill=0.0) >= 0.5
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


def figures(outcomes: list[Outcome], seed: int, resamples: int, of: str) -> list[Figure]:
    """Volume error, matching and class of change, and what stands behind them, by study."""

    def part(what: str) -> tuple[np.ndarray, Resampling]:
        rows = [o for o in outcomes if o.what == what]
        sampling = Resampling([o.study for o in rows], "study", of, seed, resamples)
        return np.array([o.value for o in rows]), sampling

    out = []
    for what, words in (("carried", "carried by registration"), ("measured", "on its own grid")):
        values, sampling = part(what)
        name = f"median volume error above {LEAST_ML:g} ml, {words}"
        out.append(sampling.figure(name, _median(values), of, "<= 0.10"))
    values, sampling = part("link")
    out.append(sampling.figure("matching F1", _f1(values), of, ">= 0.95"))
    values, sampling = part("kind")
    out.append(sampling.mean("class of change right", values, of, ">= 0.90"))
    for what, words, aim in (
        ("exchanged", "exchange of dates inverts all", "1"),
        ("comparable", "studies aligned", "1"),
        ("align_cpu_seconds", "alignment, processor seconds", None),
        ("match_cpu_seconds", "measuring and matching, processor seconds", None),
    ):
        values, sampling = part(what)
        out.append(sampling.mean(words, values, of, aim))
    return out


def _median(values: np.ndarray) -> Statistic:
    def statistic(counts: np.ndarray) -> float:
        drawn = np.repeat(values, counts.astype(int))
        return float(np.median(drawn)) if len(drawn) else float("nan")

    return statistic


def _f1(links: np.ndarray) -> Statistic:
    """Links are 1 where true and found, 0.5 where true alone, 0 where found alone."""

    def statistic(counts: np.ndarray) -> float:
        hits, missed, false = (float(counts[links == v].sum()) for v in (1.0, 0.5, 0.0))
        total = 2 * hits + missed + false
        return 2 * hits / total if total else float("nan")

    return statistic


def main(arguments: LesionArguments) -> Path:
    """Measure, and write lesions.json and lesions.md."""
    rng = np.random.default_rng(arguments.seed)
    known = hosts(arguments.data_root, rng)
    jobs = [(f"study{i:03d}", list(known)[i % len(known)]) for i in range(arguments.studies)]
    outcomes = [
        outcome
        for name, host in bar(jobs, "following lesions")
        for outcome in try_study(name, host, *known[host], arguments.lesions, rng)
    ]
    return write(arguments, outcomes)


def write(arguments: LesionArguments, outcomes: list[Outcome]) -> Path:
    """The table over all hosts and over each, with the wrong classes named."""
    groups = {"all hosts": outcomes}
    if len({o.host for o in outcomes}) > 1:
        groups |= {h: [o for o in outcomes if o.host == h] for h in {o.host: 0 for o in outcomes}}
    found = [
        f
        for of, rows in groups.items()
        for f in figures(rows, arguments.seed, arguments.resamples, of)
    ]
    by_kind: dict[str, list[float]] = {}
    for o in outcomes:
        if o.what == "kind":
            by_kind.setdefault(o.detail, []).append(o.value)
    left = [o.value for o in outcomes if o.what == "left_out"]
    lines = [
        *table(found),
        "",
        "Class of change right, by true class: "
        + "; ".join(f"{k} {sum(v):.0f} of {len(v)}" for k, v in sorted(by_kind.items()))
        + f". Left out, because a date does not show the whole place: {len(left)}; of these "
        f"{sum(left):.0f} got another class than `not_comparable`.",
    ]
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "arguments": dataclasses.asdict(arguments),
        "figures": [dataclasses.asdict(f) for f in found],
        "outcomes": [dataclasses.asdict(o) for o in outcomes],
    }
    (out / "lesions.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    report = out / "lesions.md"
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return report
