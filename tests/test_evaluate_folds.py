"""Folds: nothing is scored by weights that saw its group, and what is finished is kept."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table_cases
import tiny
import torch
from PIL import Image as Picture
from safetensors.torch import load_file
from scipy import ndimage
from table_cases import figures, value

from medic_ad.data.sample import Sample, read_info, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.folds import folds, refit
from medic_ad.evaluate.material import copies


def arguments(root: Path, **own: Any) -> refit.FoldsArguments:
    """A dry run: an untrained tiny model, three folds, a few steps each."""
    model = root / "model"
    if not model.is_dir():
        tiny.network(shaken=False).save_pretrained(model)
        tiny.processor().save_pretrained(model)
    values: dict[str, Any] = dict(
        data=str(root / "mine.parquet"), model=str(model), out=str(root / "out"), folds=3, epochs=1,
        resnet_steps=40, resamples=50, workers=0, bf16=False, cache=str(root / "cache"),
    )  # fmt: skip
    return refit.FoldsArguments(**values | own)


def test_whole_groups_take_turns_as_test_images_and_labels_are_spread() -> None:
    samples = [
        Sample(
            image=f"{i}.png", group=f"g{i // 3}", split="test", source="s", label=float(i // 3 % 2)
        )
        for i in range(90)
    ]
    fold = refit.draw_folds(samples, 5, seed=0)
    groups = np.array([s.group for s in samples])
    assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    labels = np.array([s.label for s in samples])
    assert all(0.3 < labels[fold == k].mean() < 0.7 for k in range(5))
    tested = np.zeros(90, int)
    for k in range(5):
        home = refit.homes(fold, k)
        assert {h: len(set(fold[home == h])) for h in set(home)} == {
            "test": 1,
            "val": 1,
            "train": 3,
        }
        tested += home == "test"
    assert (tested == 1).all()
    assert (refit.draw_folds(samples, 5, seed=1) != fold).any()
    with pytest.raises(
        DataError, match="at least 5 groups with abnormal images for 5 folds, got 1"
    ):
        refit.draw_folds([s for s in samples if s.label == 0 or s.group == "g1"], 5, seed=0)


def test_folds_are_trained_judged_and_resumed(tmp_path, monkeypatch) -> None:
    data = table_cases.table(tmp_path, {"train": 40, "test": 32}, per_group=2)
    seen: list[set[str]] = []
    make = refit.refit

    def watched(samples: Any, home: Any, *rest: Any) -> Any:
        groups = np.array([s.group for s in samples])
        assert not set(groups[home == "test"]) & set(groups[home != "test"])
        assert all(s.mask is None for s in samples)
        seen.append(set(groups[home == "test"]))
        return make(samples, home, *rest)

    monkeypatch.setattr(folds, "refit", watched)
    run = arguments(tmp_path)
    folds.main(run)
    assert len(seen) == 3 and len(set.union(*seen)) == sum(map(len, seen)) == 36
    found = figures(tmp_path / "out", "folds")
    peer = value(found, "AUROC", folds.PEER)
    assert peer["value"] > 0.9 and peer["n"] == 72 and peer["units"] == 36
    own = value(found, "AUROC", folds.OWN)["value"]
    difference = value(found, "AUROC", f"{folds.OWN} - {folds.PEER}")
    assert difference["value"] == pytest.approx(own - peer["value"])
    assert value(found, "AUROC", "image-free")["value"] == 0.5
    assert {
        "image size (forest)",
        "file bytes",
        "mean grey",
        "mean and spread of grey (forest)",
    } <= {f["of"] for part in found["parts"] for f in part["figures"]}
    assert "ResNet from scratch is at least as good as stage 1, fine-tuned" in found["verdict"]
    with (tmp_path / "out/folds/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72 and {r["fold"] for r in rows} == {"0", "1", "2"}
    folds.main(dataclasses.replace(run, resamples=60))
    assert len(seen) == 3  # predictions of all rounds were kept
    assert "Worst cases" not in (tmp_path / "out/folds/figures.html").read_text()
    assert read_samples(data)[1].mask is not None  # the table itself stays as it was


@pytest.mark.parametrize("tower", [False, True])
def test_a_round_trains_as_asked(tmp_path, tower) -> None:
    """Labels alone, epochs of the training part, and the tower only where that is asked for."""
    data = table_cases.table(tmp_path, {"train": 30})
    run = arguments(tmp_path, data=str(data), epochs=3, resnet_steps=2, tower=tower)
    samples, _ = copies.everything(str(data))
    home = np.array(["train"] * 18 + ["val"] * 6 + ["test"] * 6)
    refit.refit(samples, home, run, tmp_path / "round")
    own = tmp_path / "round/detect"
    record = json.loads((own / "detect.run.json").read_text())
    assert record["arguments"]["batch"] == 16 and record["steps"] == 4  # 3 x 18 / 16, rounded up
    assert record["arguments"]["pixel_weight"] == 0
    before, after = (
        load_file(next(folder.glob("*.safetensors"))) for folder in (tmp_path / "model", own)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("visual.blocks.") for name in moved) == tower, sorted(moved)[:5]
    assert any("detector" in name for name in moved)


def test_copies_count_once_and_twins_of_training_are_found(tmp_path) -> None:
    data, rng = table_cases.table(tmp_path, {"test": 12}), np.random.default_rng(0)
    for sample in read_samples(data):  # heads are too alike at a glance
        noise = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 6)
        grey = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
        Picture.fromarray(grey).save(tmp_path / sample.image)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0003.png").read_bytes())
    rows = read_samples(data)
    again = dataclasses.replace(rows[2], image="copy.png")
    write_samples([*rows, again], data, read_info(data))
    samples, _ = copies.everything(str(data))
    first, twin = copies.one_of_each(samples, samples[4:6], tmp_path / "prints")
    assert list(np.flatnonzero(~first)) == [12]
    assert list(np.flatnonzero(twin)) == [4, 5]
    assert copies.shared_sources("brain_mri_253", ["brain_no_tumour", "mni152"]) == [
        "brain_no_tumour"
    ]
    assert copies.shared_sources("head_ct", ["brain_tumour_cheng"]) == []
    assert copies.shared_sources("head_ct", ["head_ct"]) == ["head_ct"]


def test_too_few_folds_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="--folds of 3 or more"):
        arguments(tmp_path, folds=2)
