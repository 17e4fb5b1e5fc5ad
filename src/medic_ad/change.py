"""Step 4 for two dates: both on one halfway grid -> change label, signed map and sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medic_ad.align import Alignment, align
from medic_ad.finding import Change, change_label
from medic_ad.load import Model
from medic_ad.look import Look, compare, describe_change, look
from medic_ad.model.compare import CHANGE_LABELS, CompareOutput
from medic_ad.processor import fit_square, grey_window, restore
from medic_ad.study import Study

STRONGEST = 0.1  # a volume's label comes from the tenth of its slices that changed most
MINIMUM_FIELD = 0.05  # slices with less of the common field of view are not compared


def compare_studies(
    study: Study, model: Model, current: Look
) -> tuple[Change, str, list[Look], CompareOutput | None]:
    """Compare a study with its most recent prior.

    Both dates are resampled once onto the halfway grid and each goes through the vision tower on
    its own, so exchanging the dates exchanges the answer to the last bit.

    Args:
        current: look at the current study, for the answer when the dates cannot be compared.

    Returns:
        The change, its generated sentence ("" when not comparable), and what a question about the
        pair needs: its looks (baseline first) and stage 2's output.
    """
    prior = study.priors[-1]
    dates: dict[str, Any] = {"prior_date": prior.date, "current_date": study.date}
    alignment = align(study.image, prior.image)
    record = {**alignment.quality, "transform": np.asarray(alignment.transform).tolist()}
    if not alignment.ok:
        change = Change(
            "not_comparable", None, None, reason=alignment.reason, alignment=record, **dates
        )
        return change, "", [current], None
    outputs, halfway_map, key = compare_slices(alignment, model)
    for when, date in (("prior", key[0]), ("current study", key[1])):
        _, distance, limit = model.network.calibration.entry(date.gate)
        if distance > limit:
            reason = f"The {when} is out of scope: distance {distance:.1f}, limit {limit:.1f}."
            change = Change("not_comparable", None, None, reason=reason, alignment=record, **dates)
            return change, "", [current], None
    scores = change_scores(outputs, model.network.calibration.temperature())
    mask = np.abs(halfway_map) > 0.5
    change = Change(
        label=change_label(scores),
        scores=scores,
        map=alignment.to_current(halfway_map).astype(np.float32).clip(-1, 1),
        alignment=record,
        prior_on_current=alignment.prior_on_current(),
        mixed=bool((halfway_map[mask] > 0).any() and (halfway_map[mask] < 0).any()),
        **dates,
    )
    baseline, followup, output = key
    return change, describe_change(model, baseline, followup, output), [baseline, followup], output


def compare_slices(
    alignment: Alignment, model: Model
) -> tuple[list[CompareOutput], np.ndarray, tuple[Look, Look, CompareOutput]]:
    """Stage 2 on every slice of the halfway grid.

    Returns:
        The outputs, the signed map on the halfway grid, and looks and output of the slice that
        changed most.
    """
    side = model.config.image_size
    volumes = []
    for half in (alignment.prior_half, alignment.current_half):
        window = grey_window(half)
        slices = half if half.ndim == 3 else half[None]
        volumes.append((slices, window))
    field = np.isfinite(volumes[0][0]) & np.isfinite(volumes[1][0])
    signed = np.full(field.shape, np.nan, np.float32)
    outputs: list[CompareOutput] = []
    key: Any = None
    share = field.mean((1, 2))
    for i in np.flatnonzero(share >= min(MINIMUM_FIELD, share.max())):
        fitted = [fit_square(np.where(field[i], s[i], np.nan), w, side) for s, w in volumes]
        baseline, followup = (look(model, canvas[None]) for canvas, _ in fitted)
        out = compare(model, baseline, followup)
        signed[i] = np.where(field[i], restore(out.map, fitted[0][1]), np.nan)
        outputs.append(out)
        if key is None or evidence(out) > evidence(key[2]):
            key = (baseline, followup, out)
    return outputs, signed if alignment.current_half.ndim == 3 else signed[0], key


def evidence(out: CompareOutput) -> float:
    """How far one slice leans to a change either way, whatever the order of the dates."""
    return float(out.logits[0].abs() - out.logits[1])


def change_scores(outputs: list[CompareOutput], temperature: float) -> dict[str, float]:
    """Probabilities of worse, stable and better; exchanging the dates exchanges the outer two.

    For a volume the logits are the mean over the slices with the strongest evidence either way, a
    choice that does not depend on the order of the dates.
    """
    logits = torch.stack([out.logits for out in outputs]).double()  # (slices, 3)
    count = max(1, round(STRONGEST * len(logits)))
    leaning = torch.tensor([evidence(out) for out in outputs])
    chosen = leaning.topk(count).indices.sort().values
    worse, stable, _ = (logits[chosen].mean(0) / temperature).tolist()
    # worse = -better holds exactly, so both probabilities come from one expression
    top = max(abs(worse), stable)
    e_worse, e_stable, e_better = (float(np.exp(x - top)) for x in (worse, stable, -worse))
    total = (e_worse + e_better) + e_stable
    return dict(
        zip(CHANGE_LABELS, (e_worse / total, e_stable / total, e_better / total), strict=True)
    )
