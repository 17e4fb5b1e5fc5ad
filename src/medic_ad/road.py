"""The one road: `read(study, model) -> Report`. CLI, Python, evaluation and servers call this."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import transformers

from medic_ad import __version__
from medic_ad.change import Compared, compare_studies, out_of_scope
from medic_ad.course import Step, StudyCourse, Visit, follow_studies, measure_date
from medic_ad.finding import decide, find
from medic_ad.image import Image, same_body_part, same_modality
from medic_ad.load import Model
from medic_ad.look import Look, describe, describe_change, say, sweep
from medic_ad.model.configuration import MedicADConfig
from medic_ad.processor import grey_window
from medic_ad.report.report import Report
from medic_ad.report.rules import due_warnings
from medic_ad.report.schema import NOTICE
from medic_ad.study import Study
from medic_ad.words import BLANK

LOOKED_SHARE = 0.15  # slices with less foreground than this share of the fullest are not looked at
STUDY_SLICES = 3  # a volume's logit is the mean of its highest three

Track = Callable[[range], Iterable[int]]  # wraps the batches of a volume's slices, for progress


@dataclass(frozen=True)
class Scan:
    """What detect and explain say of one image, before the decision.

    Attributes:
        entry: index of the scope entry, `None` out of scope.
        distance, limit: of the gate.
        score: calibrated probability; of a volume that of its highest slices; NaN out of scope.
        slice_scores: float64 `(D,)`, the calibrated probability of each slice; NaN where not
            looked, or out of scope.
        heatmap: float32 on the image's grid; NaN where not looked, or out of scope.
        key: look at the one slice that the text is about, of the highest calibrated logit; `None`
            out of scope.
        reason: why it is out of scope.
    """

    entry: int | None
    distance: float | None
    limit: float | None
    score: float
    slice_scores: np.ndarray
    heatmap: np.ndarray
    key: Look | None
    reason: str | None = None


def declared_out_of_scope(image: Image, config: MedicADConfig) -> str | None:
    """The reason when what the file or the caller says already lies outside every scope entry."""
    modalities, parts = config.scope_modalities, config.scope_body_parts
    if (
        image.modality
        and modalities
        and not any(same_modality(image.modality, m) for m in modalities)
    ):
        return f"the modality is {image.modality}, the model's scope is {', '.join(modalities)}"
    if image.body_part and parts and not any(same_body_part(image.body_part, p) for p in parts):
        return f"the body part is {image.body_part}, the model's scope is {', '.join(parts)}"
    return None


def looked_slices(slices: np.ndarray, low: float) -> np.ndarray:
    """Indexes of the slices `(D, H, W)` with enough foreground; a single slice always has."""
    if len(slices) == 1:
        return np.array([0])
    area = (slices > low + 0.02 * (np.nanmax(slices) - low)).sum((1, 2))
    return np.flatnonzero(area >= max(1.0, LOOKED_SHARE * area.max()))


def scan(image: Image, model: Model, track: Track = iter) -> Scan:
    """Detect and explain one image: score, scope and heatmap. No text, no decision."""
    calibration = model.network.calibration
    slices, window = image.slices(), grey_window(image.pixels)
    scores = np.full(len(slices), np.nan)

    def unread(reason: str, distance: float | None = None, limit: float | None = None) -> Scan:
        nothing = np.full(image.grid, np.nan, np.float32)
        return Scan(None, distance, limit, float("nan"), scores, nothing, None, reason)

    reason = declared_out_of_scope(image, model.config)
    if reason:
        return unread(reason)
    if window[1] <= window[0]:
        return unread(BLANK)
    indexes = looked_slices(slices, window[0])
    seen = sweep(model, [slices[i] for i in indexes], [window] * len(indexes), track)
    entry, distance, limit = calibration.entry(seen.gate)
    if distance > limit:
        words = f"its distance to the nearest scope entry is {distance:.1f}, the limit {limit:.1f}"
        return unread(words, distance, limit)
    logit = calibration.logit(entry, seen.logits, seen.evidence)
    score = logit.topk(min(STUDY_SLICES, len(logit))).values.mean().sigmoid()
    scores[indexes] = logit.sigmoid().numpy(force=True)
    heatmap = np.full(slices.shape, np.nan, np.float32)
    for index, drawn in zip(indexes, seen.heatmaps, strict=True):
        heatmap[index] = drawn
    heatmap = heatmap if image.is_volume else heatmap[0]
    return Scan(entry, distance, limit, float(score), scores, heatmap, seen.strongest(entry))


def calibrated(model: Model, entry: int | None) -> Callable[[str], float | None]:
    """Look-up of the fitted numbers of a scope entry by name; `None` out of scope."""
    calibration = model.network.calibration
    return lambda name: None if entry is None else float(getattr(calibration, name)[entry])


def read(study: Study, model: Model, question: str | None = None, track: Track = iter) -> Report:
    """Read one study: detect, explain and, with priors, compare and follow its lesions.

    Args:
        study: from `read_study`; `Report.change` compares it with its most recent prior,
            `Report.course` follows all dates.
        model: from `load_model`.
        question: answered by the language model in `Report.answer`.
        track: wraps the batches of slices of each volume, for a progress bar.

    Raises:
        ModelError: the model was never calibrated.
    """
    if question is not None:
        model.processor.check_question(question)
    dates = [*study.priors, study]
    scans = [scan(date.image, model, track) for date in dates]
    result = scans[-1]
    fitted = calibrated(model, result.entry)
    threshold = fitted("heatmap_threshold")
    decision = decision_of(result, model)
    findings = () if threshold is None else find(result.heatmap, threshold, study.image)
    course, last = follow(dates, scans, model, track)
    change = None if last is None else last.change
    text, answer, extra = "", None, []
    if result.key is None:
        extra.append(f"Out of scope: {result.reason}.")
    else:
        text = describe(model, result.key)
        looks, compared = [result.key], None
        if last is not None and last.output is not None:
            looks, compared = last.looks, last.output
            sentence = describe_change(model, looks[0], looks[1], compared)
            text = f"{text} {sentence}".strip()
        answer = None if question is None else say(model, question, looks, compared)
        if study.image.modality is None and result.entry is not None:
            kind = model.config.scope[result.entry]
            extra.append(f"The modality was not given: read as {kind}.")
    if len(study.priors) > 1:
        extra.append(f"Compared with the most recent of {len(study.priors)} priors.")
    entries = {s.entry for s in scans if s.entry is not None}
    if len(entries) > 1:
        names = ", ".join(model.config.scope[e] for e in sorted(entries))
        extra.append(f"The dates were read as different kinds of scan ({names}).")
    warnings = due_warnings(decision, findings, change, text, study, question, answer, course)
    return Report(
        score=result.score,
        slice_scores=result.slice_scores if study.image.is_volume else None,
        decision=decision,
        heatmap=result.heatmap,
        heatmap_threshold=float("nan") if threshold is None else threshold,
        findings=findings,
        change=change,
        course=course,
        text=text,
        answer=answer,
        question=question,
        provenance=provenance(study, model, result),
        study=study,
        warnings=(*warnings, *extra),
    )


def band_of(result: Scan, model: Model) -> tuple[float, float] | None:
    """Ends of the uncertain band of a scan's own scope entry; `None` out of scope."""
    fitted = calibrated(model, result.entry)
    low, high = fitted("band_low"), fitted("band_high")
    return None if low is None or high is None else (low, high)


