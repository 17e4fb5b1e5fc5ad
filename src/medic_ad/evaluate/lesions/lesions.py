"""Evaluation: `medic-ad evaluate lesions`, made lesions followed over time.

With their true masks registration, measuring and matching are judged apart from any network, the
registration being estimated from the images of both dates; a model's own masks stand beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medic_ad.data.longitudinal import Host, prepare_host
from medic_ad.data.sets import mni152
from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, Statistic
from medic_ad.evaluate.lesions.study import LEAST_ML, TRUE, Outcome, make_study, try_study
from medic_ad.evaluate.material.seen import seen_patients
from medic_ad.evaluate.material.sets import samples_of
from medic_ad.evaluate.output.markdown import table
from medic_ad.evaluate.output.record import write_figures
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.image import Image
from medic_ad.load import Model, load_model
from medic_ad.option import check_positive, check_seed
from medic_ad.readers import read_image

MS = "ms_cross_sectional"


@dataclass
class LesionArguments:
    """Arguments of `medic-ad evaluate lesions`."""

    out: str = field(metadata={"help": "folder of lesions.json and lesions.md"})
    model: str = field(
        default="nano",
        metadata={
            "help": "whose own masks stand beside the true ones; empty: true masks alone",
            "empty": True,
        },
    )
    data_root: str = field(
        default="", metadata={"help": f"folder that holds {MS}; without: MNI152 alone"}
    )
    studies: int = field(
        default=20, metadata={"help": "made pairs of dates, of all hosts together"}
    )
    lesions: int = field(default=12, metadata={"help": "lesions a study, where there is room"})
    seed: int = field(default=0, metadata={"help": "of lesions, scanners and resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})

    def __post_init__(self) -> None:
        check_positive(self, "studies", "lesions", "resamples")
        check_seed(self)


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


def figures(outcomes: list[Outcome], seed: int, resamples: int, host: str) -> list[Figure]:
    """Volume error, matching and class of change by study, with each kind of masks in turn."""

    def part(what: str, masks: str) -> tuple[np.ndarray, Resampling]:
        rows = [o for o in outcomes if o.what == what and o.masks == masks]
        sampling = Resampling([o.study for o in rows], "study", host, seed, resamples)
        return np.array([o.value for o in rows]), sampling

    out = []
    for masks in dict.fromkeys(o.masks for o in outcomes):
        true = masks == TRUE
        for what, words in (
            ("carried", "carried by registration"),
            ("measured", "on its own grid"),
        ):
            values, sampling = part(what, masks)
            name = f"median volume error above {LEAST_ML:g} ml, {words}"
            out.append(sampling.figure(name, _median(values), masks, "<= 0.10" if true else None))
        values, sampling = part("link", masks)
        out.append(sampling.figure("matching F1", _f1(values), masks, ">= 0.95" if true else None))
        for what, words, aim in (
            ("kind", "class of change right", ">= 0.90" if true else None),
            ("exchanged", "exchange of dates inverts all", "1"),
            ("comparable", "studies aligned", "1"),
            ("in_scope", "dates in scope", None),
            ("align_cpu_seconds", "alignment, processor seconds", None),
            ("match_cpu_seconds", "matching, processor seconds", None),
        ):
            values, sampling = part(what, masks)
            if len(values):
                out.append(sampling.mean(words, values, masks, aim))
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
    model = load_model(arguments.model) if arguments.model else None
    known = hosts(arguments.data_root, rng)
    jobs = [(f"study{i:03d}", list(known)[i % len(known)]) for i in range(arguments.studies)]
    outcomes = [
        outcome
        for name, host in bar(jobs, "following lesions")
        for outcome in try_study(
            make_study(name, host, *known[host], arguments.lesions, rng), model
        )
    ]
    return write(arguments, model, outcomes)


def seen_hosts(model: str, root: str, names: Sequence[str]) -> dict[str, str]:
    """Host -> what the weights know of its patient, or of the template."""
    samples = [*mni152.samples(), *(samples_of(Path(root), MS) if root else [])]
    known = seen_patients(model, samples)
    return {name: known[name.split("/")[-1]] for name in names}


def write(arguments: LesionArguments, model: Model | None, outcomes: list[Outcome]) -> Path:
    """The tables over all hosts and over each, with the wrong classes named."""
    groups = {"all hosts": outcomes}
    if len({o.host for o in outcomes}) > 1:
        groups |= {h: [o for o in outcomes if o.host == h] for h in {o.host: 0 for o in outcomes}}
    found = {
        host: figures(rows, arguments.seed, arguments.resamples, host)
        for host, rows in groups.items()
    }
    lines = []
    for host, rows in found.items():
        lines += [f"## {host}", "", *table(rows), ""]
    for masks in dict.fromkeys(o.masks for o in outcomes):
        lines += [_classes([o for o in outcomes if o.masks == masks], masks), ""]
    every = [f for rows in found.values() for f in rows]
    kept = [dataclasses.asdict(o) for o in outcomes]
    hosts = list(dict.fromkeys(o.host for o in outcomes))
    seen = seen_hosts(arguments.model, arguments.data_root, hosts) if model else {}
    if model is not None:
        lines.append(
            f"The anatomy that these lesions were drawn into is known to {model.name} as follows: "
            + "; ".join(f"{host} {words}" for host, words in seen.items())
            + ". Figures of a host that was seen are no held-out figures of the model; those with "
            "true masks do not depend on it."
        )
    return write_figures(arguments, model, "lesions", every, lines, seen=seen, outcomes=kept)


def _classes(outcomes: list[Outcome], masks: str) -> str:
    """How many fates of each class were told right, and what became of those left out."""
    by_kind: dict[str, list[float]] = {}
    for o in outcomes:
        if o.what == "kind":
            by_kind.setdefault(o.detail, []).append(o.value)
    left = [o.value for o in outcomes if o.what == "left_out"]
    told = "; ".join(f"{k} {sum(v):.0f} of {len(v)}" for k, v in sorted(by_kind.items()))
    return (
        f"Class of change right, {masks}, by true class: {told}. Left out, because a date does not "
        f"show the whole place: {len(left)}; of these {sum(left):.0f} got another class than "
        "`not_comparable`."
    )
