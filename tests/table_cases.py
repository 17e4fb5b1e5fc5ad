"""Planted tables for `medic-ad evaluate detect` and `localise`, and stand-in models to measure."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate_cases as cases
import nibabel
import numpy as np
import torch
from PIL import Image as Pillow

from medic_ad import look
from medic_ad.data.sample import Sample, TableInfo, write_samples
from medic_ad.evaluate.predictions import run


def disc(rng: np.random.Generator) -> np.ndarray:
    """A mask `(SIDE, SIDE)` bool inside the head."""
    cy, cx = (rng.uniform(0.35, 0.65, 2) * cases.SIDE).round()
    y, x = np.mgrid[0 : cases.SIDE, 0 : cases.SIDE]
    return (y - cy) ** 2 + (x - cx) ** 2 <= rng.uniform(5, 9) ** 2


def table(
    root: Path,
    counts: dict[str, int],
    seed: int = 0,
    per_group: int = 1,
    wide: bool = False,
    sources: int = 1,
) -> Path:
    """Normal and abnormal heads by turns, bright discs as lesions.

    Args:
        counts: images of each split.
        per_group: how many images in a row share a group.
        wide: abnormal images are wider, so that the size gives the label away.
        sources: how many sources take turns.
    """
    rng, samples, number = np.random.default_rng(seed), [], 0
    root.mkdir(parents=True, exist_ok=True)
    for name, count in counts.items():
        for k in range(count):
            label, number = k % 2, number + 1
            grey, mask = cases.head(rng), None
            if label:
                lesion, mask = disc(rng), f"{number:04d}-mask.png"
                grey[lesion] = 250
                margin = ((0, 0), (0, 8 if wide else 0))
                grey, lesion = np.pad(grey, margin), np.pad(lesion, margin)
                Pillow.fromarray((lesion * 255).astype(np.uint8)).save(root / mask)
            Pillow.fromarray(grey).save(root / f"{number:04d}.png")
            samples.append(
                Sample(
                    image=f"{number:04d}.png", group=f"{name}{k // per_group}", split=name,
                    source=f"source{k // 2 % sources}", label=float(label), mask=mask,
                )
            )  # fmt: skip
    path = root / "mine.parquet"
    return write_samples(samples, path, TableInfo("mine", "CC0", True, str(root)))


def volumes(root: Path, count: int = 2, depth: int = 5) -> Path:
    """Volumes as NIfTI with a lesion in two slices each, one sample a slice."""
    rng, samples = np.random.default_rng(1), []
    for v in range(count):
        grey = np.stack([cases.head(rng) for _ in range(depth)]).astype(np.float32)
        mask = np.zeros(grey.shape, np.uint8)
        for d in (1, 3):
            mask[d] = disc(rng)
        grey[mask > 0] = 250
        for kind, array in (("", grey), ("-mask", mask)):
            image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), np.eye(4))
            nibabel.save(image, root / f"v{v}{kind}.nii.gz")
        samples += [
            Sample(
                image=f"v{v}.nii.gz", mask=f"v{v}-mask.nii.gz", slice=d, group=f"p{v}",
                patient=f"p{v}", split="test", source="scans", modality="MR",
                label=float(mask[d].any()),
            )
            for d in range(depth)
        ]  # fmt: skip
    return write_samples(samples, root / "v.parquet", TableInfo("v", "CC0", True, str(root)))


def stand_in(name: str) -> Any:
    """A model whose name says what it sees; calibrated, everything in scope."""
    digit = {"seer": "a", "noise": "b"}.get(name, "c")
    return SimpleNamespace(
        network=SimpleNamespace(calibration=cases.calibration()),
        config=SimpleNamespace(
            image_size=cases.SIDE, scope=["brain MR T1-CE"], scope_modalities=[],
            scope_body_parts=[],
        ),
        weights_sha256=digit * 64, name=name, device=torch.device("cpu"),
    )  # fmt: skip


def plant(monkeypatch: Any) -> dict[str, cases.Seer]:
    """Models "seer" and "noise" for every command; what each of them has looked at."""
    seers = {"seer": cases.Seer(True), "noise": cases.Seer(False, seed=3)}
    monkeypatch.setattr(run, "load_model", stand_in)
    monkeypatch.setattr(look, "look", lambda model, canvases: seers[model.name](model, canvases))
    return seers


def figures(out: Path, stage: str) -> dict[str, Any]:
    """`figures.json`, refused where it is not strict JSON."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads((out / stage / "figures.json").read_text(), parse_constant=refuse)


def value(found: dict[str, Any], name: str, of: str) -> dict[str, Any]:
    """The one figure of that name."""
    rows = [f for part in found["parts"] for f in part["figures"]]
    return next(f for f in rows if (f["name"], f["of"]) == (name, of))
