"""`evaluate compare` on planted pairs: known change must give known figures."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import evaluate_cases as cases
import nibabel
import numpy as np
import pytest
import sklearn.metrics as reference
import table_cases
from PIL import Image as Pillow
from table_cases import figures, stand_in, value
from typer.testing import CliRunner

from medic_ad import cli
from medic_ad.data.sample import Sample, TableInfo, read_info, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import compare
from medic_ad.evaluate.baselines.change import FOLLOW_UP, PRODUCT, SUBTRACTION, maps_of
from medic_ad.evaluate.predictions import pairs, run
from medic_ad.image import Image
from medic_ad.words import CHANGE_LABELS

BRIGHT = 230


def table(root: Path, n: int = 24, train: int = 0) -> Path:
    """Pairs of heads by turns worse, stable and better; from every fourth only a mask is known."""
    rng, samples = np.random.default_rng(0), []
    root.mkdir(parents=True, exist_ok=True)
    for k in range(n + train):
        change = CHANGE_LABELS[k % 3]
        small, large = np.zeros((2, cases.SIDE, cases.SIDE), bool)
        small[40:46, 40:46], large[36:50, 36:50] = True, True
        masks = {"worse": (small, large), "stable": (small, small), "better": (large, small)}
        grey = cases.head(rng)
        for name, lesion in zip(("a", "b"), masks[change], strict=True):
            Pillow.fromarray(np.where(lesion, 250, grey).astype(np.uint8)).save(
                root / f"{k:03d}{name}.png"
            )
        changed = masks[change][0] ^ masks[change][1]
        Pillow.fromarray((changed * 255).astype(np.uint8)).save(root / f"{k:03d}-mask.png")
        unnamed = k % 4 == 3
        samples.append(
            Sample(
                image=f"{k:03d}b.png", prior=f"{k:03d}a.png", group=f"p{k}", source="made",
                split="test" if k < n else "train", change=None if unnamed else change,
                mask=f"{k:03d}-mask.png" if unnamed else None,
            )
        )  # fmt: skip
    return write_samples(samples, root / "p.parquet", TableInfo("p", "CC0", True, str(root)))


class Reader:
    """Stands in for `compare_images`: tells the change by what is bright, or always says one.

    `refuses` are names of files that it cannot compare as the current image.
    """

    def __init__(self, always: str | None = None, refuses: tuple[str, ...] = ()) -> None:
        self.always, self.refuses, self.calls = always, refuses, 0

    def __call__(self, model: Any, current: Image, prior: Image) -> dict[str, np.ndarray]:
        self.calls += 1
        now, before = (x.pixels > BRIGHT for x in (current, prior))
        grown = int(now.sum()) - int(before.sum())
        label = self.always or CHANGE_LABELS[1 - int(np.sign(grown))]
        scores = np.where(np.array(CHANGE_LABELS) == label, 0.8, 0.1)
        if Path(current.source.path).name in self.refuses:
            label, scores = "not_comparable", np.full(3, np.nan)
        return {
            "label": np.array(label),
            "scores": scores,
            "map": now.astype(np.float32) - before,
            "in_scope": np.array(True),
            "prior_on_current": prior.pixels,
        }


def plant(monkeypatch: Any, reader: Reader) -> Reader:
    monkeypatch.setattr(run, "load_model", stand_in)
    monkeypatch.setattr(pairs, "compare_images", reader)
    return reader


def measured(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    arguments = compare.CompareArguments(str(data), "seer", out=str(out), resamples=40, **more)
    assert compare.main(arguments) == out / "compare" / "figures.html"
    return figures(out, "compare")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table(tmp_path_factory.mktemp("pairs"))


def test_a_reader_of_the_truth_is_perfect_in_every_figure(data, tmp_path, monkeypatch):
    plant(monkeypatch, Reader())
    seen = measured(data, tmp_path)
    names = (compare.ACCURACY, "macro F1", "direction F1 (worse, better)", "share found, better")
    for name in names:
        assert value(seen, name, "seer")["value"] == 1, name
    assert value(seen, compare.ACCURACY, "seer")["n"] == 18  # of 24 pairs 6 have only a mask
    assert value(seen, "label inverted", "seer")["value"] == 1
    assert value(seen, "label inverted", "seer")["n"] == 24
    assert value(seen, "scores exchanged to the last bit", "seer")["value"] == 1
    assert value(seen, "change map, pixel AUROC", "seer")["value"] == 1
    assert value(seen, "change map, mean Dice at 0.5", "seer")["value"] == 1
    truth = np.array([s.change for s in read_samples(data) if s.change])
    stable = value(seen, compare.ACCURACY, "always stable")["value"]
    assert stable == pytest.approx(float((truth == "stable").mean())) and 0.2 < stable < 0.5
    # all at 0.8: the probabilities are too low by 0.2
    assert value(seen, "Brier score, three classes", "seer")["value"] == pytest.approx(0.06)
    ece = next(f for p in seen["parts"] for f in p["figures"] if f["name"].startswith("ECE"))
    assert ece["value"] == pytest.approx(0.2)
    page = (tmp_path / "compare" / "figures.html").read_text()
    assert "Confusion matrix, seer" in page and "Change map" in page


def test_one_answer_for_all_is_caught(data, tmp_path, monkeypatch):
    plant(monkeypatch, Reader("worse"))
    seen = measured(data, tmp_path)
    assert value(seen, "label inverted", "seer")["value"] == 0
    assert value(seen, "scores exchanged to the last bit", "seer")["value"] == 0
    with (tmp_path / "compare" / "cases.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["change"]]
    truth, said = [r["change"] for r in rows], [r["said"] for r in rows]
    expected = reference.f1_score(truth, said, labels=CHANGE_LABELS, average="macro")
    assert value(seen, "macro F1", "seer")["value"] == pytest.approx(expected)
    assert seen["beats_baseline"] is False and "at least as good as seer" in seen["verdict"]
    assert 0 < len(seen["worst"]) <= compare.WORST


def test_pairs_that_cannot_be_compared_are_left_out_of_the_exchange(data, tmp_path, monkeypatch):
    """Two pairs in neither order; a third in one order alone, which is a failed exchange."""
    plant(monkeypatch, Reader(refuses=("000b.png", "000a.png", "001b.png", "001a.png", "002b.png")))
    seen = measured(data, tmp_path)
    for name in ("label inverted", "scores exchanged to the last bit"):
        found = value(seen, name, "seer")
        assert found["n"] == 22 and found["value"] == pytest.approx(21 / 22), name
    assert value(seen, "share comparable", "seer")["value"] == pytest.approx(21 / 24)
    assert value(seen, compare.ACCURACY, "seer")["n"] == 18  # there they count as wrong
    text = (tmp_path / "compare" / "figures.md").read_text()
    assert "left out of the exchange: 2 for seer" in text


def test_a_broken_train_split_is_an_error_and_no_reason_to_fit_elsewhere(tmp_path, monkeypatch):
    plant(monkeypatch, Reader())
    data = table(tmp_path / "t", 12, train=24)
    (tmp_path / "t" / "020a.png").unlink()
    with pytest.raises(DataError, match="expected the file .*020a.png"):
        measured(data, tmp_path / "out")


def test_maps_without_a_model_find_what_appeared() -> None:
    rng = np.random.default_rng(0)
    prior = rng.normal(100, 5, (40, 40))
    current, new = 2 * prior + 7, np.zeros((40, 40), bool)
    new[10:20, 10:20] = True
    current[new] += 60
    prior[0] = np.nan  # outside the view of the prior
    maps = maps_of(prior, current, np.ones(new.shape, bool))
    assert set(maps) == {SUBTRACTION, FOLLOW_UP, PRODUCT}
    for values in maps.values():
        assert reference.roc_auc_score(new.ravel(), values.ravel()) > 0.99
    assert (maps[SUBTRACTION][0] == 0).all()


def test_baselines_are_fitted_on_train_where_there_is_one(tmp_path, monkeypatch):
    plant(monkeypatch, Reader())
    seen = measured(table(tmp_path / "t", 12, train=24), tmp_path / "out")
    part = next(p for p in seen["parts"] if p["title"] == "Trivial baselines")
    assert "18 labelled pairs of train" in part["notes"][0]
    # the larger lesion is brighter: mean grey alone tells nearly all of it
    assert value(seen, compare.ACCURACY, "difference of mean grey (tree)")["value"] > 0.8


def test_what_was_compared_is_not_compared_again(data, tmp_path, monkeypatch):
    reader = plant(monkeypatch, Reader())
    first = measured(data, tmp_path)
    assert reader.calls == 48  # both orders of 24 pairs
    assert measured(data, tmp_path)["parts"] == first["parts"] and reader.calls == 48


def test_slices_of_one_pair_of_volumes_are_one_pair(tmp_path, monkeypatch):
    reader = plant(monkeypatch, Reader())
    rng, samples = np.random.default_rng(1), []
    grey = np.stack([cases.head(rng) for _ in range(5)]).astype(np.float32)
    now, mask = grey.copy(), np.zeros(grey.shape, np.uint8)
    mask[2, 40:50, 40:50] = 1
    now[mask > 0] = 250
    now[4, 40:50, 40:50] = 250  # on a slice that the table does not list
    for name, array in (("a", grey), ("b", now), ("m", mask)):
        image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), np.eye(4))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    for d in (1, 2, 3):
        samples.append(
            Sample(image="b.nii.gz", prior="a.nii.gz", mask="m.nii.gz", slice=d, group="p",
                   patient="p", split="test", source="s", modality="MR")
        )  # fmt: skip
    path = tmp_path / "v.parquet"
    data = write_samples(samples, path, TableInfo("v", "CC0", True, str(tmp_path)))
    seen = measured(data, tmp_path / "out")
    assert reader.calls == 2
    found = value(seen, "change map, mean Dice at 0.5", "seer")
    assert found["value"] == 1 and found["n"] == 1 and found["interval"] is None
    assert "3 rows of the split show 1 different pairs." in (
        (tmp_path / "out" / "compare" / "figures.md").read_text()
    )


def test_a_table_without_pairs_is_refused_with_status_2(tmp_path):
    data = table_cases.table(tmp_path, {"test": 4})
    words = ["evaluate", "compare", "--data", str(data), "--model", "nano", "--out"]
    done = CliRunner().invoke(cli.app, [*words, str(tmp_path / "out")])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "expected pairs with a known change" in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_changes_of_one_pair_are_refused(tmp_path):
    data = table(tmp_path, 4)
    rows = read_samples(data)
    write_samples([*rows, dataclasses.replace(rows[0], change="better")], data, read_info(data))
    with pytest.raises(DataError, match="expected one change for .*better and worse"):
        pairs.pairs_of(str(data), "test")
