"""`read` with the dates exchanged: every class of lesion turns into its opposite, counted."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from course_cases import Ball, calibrated, fates, seer, study, turned
from scipy import ndimage

from medic_ad.load import Model
from medic_ad.road import read
from medic_ad.study import Study

# What one lesion about a place (h, w) is on the earlier and on the later date.
FATES: dict[str, tuple[list[Ball], list[Ball]]] = {
    "new": ([], [((0, 0), 4)]),
    "resolved": ([((0, 0), 4)], []),
    "enlarged": ([((0, 0), 3)], [((0, 0), 4.5)]),
    "reduced": ([((0, 0), 4.5)], [((0, 0), 3)]),
    "stable": ([((0, 0), 3.5)], [((0, 0), 3.5)]),
    "merged": ([((0, -4), 2.5), ((0, 4), 2.5)], [((0, -4), 2.5), ((0, 0), 3), ((0, 4), 2.5)]),
    "split": ([((0, -4), 2.5), ((0, 0), 3), ((0, 4), 2.5)], [((0, -4), 2.5), ((0, 4), 2.5)]),
}
PLACES = [(h, w) for h in (20, 32, 44) for w in (16, 32, 48)]
SHAPE, DEPTH = (64, 64), 7


@pytest.fixture(scope="module")
def model() -> Model:
    return calibrated()


@pytest.fixture(autouse=True)
def _sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)


def drawn(seed: int, volume: bool) -> Study:
    """Two dates with a lesion of each class at places of their own; the later one is shifted."""
    rng = np.random.default_rng(seed)
    dates: tuple[list[Ball], list[Ball]] = ([], [])
    for k, place in enumerate(rng.permutation(PLACES)[: len(FATES)]):
        for balls, here in zip(dates, list(FATES.values())[k], strict=True):
            for (h, w), radius in here:
                centre = (int(place[0]) + h, int(place[1]) + w)
                balls.append(((DEPTH, *centre) if volume else centre, radius))
    shape, spacing = ((14, *SHAPE), (2.0, 1.0, 1.0)) if volume else (SHAPE, (1.0, 1.0))
    made = study(dates, shape, spacing)
    way = tuple(int(n) for n in rng.integers(-2, 3, 2))
    moved = np.roll(made.image.pixels, way, (-2, -1))
    return dataclasses.replace(made, image=dataclasses.replace(made.image, pixels=moved))


def on_another_grid(made: Study) -> Study:
    """The later date scanned with thinner slices and larger pixels, on a wider field."""
    old = made.image
    assert old.spacing_mm is not None
    wide = np.pad(old.pixels, ((1, 1), (4, 4), (4, 4)))
    pixels = ndimage.zoom(wide, (1.25, 0.9, 0.9), order=1)
    spacing = tuple(
        s * a / b for s, a, b in zip(old.spacing_mm, wide.shape, pixels.shape, strict=True)
    )
    moved = dataclasses.replace(old, pixels=pixels.astype(np.float32), spacing_mm=spacing)
    return dataclasses.replace(made, image=moved)


def exchanged(made: Study) -> Study:
    """The same files with the dates the other way round."""
    [prior] = made.priors
    earlier = dataclasses.replace(prior, image=made.image)
    return dataclasses.replace(made, image=prior.image, priors=(earlier,))


@pytest.mark.parametrize(("volume", "studies"), [(False, 24), (True, 4)], ids=["slice", "volume"])
def test_every_class_turns_into_its_opposite(model: Model, volume: bool, studies: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(studies):
        made = drawn(seed, volume)
        forth, back = (fates(read(s, model)) for s in (made, exchanged(made)))
        assert forth == turned(back)
        seen += Counter(kind for kind, *_ in forth)
    # of each class as many as were drawn, and so as many exchanges: 168 in slices, 28 in volumes
    assert seen == Counter(dict.fromkeys(FATES, studies))


def test_exchange_holds_for_dates_on_different_grids(model: Model) -> None:
    seen: Counter[str] = Counter()
    for seed in range(3):
        made = on_another_grid(drawn(seed, volume=True))
        assert made.image.grid != made.priors[0].image.grid
        forth, back = (fates(read(s, model)) for s in (made, exchanged(made)))
        assert forth == turned(back)
        seen += Counter(kind for kind, *_ in forth)
    # interpolation takes from small lesions, so a stable one may shrink: the exchange counts
    assert set(seen) >= {*FATES} - {"stable"}, seen
