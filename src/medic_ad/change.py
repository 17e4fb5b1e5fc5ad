"""Step 4 for two dates: both on one halfway grid -> change label, signed map and sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medic_ad.align import Alignment, align
from medic_ad.finding import Change, change_label, grows_and_shrinks
from medic_ad.links import Frames
from medic_ad.load import Model
from medic_ad.look import BATCH, Look, compare, look, parted
from medic_ad.model.compare import CompareOutput
from medic_ad.processor import fit_square, grey_window, restore
from medic_ad.study import Study
from medic_ad.words import CHANGE_LABELS

STRONGEST = 0.1  # a volume's label comes from the tenth of its slices that changed most
MINIMUM_FIELD = 0.05  # slices with less of the common field of view are not compared


@dataclass(frozen=True, eq=False)
class Compared:
    """Two dates compared.

    Attributes:
        change: what the change head says of them.
        frames: of prior and current, see `match_lesions`; None when not comparable.
        looks: what a question about the pair needs, baseline first; empty when not comparable.
        output: stage 2's, of the slice that changed most.
    """

    change: Change
    frames: Frames | None
    looks: list[Look]
    output: CompareOutput | None


def compare_studies(
    prior: Study,
    current: Study,
    model: Model,
    refused: str | None = None,
    heatmap: tuple[np.ndarray, float | None] | None = None,
    track: Callable[[range], Iterable[int]] = iter,
    known: Sequence[Look] = (),
) -> Compared:
    """Compare two consecutive dates.

    Both are resampled once onto the halfway grid and each goes through the vision tower on its own,
    so exchanging the dates exchanges the answer to the last bit.

    Args:
        refused: why the dates cannot be compared, where that is known before.
        heatmap: the prior's own and its threshold, carried onto the current grid for display.
        track: wraps the batches of slices, for a progress bar.
        known: looks at either date by itself, as in `compare_slices`.
    """
    dates: dict[str, Any] = {"prior_date": prior.date, "current_date": current.date}

    def not_comparable(reason: str | None, record: dict[str, Any]) -> Compared:
        change = Change("not_comparable", None, None, reason=reason, alignment=record, **dates)
        return Compared(change, None, [], None)

    if refused is not None:
        return not_comparable(refused, {})
    alignment = align(current.image, prior.image)
    record: dict[str, Any] = dict(alignment.quality)
    if record:
        record["transform"] = np.asarray(alignment.transform).tolist()
    if not alignment.ok:
        return not_comparable(alignment.reason, record)
    seen = compare_slices(alignment, model, track, known)
    halfway_map, key = seen.map, seen.strongest
    entries = [model.network.calibration.entry(gate) for gate in seen.gates]
    outside = out_of_scope(
        f"distance {distance:.1f}, limit {limit:.1f}" if distance > limit else None
        for _, distance, limit in entries
    )
    if outside is not None:
        return not_comparable(outside, record)
    scores = change_scores(seen.outputs, model.network.calibration.temperature())
    change = Change(
        label=change_label(scores),
        scores=scores,
        map=alignment.to_current(halfway_map).astype(np.float32).clip(-1, 1),
        alignment=record,
        prior_on_current=alignment.prior_on_current(),
        prior_heatmap=None if heatmap is None else alignment.prior_to_current(heatmap[0]),
        prior_threshold=None if heatmap is None else heatmap[1],
        mixed=grows_and_shrinks(halfway_map),
        **dates,
    )
    frames = alignment.prior_frame, alignment.current_frame
    return Compared(change, frames, [*key[:2]], key[2])


def out_of_scope(reasons: Iterable[str | None]) -> str | None:
    """A sentence for each date of a pair, earlier first, that is out of scope; None for neither."""
    named = zip(("earlier", "later"), reasons, strict=True)
    said = [f"The {date} date is out of scope: {why}." for date, why in named if why is not None]
    return " ".join(said) or None


@dataclass(frozen=True, eq=False)
class ComparedSlices:
    """Stage 2 on the n slices of a halfway grid.

    Attributes:
        outputs: of each slice.
        map: signed, on the halfway grid.
        strongest: looks (baseline first) and output of the slice that changed most.
        gates: `(n, F)` gate features of the prior and of the current study.
    """

    outputs: list[CompareOutput]
    map: np.ndarray
    strongest: tuple[Look, Look, CompareOutput]
    gates: tuple[torch.Tensor, torch.Tensor]


def compare_slices(
    alignment: Alignment,
    model: Model,
    track: Callable[[range], Iterable[int]] = iter,
    known: Sequence[Look] = (),
) -> ComparedSlices:
    """Stage 2 on every slice of the halfway grid.

    Each date is looked at in batches of its own slices: exchanging the dates exchanges whole calls,
    which stay the same to the last bit.

    Args:
        track: wraps the batches of slices, for a progress bar.
        known: looks made before; one at the very pixels of a batch is not made again, as of two
            images that fit as they lie.
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
    gates: tuple[list, list] = ([], [])
    key: Any = None
    share = field.mean((1, 2))
    indexes = np.flatnonzero(share >= min(MINIMUM_FIELD, share.max()))
    for start in track(range(0, len(indexes), BATCH)):
        batch = indexes[start : start + BATCH]
        looks = []
        for (slices, window), gate in zip(volumes, gates, strict=True):
            fitted = [
                fit_square(np.where(field[i], slices[i], np.nan), window, side) for i in batch
            ]
            canvases = torch.stack([canvas for canvas, _ in fitted])
            made = next((k for k in known if torch.equal(k.canvases, canvases)), None)
            seen = made or look(model, canvases)
            gate.append(seen.gate)
            looks.append(parted(seen))
        geometry = fitted[0][1]
        for i, baseline, followup in zip(batch, *looks, strict=True):
            out = compare(model, baseline, followup)
            signed[i] = np.where(field[i], restore(out.map, geometry), np.nan)
            outputs.append(out)
            if key is None or evidence(out) > evidence(key[2]):
                key = (baseline, followup, out)
    return ComparedSlices(
        outputs,
        signed if alignment.current_half.ndim == 3 else signed[0],
        key,
        (torch.cat(gates[0]), torch.cat(gates[1])),
    )


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
