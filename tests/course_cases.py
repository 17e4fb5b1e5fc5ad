"""Studies of several dates with planted lesions, and a tiny model that sees what is bright."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

import evaluate_cases
import numpy as np
import pytest
import tiny
import torch
from scipy import ndimage

from medic_ad import change, look, road
from medic_ad.course import Course, StudyCourse
from medic_ad.image import Image, Source
from medic_ad.lesions import EXCHANGED
from medic_ad.load import Model
from medic_ad.model.calibration import Calibration
from medic_ad.report.report import Report
from medic_ad.report.schema import validate
from medic_ad.study import Study

SIDE = tiny.SIDE
BRIGHT = 0.9  # of the window: only a planted lesion is
DAYS = tuple(datetime.date(year, 1, 1) for year in (2021, 2022, 2024))
Ball = tuple[tuple[int, ...], float]  # centre and radius, pixels
Fate = tuple[str, tuple[float, float], int, int, int]


def calibrated() -> Model:
    """Tiny and untrained, everything in scope, heatmap threshold 0.5."""
    network = tiny.network(scope=["brain MR T1-CE"]).requires_grad_(False)
    planted, features = evaluate_cases.calibration(), network.config.vision_config.hidden_size
    network.calibration = Calibration(1, 2 * features)
    for name, buffer in network.calibration.named_buffers():
        buffer.fill_(float(getattr(planted, name).flatten()[0]))
    network.calibration.gate_precision.copy_(torch.eye(2 * features)[None])
    network.calibration.gate_limit.fill_(1e6)
    network.calibration.heatmap_threshold.fill_(0.5)
    return Model("tiny", network, tiny.processor(), "1" * 64)


def seer(patch: pytest.MonkeyPatch) -> None:
    """Make every look see what is bright, on top of what the network really computes."""
    real = look.look

    def sees(model: Any, canvases: torch.Tensor) -> look.Look:
        return dataclasses.replace(
            real(model, canvases), heatmaps=(canvases > BRIGHT).float() * 0.98 + 0.01
        )

    for module in (look, change):
        patch.setattr(module, "look", sees)
    for module in (road, change):  # else it would depend on how much of a date is lesion
        patch.setattr(module, "grey_window", lambda pixels: (0.0, float(np.ptp(pixels) and 100)))


def tissue(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A textured ellipsoid between 0.3 and 0.7; slices differ."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    axes = [np.linspace(-1.1, 1.1, n) for n in shape]
    if len(shape) == 3:
        axes[0] = axes[0] * 0.5
    inside = sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) < 1
    return np.where(inside, np.clip(0.5 + 0.1 * texture / texture.std(), 0.3, 0.7), 0.0)


def mask(shape: tuple[int, ...], balls: Sequence[Ball]) -> np.ndarray:
    out = np.zeros(shape, bool)
    for centre, radius in balls:
        squares = [(g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)]
        out |= sum(squares) <= radius**2
    return out


def image(balls: Sequence[Ball], shape: tuple[int, ...], spacing: Any, name: str) -> Image:
    grey = np.where(mask(shape, balls), 1.0, tissue(shape)).astype(np.float32) * 100
    source = Source(path=f"{name}.nii", sha256=(name[-1] * 64), format="NIfTI", patient_id="P1")
    return Image(grey, spacing_mm=spacing, modality="MR", body_part="BRAIN", source=source)


def study(
    dates: Sequence[Sequence[Ball]],
    shape: tuple[int, ...] = (SIDE, SIDE),
    spacing: Any = (1.0, 1.0),
    days: Sequence[datetime.date | None] = DAYS,
) -> Study:
    """One study with priors, oldest first; `days` are taken from the first on."""
    made = [
        Study(image(balls, shape, spacing, f"d{i}"), patient_id="P1", date=day)
        for i, (balls, day) in enumerate(zip(dates, days, strict=False))
    ]
    return dataclasses.replace(made[-1], priors=tuple(made[:-1]))


def course_of(report: Report) -> StudyCourse:
    """The course of a report whose JSON keeps to the schema."""
    validate(json.loads(report.to_json()))
    assert report.course is not None
    return report.course


def followed(course: StudyCourse | None) -> Course:
    """The lesions of a course whose dates all have a spacing."""
    assert course is not None and course.lesions is not None
    return course.lesions


def fates(report: Report) -> list[Fate]:
    """Of the first two dates, sorted: class, ml on both, growth, lesions before and after."""
    return sorted(
        (c.kind, c.volumes_ml, c.grown, len(c.before), len(c.after))
        for c in followed(report.course).changes[0]
    )


def turned(found: list[Fate]) -> list[Fate]:
    """The fates of the same lesions with the dates exchanged."""
    return sorted((EXCHANGED[k], v[::-1], -g, b, a) for k, v, g, a, b in found)
