"""Step 5, fitted on validation only: Platt scaling, thresholds, uncertain band, gate, temperature.

Each scope entry (a sequence of the training table) gets numbers of its own; they are buffers of
the weights and NaN until this ran.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.optimize import minimize_scalar
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.load import Model, load_checkpoint, save_checkpoint
from medic_ad.look import BATCH, compare, look
from medic_ad.model.calibration import FITTED, Calibration
from medic_ad.models import checkpoint_folder
from medic_ad.option import check_seed
from medic_ad.train.draw import Slices, pair_batch, scan_batch
from medic_ad.train.render import render
from medic_ad.train.run import copy_records, patients, split
from medic_ad.words import CHANGE_LABELS

PREVALENCE = 0.5  # shams and lesions against their inpainted twins: half of the images abnormal
ERROR_RATE = 0.1  # of each class, outside the uncertain band
GATE_QUANTILE = 0.99  # share of an entry's held-out slices that the gate lets pass
GATE_DRAWS = 600  # augmented slices per entry, so that the gate allows usual light and pose
FALSE_AREA = 0.01  # of lesion-free images, that the heatmap's threshold may draw on average
NEIGHBOURS = 10  # slices in a row that fall into the same half; fewer where there are few
HEATMAP_GRID = np.linspace(0.05, 0.95, 19)


@dataclass
class CalibrateArguments:
    """Arguments of `medic-ad calibrate`."""

    data: str = field(metadata={"help": "Parquet file of samples, from `medic-ad data prepare`"})
    model: str = field(metadata={"help": "folder of the trained weights, or owner/model"})
    out: str = field(metadata={"help": "folder that the calibrated weights are written to"})
    scope: str = field(
        default="",
        metadata={"help": "entries are named SCOPE SEQUENCE; body part and modality when empty"},
    )
    pairs: int = field(
        default=240, metadata={"help": "validation pairs for the change temperature"}
    )
    seed: int = field(default=0, metadata={"help": "of drawn pairs and augmented slices"})
    cache: str = field(default="build/cache", metadata={"help": "folder of rendered slices"})
    exclude: str = field(default="", metadata={"help": "comma-separated patients to leave out"})

    def __post_init__(self) -> None:
        check_seed(self)


def platt(features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Slopes and offset of Platt scaling (Platt 1999), classes weighted to `PREVALENCE`.

    More evidence never lowers a score: a feature whose slope would be negative is left out. In few
    slices noise can turn one round.

    Args:
        features: `(n, 2)` stage 1's logit and the heatmap's evidence.
        labels: `(n,)` 1 abnormal, 0 normal.
    """
    weight = np.where(
        labels == 1, PREVALENCE / labels.mean(), (1 - PREVALENCE) / (1 - labels.mean())
    )
    kept, slopes = [0, 1], np.zeros(2)
    while kept:
        fit = LogisticRegression(C=1e3).fit(features[:, kept], labels, sample_weight=weight)
        if (fit.coef_[0] >= 0).all():
            slopes[kept] = fit.coef_[0]
            return float(slopes[0]), float(slopes[1]), float(fit.intercept_[0])
        del kept[int(fit.coef_[0].argmin())]
    return 0.0, 0.0, float(np.log(PREVALENCE / (1 - PREVALENCE)))


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold of highest F1, halfway between neighbouring scores."""
    values = np.unique(scores)
    candidates = (values[:-1] + values[1:]) / 2 if len(values) > 1 else values
    return float(max(candidates, key=lambda t: f1_score(labels, scores >= t)))


def conformal_band(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float]:
    """Class-conditional split-conformal band around the threshold (Vovk 2013, Mondrian).

    At most `ERROR_RATE` of abnormal images (exchangeable with these) score below the band, and at
    most as many normal ones above it.
    """

    def quantile(values: np.ndarray) -> float:
        rank = int(np.floor(ERROR_RATE * (len(values) + 1)))
        return float(np.sort(values)[rank - 1]) if rank else float("-inf")

    low = quantile(scores[labels == 1])
    high = -quantile(-scores[labels == 0])
    return max(0.0, min(low, threshold)), min(1.0, max(high, threshold))


def heatmap_threshold(heatmaps: np.ndarray, masks: np.ndarray) -> float:
    """The one threshold of highest mean Dice over lesion slices: `(n, S, S)` each.

    Of those that draw at most `FALSE_AREA` of the lesion-free slices among them; where none draws
    so little, the one that draws least.
    """
    lesion = masks.any((1, 2))

    def false_area(t: float) -> float:
        return float((heatmaps[~lesion] >= t).mean()) if not lesion.all() else 0.0

    def dice(t: float) -> float:
        found, true = heatmaps[lesion] >= t, masks[lesion]
        overlap = 2 * (found & true).sum((1, 2))
        return float((overlap / np.maximum(1, found.sum((1, 2)) + true.sum((1, 2)))).mean())

    allowed = [t for t in HEATMAP_GRID if false_area(t) <= FALSE_AREA]
    return float(max(allowed, key=dice)) if allowed else float(HEATMAP_GRID[-1])


@dataclass(frozen=True)
class Validation:
    """Images that one scope entry is fitted to.

    Attributes:
        images: `(n, S, S)` in [0, 1].
        masks: `(n, S, S)` bool.
        labels: `(n,)` 1 abnormal, 0 normal.
        second: `(n,)` bool, the half that the band is fitted to; neighbouring slices stay together.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    second: np.ndarray


