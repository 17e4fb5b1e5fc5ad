"""Evaluation: `medic-ad evaluate registration`, known rigid motion of real volumes found again."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medic_ad.align import align
from medic_ad.data.acquire import acquire, draw_acquisition
from medic_ad.data.sets import mni152
from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling
from medic_ad.evaluate.output.markdown import table
from medic_ad.evaluate.output.record import write_figures
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.image import Image, in_memory
from medic_ad.option import check_positive, check_seed
from medic_ad.readers import read_image

LIMIT_MM = 1.0
REAL = {  # folder of a data set -> its volumes
    "ms_cross_sectional": "patient*/FLAIR_MNI.nii.gz",
    "ms_longitudinal": "patient*/study?_FLAIR.nii.gz",
}


@dataclass
class RegistrationArguments:
    """Arguments of `medic-ad evaluate registration`."""

    out: str = field(metadata={"help": "folder of registration.json and registration.md"})
    data_root: str = field(
        default="", metadata={"help": "folder that holds the MS data sets; without: MNI152 alone"}
    )
    transforms: int = field(default=10, metadata={"help": "random transforms of each volume"})
    seed: int = field(default=0, metadata={"help": "of transforms, scanners and resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})

    def __post_init__(self) -> None:
        check_positive(self, "transforms", "resamples")
        check_seed(self)


@dataclass(frozen=True)
class Trial:
    """One known transform and what became of it.

    Attributes:
        volume: the unit, a patient or the template.
        turn_deg, way_mm: the transform, `way_mm` at the centre of the volume.
        error_mm: mean over the voxels of the head that both dates see; NaN where refused.
    """

    volume: str
    turn_deg: float
    way_mm: float
    error_mm: float
    similarity: float
    seconds: float
    cpu_seconds: float


def volumes(root: str) -> dict[str, Image]:
    """The template, and the MS volumes where a folder of data is given, by name."""
    paths = {"mni152": Path(mni152.samples()[0].image)}
    for name, pattern in REAL.items() if root else ():
        found = sorted((Path(root) / name).glob(pattern))
        if not found:
            raise DataError(
                f"expected volumes {pattern} in {Path(root) / name}, found none; give the folder "
                "that holds the data sets, or leave --data-root out"
            )
        paths |= {f"{name}/{p.parent.name}/{p.name.split('_')[0]}": p for p in found}
    return {n: read_image(p, modality="MR", body_part="BRAIN") for n, p in paths.items()}


def head_points(image: Image, count: int = 4000) -> np.ndarray:
    """Indices (4, N) of voxels brighter than the mean, evenly drawn from all of them."""
    inside = np.argwhere(image.pixels > image.pixels.mean())
    inside = inside[:: max(1, len(inside) // count)].T
    return np.vstack([inside, np.ones(inside.shape[1])])


def try_one(name: str, volume: Image, rng: np.random.Generator) -> Trial:
    """Move a volume rigidly onto another scanner's grid, and align the two."""
    if volume.affine is None:
        raise DataError(f"expected {name} to say where its voxels lie; give another file")
    how = draw_acquisition(rng, volume.affine, volume.grid)
    seen = acquire(volume.pixels, volume.affine, how, rng)
    current = in_memory(seen, how.affine, "MR", "BRAIN")
    start, cpu = time.perf_counter(), time.process_time()
    found = align(current, volume)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    points = volume.affine @ head_points(volume)
    there = np.linalg.inv(how.affine) @ how.motion @ points
    last = np.array(how.grid)[:, None] - 0.5
    seen = np.all((there[:3] > -0.5) & (there[:3] < last), axis=0)
    away = np.linalg.norm(((found.transform - how.motion) @ points)[:3, seen], axis=0)
    centre = volume.affine @ np.append((np.array(volume.grid) - 1) / 2, 1)
    return Trial(
        volume=name,
        turn_deg=float(np.degrees(np.arccos(min(1.0, (np.trace(how.motion[:3, :3]) - 1) / 2)))),
        way_mm=float(np.linalg.norm((how.motion @ centre - centre)[:3])),
        error_mm=float(away.mean()) if found.ok else float("nan"),
        similarity=found.quality.get("similarity", float("nan")),
        seconds=seconds,
        cpu_seconds=cpu,
    )


def figures(trials: list[Trial], seed: int, resamples: int) -> list[Figure]:
    """Error, share within the limit (a refusal counts as outside) and time."""
    units = [t.volume for t in trials]
    sampling = Resampling(units, "volume", "known rigid transforms", seed, resamples)
    error = np.array([t.error_mm for t in trials])
    within = (np.nan_to_num(error, nan=np.inf) <= LIMIT_MM).astype(float)
    limit = f"share within {LIMIT_MM:g} mm"
    return [
        sampling.mean("mean error, mm", error, "align"),
        sampling.mean(limit, within, "align", ">= 0.95"),
        sampling.mean("share refused", np.isnan(error).astype(float), "align"),
        sampling.mean("seconds a pair", np.array([t.seconds for t in trials]), "align"),
        sampling.mean(
            "processor seconds a pair", np.array([t.cpu_seconds for t in trials]), "align"
        ),
    ]


def identical(images: dict[str, Image]) -> np.ndarray:
    """For each volume, whether aligning it with itself leaves it exactly as it is."""
    kept = []
    for image in bar(list(images.values()), "aligning volumes with themselves"):
        found = align(image, image)
        same = np.array_equal(found.current_half, found.prior_half)
        kept.append(found.ok and same and np.array_equal(found.transform, np.eye(4)))
    return np.array(kept, float)


def main(arguments: RegistrationArguments) -> Path:
    """Measure, and write registration.json and registration.md."""
    images = volumes(arguments.data_root)
    rng = np.random.default_rng(arguments.seed)
    jobs = [(name, image) for name, image in images.items() for _ in range(arguments.transforms)]
    trials = [try_one(name, image, rng) for name, image in bar(jobs, "aligning")]
    found = figures(trials, arguments.seed, arguments.resamples)
    unit = Resampling(list(images), "volume", "known rigid transforms", arguments.seed)
    found.append(unit.mean("identical volumes unchanged", identical(images), "align", "1"))
    kept = [dataclasses.asdict(t) for t in trials]
    return write_figures(arguments, None, "registration", found, table(found), trials=kept)
