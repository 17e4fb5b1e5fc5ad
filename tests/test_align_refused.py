"""What alignment refuses and what it does not; a pair never registered has no figures of one."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from head_cases import AFFINE, head
from report_cases import QUALITY, make_image, make_report
from scipy import ndimage

from medic_ad.align import align
from medic_ad.change import compare_studies
from medic_ad.finding import Change
from medic_ad.image import Image, in_memory
from medic_ad.report.labels import alignment_words
from medic_ad.study import Study


def ball(depth: int = 24, **fields: Any) -> Image:
    """A bright ball with a texture of its own."""
    noise = np.random.default_rng(3).normal(size=(depth, 48, 48))
    d, h, w = np.ogrid[:depth, :48, :48]
    inside = (d - depth / 2) ** 2 + (h - 24) ** 2 + (w - 24) ** 2 < 18**2
    pixels = np.where(inside, 5 + ndimage.gaussian_filter(noise, 2) * 20, 0).astype(np.float32)
    return dataclasses.replace(
        make_image(), pixels=pixels, spacing_mm=(1.0, 1.0, 1.0), affine=np.eye(4), **fields
    )


FLAT = dataclasses.replace(ball(), pixels=np.full((24, 48, 48), 7, np.float32))


@pytest.mark.parametrize(
    ("current", "prior", "reason"),
    [
        (ball(depth=2), ball(depth=24), "too thin to register"),
        (ball(), FLAT, "shows no structure"),
        (ball(body_part="BRAIN"), ball(depth=25, body_part="CHEST"), "differ in body part"),
    ],
)
def test_where_nothing_was_estimated_there_are_no_figures(
    current: Image, prior: Image, reason: str
) -> None:
    found = align(current, prior)
    assert not found.ok and reason in str(found.reason) and found.quality == {}
    no_model = cast(Any, None)  # none is asked
    change = compare_studies(Study(prior), Study(current), no_model).change
    assert change.label == "not_comparable" and change.alignment == {}
    assert reason in str(change.reason)


def test_one_image_twice_fits_wholly() -> None:
    assert align(ball(), ball()).quality == {
        "overlap": 1.0,
        "displacement_mm": 0.0,
        "similarity_before": 1.0,
        "similarity": 1.0,
        "ncc_before": 1.0,
        "ncc_after": 1.0,
    }


def test_the_page_calls_no_pair_aligned_that_could_not_be_compared() -> None:
    reason = "the images have too little in common after registration (local correlation 0.12)"
    record = {**QUALITY, "displacement_mm": 0.0, "similarity": 0.12}
    change = Change("not_comparable", None, None, reason=reason, alignment=record)
    prior = Study(make_image())
    report = make_report(study=Study(make_image(), priors=(prior,)), change=change)
    assert alignment_words(report) == [] and "aligned by" not in report.to_html()
    assert reason in report.to_html()


def test_a_date_of_which_the_larger_half_is_blank_is_still_compared() -> None:
    whole = head()
    blank = whole.copy()
    blank[:36] = 0  # of 64 slices
    found = align(*(in_memory(x, AFFINE.astype(float), "MR", "BRAIN") for x in (blank, whole)))
    assert found.ok and found.reason is None