def validation(slices: Slices, host: Slices, seed: int) -> Validation:
    """Lesions, shams and inpainted twins.

    Where an entry has no lesion of its own, lesions of `slices` are transplanted into `host`, and
    healthy tissue likewise.
    """
    r = host.rendered
    if len(host.lesions):
        i, free = host.lesions, np.setdiff1d(host.usable, host.lesions)
        images = np.concatenate([r.image[i], r.sham[i], r.clean[i], r.image[free]]) / 255
        masks = np.concatenate(
            [r.mask[i], r.mask[i], *(np.zeros_like(r.mask[k]) for k in (i, free))]
        )
        index = np.concatenate([i, i, i, free])
    else:
        rng = np.random.default_rng(seed)
        pasted = [
            slices.transplanted(r.image[k], rng, healthy=healthy)
            for healthy in (False, True)
            for k in host.usable
        ]
        images = np.concatenate([np.stack([p[0] for p in pasted]), r.image[host.usable] / 255])
        masks = np.concatenate([np.stack([p[1] for p in pasted]), r.mask[host.usable]])
        index = np.tile(host.usable, 3)
    labels = masks.any((1, 2)).astype(int)
    block = max(1, min(NEIGHBOURS, len(r) // 4))
    return Validation(images.astype(np.float32), masks, labels, index // block % 2 == 1)


def look_at(model: Model, images: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and evidence `(n, 2)`, and heatmaps `(n, S, S)`, of canvases."""
    parts = [
        look(model, torch.from_numpy(images[k : k + BATCH]))
        for k in track(range(0, len(images), BATCH), f"calibrating {what}")
    ]
    return (
        torch.cat([torch.stack([p.logits, p.evidence], 1) for p in parts]).cpu().numpy(),
        torch.cat([p.heatmaps for p in parts]).cpu().numpy(),
    )


@torch.inference_mode()
def gate_features(model: Model, canvases: torch.Tensor) -> np.ndarray:
    """Gate features `(n, F)` of canvases `(n, S, S)`."""
    parts = [
        model.network.encode(**model.processor.images(part, model.config)).gate_features()
        for part in canvases.split(BATCH)
    ]
    return torch.cat(parts).float().cpu().numpy()


def gate_draws(slices: Slices, seed: int) -> torch.Tensor:
    """Augmented slices `(GATE_DRAWS, S, S)` that the gate is fitted to."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return scan_batch([slices.scan(rng) for _ in range(GATE_DRAWS)], generator)["image"]


def gate(features: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, precision and limit of the Mahalanobis gate; the limit is a held-out quantile."""
    fit = LedoitWolf().fit(features)
    distance = np.sqrt(fit.mahalanobis(held_out))
    return fit.location_, fit.precision_, float(np.quantile(distance, GATE_QUANTILE))


def change_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least negative log likelihood; no class bias, so exchange stays exact."""

    def nll(log_t: float) -> float:
        z = logits / np.exp(log_t)
        z = z - z.max(1, keepdims=True)
        return float(-(z[np.arange(len(z)), labels] - np.log(np.exp(z).sum(1))).mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x))


def scope_of(samples: list[Sample]) -> str:
    """What all samples show, such as "brain MR": the name that their entries start with.

    Raises:
        DataError: they differ, or do not say it.
    """
    unknown = "unknown"
    kinds = {((s.body_part or unknown).lower(), s.modality or unknown) for s in samples}
    said = sorted(" ".join(kind) for kind in kinds)
    if len(kinds) != 1 or unknown in next(iter(kinds)):
        raise DataError(
            f"expected one body part and one modality in the table, got {', '.join(said[:4])}; "
            "correct its columns body_part and modality, or name the scope with --scope"
        )
    return said[0]


def main(arguments: CalibrateArguments) -> Path:
    """Fit every number on the validation split and write the weights with it."""
    folder = checkpoint_folder(arguments.model)
    network, processor = load_checkpoint(folder)
    network.eval()
    side, cache = network.config.image_size, Path(arguments.cache)
    train = split(arguments.data, "train", arguments.exclude)
    val = split(arguments.data, "val", arguments.exclude)
    entries = sorted({s.sequence for s in train if s.sequence})
    if not entries:
        raise DataError(
            "expected samples that name their sequence, found none; fill the column sequence"
        )
    scope = arguments.scope or scope_of([s for s in train if s.sequence])
    network.config.scope = [f"{scope} {name}" for name in entries]
    network.config.scope_modalities = sorted({s.modality for s in train if s.modality})
    network.config.scope_body_parts = sorted({s.body_part for s in train if s.body_part})
    network.calibration = Calibration(len(entries), 2 * network.config.vision_config.hidden_size)
    model = Model(arguments.model, network, processor, "")
    lesions = Slices(render(val, side, cache))
    if not len(lesions.lesions):
        raise DataError(
            "expected validation slices with a lesion mask, found none; give split val some"
        )
    report: dict = {}
    for index, name in enumerate(entries):
        fit = _entry(model, name, train, val, lesions, arguments)
        gate_mean, gate_precision = fit.pop("gate_mean"), fit.pop("gate_precision")
        network.calibration.gate_mean[index] = torch.from_numpy(gate_mean)
        network.calibration.gate_precision[index] = torch.from_numpy(gate_precision)
        report[name] = fit
        for key in FITTED:
            getattr(network.calibration, key)[index] = fit[key]
    report["change_temperature"] = _fit_change(model, lesions, arguments)
    network.calibration.change_temperature.fill_(report["change_temperature"])
    out = Path(arguments.out)
    save_checkpoint(network, processor, out)
    # an entry without a validation patient is fitted on its training slices
    known = [
        s for s in (*train, *val) if report.get(str(s.sequence), {}).get("fitted_on") == s.split
    ]
    record = {
        "arguments": dataclasses.asdict(arguments),
        "patients": patients(known),
        "fitted": report,
    }
    (out / "calibrate.run.json").write_text(json.dumps(record, indent=1))
    copy_records(folder, out, but="calibrate")
    return out


def _entry(
    model: Model,
    name: str,
    train: list[Sample],
    val: list[Sample],
    lesions: Slices,
    arguments: CalibrateArguments,
) -> dict:
    """Everything of one scope entry."""
    side, cache = model.config.image_size, Path(arguments.cache)
    held_out = [s for s in val if s.sequence == name]
    own = [s for s in train if s.sequence == name]
    # a sequence without a validation patient is fitted on its training slices, and says so
    host = Slices(render(held_out or own, side, cache, seed=1))
    seen = validation(lesions, host, arguments.seed)
    features, heatmaps = look_at(model, seen.images, name)
    first, labels = ~seen.second, seen.labels
    slope, heatmap_slope, offset = platt(features[first], labels[first])
    scores = 1 / (1 + np.exp(-(features @ [slope, heatmap_slope] + offset)))
    threshold = best_threshold(scores[first], labels[first])
    low, high = conformal_band(scores[seen.second], labels[seen.second], threshold)
    known = gate_features(model, gate_draws(Slices(render(own, side, cache)), arguments.seed))
    plain = torch.from_numpy(host.rendered.image.astype(np.float32) / 255)
    mean, precision, limit = gate(known, gate_features(model, plain))
    return {
        "slope": slope,
        "heatmap_slope": heatmap_slope,
        "offset": offset,
        "threshold": threshold,
        "band_low": low,
        "band_high": high,
        "heatmap_threshold": heatmap_threshold(heatmaps, seen.masks),
        "prevalence": PREVALENCE,
        "gate_limit": limit,
        "gate_mean": mean,
        "gate_precision": precision,
        "n": len(labels),
        "abnormal": int(labels.sum()),
        "fitted_on": "val" if held_out else "train",
    }


def _fit_change(model: Model, slices: Slices, arguments: CalibrateArguments) -> float:
    rng, generator = (
        np.random.default_rng(arguments.seed),
        torch.Generator().manual_seed(arguments.seed),
    )
    batch = pair_batch([slices.pair(rng) for _ in range(arguments.pairs)], generator)
    logits = []
    for first, second in track(
        zip(batch["image"], batch["followup"], strict=True),
        "calibrating change",
        total=arguments.pairs,
    ):
        logits.append(compare(model, look(model, first[None]), look(model, second[None])).logits)
    labels = np.array([CHANGE_LABELS.index(c) for c in batch["change"]])
    return change_temperature(torch.stack(logits).double().cpu().numpy(), labels)