def decision_of(result: Scan, model: Model) -> str:
    """What a scan's score says, by its band."""
    return decide(result.score, band_of(result, model) or (0.0, 0.0))


def follow(
    dates: Sequence[Study], scans: Sequence[Scan], model: Model, track: Track
) -> tuple[StudyCourse | None, Compared | None]:
    """Compare each two consecutive dates and follow the lesions over all of them.

    Returns:
        The course and the last pair; None where there is one date only.
    """
    last: Compared | None = None
    steps, frames = [], []
    for (before, after), seen in zip(pairwise(dates), pairwise(scans), strict=True):
        outside = out_of_scope(s.reason for s in seen)
        shown = None
        if after is dates[-1]:
            shown = seen[0].heatmap, calibrated(model, seen[0].entry)("heatmap_threshold")
        known = [s.key for s in seen if s.key is not None]
        last = compare_studies(before, after, model, outside, shown, track, known)
        change = last.change
        steps.append(
            Step(
                change.label,
                change.scores,
                change.reason,
                change.mixed,
                alignment=change.alignment,
            )
        )
        frames.append(last.frames)
    if last is None:
        return None, None
    visits = [
        Visit(d.date, s.score, decision_of(s, model), band_of(s, model))
        for d, s in zip(dates, scans, strict=True)
    ]
    lesions = None
    if dates[-1].measurable:
        lesions = [
            measure_date(s.heatmap, calibrated(model, s.entry)("heatmap_threshold"), d.image)
            for d, s in zip(dates, scans, strict=True)
        ]
    return follow_studies(visits, lesions, steps, frames, dates[-1].image.is_volume), last


def provenance(study: Study, model: Model, result: Scan) -> dict:
    """Everything that the numbers of a report depend on."""
    fitted = calibrated(model, result.entry)
    entry = None if result.entry is None else model.config.scope[result.entry]
    inputs = [("current", study), *(("prior", p) for p in study.priors)]
    return {
        "medic_ad": __version__,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "base": model.base,
        "scope_entry": entry,
        "score": {name: fitted(name) for name in ("slope", "heatmap_slope", "offset")},
        "change_temperature": float(model.network.calibration.change_temperature),
        "threshold": fitted("threshold"),
        "uncertain_band": band_of(result, model),
        "heatmap_threshold": fitted("heatmap_threshold"),
        "prevalence": fitted("prevalence"),
        "gate": {
            "distance": result.distance,
            "limit": result.limit,
            "reason": result.reason,
        },
        "device": str(model.device),
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "inputs": [
            {
                "role": role,
                "path": Path(s.image.source.path).name,
                "sha256": s.image.source.sha256,
                "format": s.image.source.format,
                "notes": list(s.image.source.notes),
            }
            for role, s in inputs
        ],
        "licence": model.licence,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "research_use": NOTICE,
    }
