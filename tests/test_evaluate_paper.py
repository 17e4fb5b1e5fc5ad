"""The paper's tables: published rows beside ours; what the model was trained on is left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table_cases
from PIL import Image as Picture
from scipy import ndimage

from medic_ad.data.sample import TableInfo, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import paper
from medic_ad.evaluate.baselines import published
from medic_ad.evaluate.figures.bootstrap import Resampling
from medic_ad.evaluate.folds import folds


def planted(root: Path, name: str, seed: int, split: str = "test", count: int = 60) -> Path:
    """A table of one source; textures of their own, bright discs as lesions."""
    folder, rng = root / name, np.random.default_rng(seed)
    rows = read_samples(table_cases.table(folder, {split: count}, seed))
    for sample in rows:
        noise = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 6)
        grey = 40 + 100 * (noise - noise.min()) / np.ptp(noise)
        grey[[0, -1]] = grey[:, [0, -1]] = 250  # a thin frame: the window is the same in all
        if sample.label:
            grey[table_cases.disc(rng)] = 250
        Picture.fromarray(grey.astype(np.uint8)).save(folder / sample.image)
    rows = [dataclasses.replace(s, source=name, mask=None) for s in rows]
    info = TableInfo(name, "CC0", True, str(folder))
    return write_samples(rows, root / f"{name}.parquet", info)


def told(root: Path, *tables: Path, training: Path, **own: Any) -> dict[str, Any]:
    """The JSON of a run on planted tables by the model that sees the truth."""
    values: dict[str, Any] = dict(
        data=",".join(map(str, tables)), model="seer", training=str(training),
        out=str(root / "out"), resamples=50,
    )  # fmt: skip
    done = paper.main(paper.PaperArguments(**values | own))
    return json.loads((done.parent / "figures.json").read_text())


def cell(found: dict, name: str, of: str, column: str, images: str = paper.ALL) -> dict:
    rows = [c for c in found["cells"] if c["figure"]["name"] == name and c["column"] == column]
    [one] = [c["figure"] for c in rows if c["row"][0] == of and c["row"][2] == images]
    return one


def test_ours_stand_beside_the_published_rows_and_twins_are_left_out(tmp_path, monkeypatch):
    table_cases.plant(monkeypatch)
    head, covid = planted(tmp_path, "head_ct", 1), planted(tmp_path, "covid_ct", 2)
    training = planted(tmp_path, "elsewhere", 3, "train")
    stolen = read_samples(head)[1]
    (tmp_path / "elsewhere/0002.png").write_bytes(
        (tmp_path / "head_ct" / stolen.image).read_bytes()
    )
    found = told(tmp_path, head, covid, training=training)
    assert cell(found, "AUROC", "seer", "Head CT")["value"] == 1
    assert cell(found, "AUROC", "seer", "Head CT")["n"] == 59
    assert cell(found, "F1", "seer", "COVID-19")["n"] == 60
    size = cell(found, "AUROC", paper.SIZES, "COVID-19")
    assert 0.2 < size["value"] < 0.8  # all images are of one size
    text = (tmp_path / "out/paper/figures.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| Medic-AD 7B"))
    assert row.split(" | ")[3:6] == ["93.3", "89.4", "91.3"]  # and the mean of these two
    assert "1 near twins of the training images (elsewhere)" in text
    assert "COVID-19: ours is covid_ct" in text


def test_rows_of_the_folds_stand_in_the_same_tables(tmp_path, monkeypatch):
    table_cases.plant(monkeypatch)
    head, training = planted(tmp_path, "head_ct", 1), planted(tmp_path, "elsewhere", 3, "train")
    sampling = Resampling([f"g{i}" for i in range(60)], "group", "5 folds", resamples=20)
    own = sampling.mean("F1", np.arange(60) < 54, folds.OWN)
    peer = sampling.mean("AUROC", np.arange(60) < 30, folds.PEER)
    other = sampling.mean("AUROC", np.ones(60), "file bytes")
    parts = [{"title": "In-domain", "figures": [dataclasses.asdict(f) for f in (own, peer, other)]}]
    done = tmp_path / "folds/head_ct/folds/figures.json"
    done.parent.mkdir(parents=True)
    provenance: dict[str, Any] = {
        "weights_sha256": "a" * 64,
        "data": {"sha256": hashlib.sha256(head.read_bytes()).hexdigest()},
    }
    done.write_text(json.dumps({"parts": parts, "provenance": provenance}))
    found = told(tmp_path, head, training=training, folds=str(tmp_path / "folds"))
    for images in (paper.ALL, paper.FIRST):  # without a part of its own there are no copies
        assert cell(found, "F1", folds.OWN, "Head CT", images)["value"] == 0.9
        assert cell(found, "AUROC", folds.PEER, "Head CT", images)["value"] == 0.5
    assert "file bytes" not in {c["row"][0] for c in found["cells"]}
    text = (tmp_path / "out/paper/figures.md").read_text()
    assert "| stage 1, fine-tuned | in-domain | all | 90.0 [" in text
    for wrong in ({"weights_sha256": "b" * 64}, {"data": {"sha256": "c" * 64}}):
        done.write_text(json.dumps({"parts": parts, "provenance": provenance | wrong}))
        with pytest.raises(DataError, match="figures of weights a{16} .* [bc]{16}.*again, or"):
            told(tmp_path, head, training=training, folds=str(tmp_path / "folds"))


def test_a_set_that_shares_slices_with_training_gets_no_cross_figure(tmp_path, monkeypatch):
    table_cases.plant(monkeypatch)
    brain, head = planted(tmp_path, "brain_mri_253", 4), planted(tmp_path, "head_ct", 5)
    training = planted(tmp_path, "brain_no_tumour", 6, "train")
    found = told(tmp_path, brain, head, training=training)
    assert {c["column"] for c in found["cells"]} == {"Head CT"}
    assert "trained on brain_no_tumour" in " ".join(found["notes"])
    with pytest.raises(DataError, match="shares nothing with"):
        told(tmp_path, brain, training=training)
    with pytest.raises(DataError, match="medic-ad evaluate folds"):
        told(tmp_path, head, training=training, folds=str(tmp_path / "absent"))


def test_published_averages_are_of_five_sets_and_the_rows_are_whole():
    assert set(published.F1["Medic-AD 7B"]) == {"Brain MRI", "Head CT", "COVID-19", "five"}
    for row in published.F1.values():
        assert set(row) == set(published.F1["GPT-4o"]) and all(40 < v < 100 for v in row.values())


def test_our_average_of_five_stands_where_all_five_do():
    sampling = Resampling([f"g{i}" for i in range(10)], "group", "test", resamples=5)
    shares = [10, 8, 6, 4, 2]
    cells = [
        paper.Cell(("ours", paper.CROSS, paper.ALL), column, figure)
        for column, share in zip(published.FIVE, shares, strict=True)
        for figure in [sampling.mean("F1", np.arange(10) < share, "ours")]
    ]
    for n, five in ((5, "60.0"), (4, "-")):
        row = paper.layout("F1", cells[:n], published.FIVE[:n])[-2]
        assert row.startswith("| ours |") and row.endswith(f" | {five} |")


def test_two_tables_of_one_set_are_refused(tmp_path):
    with pytest.raises(DataError, match="one table of each set in --data, got COVID-19, COVID-19"):
        paper.main(
            paper.PaperArguments("covid_ct.parquet,covid19_radiography.parquet", "nano", "none")
        )
