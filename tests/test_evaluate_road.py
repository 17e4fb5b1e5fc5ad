"""The card's predictions are the road's, on a tiny model; and what else its parts are made of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import evaluate_cases as cases
import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Pillow

from medic_ad import words
from medic_ad.align import align
from medic_ad.data.prepare import prepare
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError, ModelError
from medic_ad.evaluate import unet
from medic_ad.evaluate.baselines.change import FOLLOW_UP, SUBTRACTION, maps_of
from medic_ad.evaluate.card import flair, longitudinal, sanity
from medic_ad.evaluate.card.compare import compare_all, read_both_ways
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.figures.metrics import PixelCounts
from medic_ad.evaluate.figures.regions import FreeResponse
from medic_ad.evaluate.material.made_pairs import Pairs
from medic_ad.evaluate.output import markdown
from medic_ad.evaluate.output.record import without_nan
from medic_ad.evaluate.parts import agreement, outside
from medic_ad.evaluate.predictions.store import Part, Store
from medic_ad.evaluate.predictions.sweep import as_image, predict
from medic_ad.evaluate.predictions.table import predictions_of
from medic_ad.load import Model
from medic_ad.readers import read_image
from medic_ad.road import read, scan
from medic_ad.study import Study


@pytest.fixture(scope="module")
def model() -> Model:
    return cases.tiny_model()


def grey(seed: int, side: tuple[int, int] = (80, 72)) -> np.ndarray:
    picture = torch.nn.functional.interpolate(tiny.canvases(1, seed)[None], side, mode="bilinear")
    return (picture[0, 0].numpy() * 255).round()


def test_predictions_in_batches_are_those_of_the_road(model: Model):
    images = [as_image(grey(k), f"{k}.png") for k in range(18)]  # more than one batch
    seen = predict(model, images, "reading")
    assert len(seen) == 18
    for image, ours in zip(images, seen, strict=True):
        theirs = scan(image, model)
        assert theirs.entry == ours.entry and ours.in_scope
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        assert np.allclose(ours.heatmap, theirs.heatmap, atol=1e-5)


def test_predictions_of_a_table_are_those_of_the_road(model: Model, tmp_path: Path):
    samples = []
    for k in range(18):
        path = tmp_path / f"{k}.png"
        Pillow.fromarray(grey(k).astype(np.uint8)).save(path)
        samples.append(Sample(image=str(path), group=str(k), split="test", source="s", label=k % 2))
    seen = predictions_of(model, "tiny", samples, Store(tmp_path / "out", "test"), "t", True)
    assert len(seen.heatmaps) == 18 and seen.in_scope.all()
    for sample, score, heatmap in zip(samples, seen.score, seen.heatmaps, strict=True):
        theirs = scan(read_image(sample.image), model)
        assert score == pytest.approx(theirs.score, abs=1e-5)
        assert np.allclose(heatmap, theirs.heatmap, atol=1e-5)


def test_slices_of_one_scan_share_its_entry(model: Model):
    images = [as_image(grey(k), f"{k}.png") for k in range(5)]
    seen = predict(model, images, "reading", [(0.0, 255.0)] * 5, one_scan=True)
    assert len({p.entry for p in seen}) == 1


def test_pairs_are_compared_as_read_compares_them(model: Model, tmp_path: Path):
    first = np.stack([grey(k) for k in range(3)]).astype(np.uint8)
    second = np.roll(first, 1, 2)
    empty = np.zeros(first.shape, bool)
    change, kind = np.array(["stable"] * 3), np.array(["made"] * 3)
    pairs = Pairs(first, second, empty, empty, change, kind, change)
    seen = compare_all(model, pairs)
    both = read_both_ways(model, pairs, 3, tmp_path)
    assert seen["label"].tolist() == both["ahead"].tolist() and seen["map"].shape == first.shape
    assert both["exact"].all() and len(list(tmp_path.glob("*.png"))) == 6
    study = Study(as_image(second[0], "b"), priors=(Study(as_image(first[0], "a")),))
    expected = read(study, model).change
    assert expected is not None and align(study.image, study.priors[0].image).ok
    assert expected.map is not None
    assert np.allclose(np.nan_to_num(seen["map"][0]), np.nan_to_num(expected.map), atol=1e-5)


def test_texts_are_parsed_by_the_words_that_are_trained():
    said = {
        words.NO_ANOMALY: "normal",
        words.anomaly_sentence((0, 2)): "abnormal",
        words.anomaly_sentence((1, 1)): "abnormal",
        "Brain MR, FLAIR.": "nothing",
        ".": "nothing",
    }
    assert {text: agreement.claims(text) for text in said} == said
    cells = [agreement.code((r, c)) for r in range(3) for c in range(3)]
    assert cells == list(range(9)) and agreement.code(None) == agreement.NOWHERE


def test_full_reads_give_texts_and_cells(model: Model):
    seen = agreement.read_texts(model, [as_image(grey(k), "x.png") for k in range(3)], "reading")
    assert set(seen["decision"]) <= {"abnormal", "normal", "uncertain"}
    assert ((seen["computed"] >= -1) & (seen["computed"] < 9)).all()
    assert set(seen["claim"]) <= {"abnormal", "normal", "nothing"}


def test_chance_agreement_is_that_of_shuffled_texts():
    rng = np.random.default_rng(0)
    computed = rng.choice(9, 3000, p=np.r_[0.5, np.full(8, 0.0625)])
    said = rng.permutation(computed)
    expected = agreement.chance(computed, said)(np.ones(3000))
    assert expected == pytest.approx(float((computed == said).mean()), abs=0.03)


def test_matched_slices_are_alike_in_area_and_position():
    n = 40
    place = np.abs(np.arange(n) - 20.0)
    area = 1000 - 20 * place
    lesion = np.where(np.arange(n) % 2, 5.0, 0.0)
    empty = np.zeros((n, 2, 2), np.float32)
    chosen, free = flair.matched(flair.Scan(empty, empty, empty, lesion, area, place))
    assert len(chosen) == 20 and len(set(free.tolist())) == 20  # one to one
    assert (lesion[chosen] > 0).all() and (lesion[free] == 0).all()
    assert (np.abs(area[chosen] - area[free]) <= flair.AREA_CALIPER * area[chosen]).all()
    assert (np.abs(place[chosen] - place[free]) <= flair.PLACE_CALIPER).all()
    far = flair.Scan(empty, empty, empty, lesion, np.where(lesion > 0, 1000.0, 10.0), place)
    assert len(flair.matched(far)[0]) == 0


def test_baselines_of_real_pairs_are_the_published_ones(shared_data: Path):
    folder = shared_data / "ms_longitudinal" / "patient01"
    names = ("study1_FLAIR_common", "study2_FLAIR_common", "gt", "brainmask")
    prior, current, mask, brain = (
        read_image(folder / f"{n}.nii.gz", modality="MR", body_part="BRAIN").pixels for n in names
    )
    inside = brain > 0.5
    maps = maps_of(prior, current, inside)
    values = {
        name: PixelCounts([m[inside]], [(mask > 0.5)[inside]]).auroc(np.ones(1))
        for name, m in maps.items()
    }
    assert values[SUBTRACTION] == pytest.approx(0.915, abs=0.01)
    assert values[FOLLOW_UP] == pytest.approx(0.79, abs=0.01)


def test_f1_of_changed_lesions_takes_its_threshold_from_the_other_patient():
    rng = np.random.default_rng(0)
    brains = [np.ones((40, 40, 40), bool)] * 2
    masks = [np.zeros((40, 40, 40), bool) for _ in brains]
    maps = [rng.uniform(0, 0.5, mask.shape) for mask in masks]
    first, second, third = np.s_[4:8, 4:8, 4:8], np.s_[4:8, 20:24, 4:8], np.s_[30:34, 4:8, 4:8]
    for place in (first, second):
        masks[0][place], maps[0][place] = True, 0.9
    for place in (first, second):
        masks[1][place] = True
    maps[1][first] = maps[1][third] = 0.9  # one found, one missed, one mark in nothing
    np.testing.assert_allclose(longitudinal.lesion_f1(maps, masks, brains), [1, 0.5])
    whole = [np.where(m, 0.9, 0.8) for m in masks]  # one region over everything: one mark
    found = FreeResponse(whole, masks, np.full((2, 1), 0.5)).f1()
    np.testing.assert_allclose(found[:, 0], 2 / 3)


def test_blank_and_noise_images_are_many_and_differ():
    made = outside.blank_and_noise(0)
    assert len(made) == 7 and all(len(slices) == outside.EACH for slices in made.values())
    pictures = [p for slices in made.values() for p in slices]
    assert all(p.shape == (224, 224) and 0 <= p.min() <= p.max() <= 255 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == len(pictures)


def test_photographs_are_at_hand():
    pictures = outside.photographs()
    assert len(pictures) >= 10 and all(p.ndim == 2 and p.max() > 1 for p in pictures)


def test_foreign_sets_are_found(shared_data: Path):
    counts = {name: len(files(shared_data)) for name, (_, files) in sanity.FOREIGN.items()}
    assert len(counts) == 4 and min(counts.values()) > 100
    assert all(p.is_file() for _, files in sanity.FOREIGN.values() for p, _ in files(shared_data))


def test_the_card_is_written_between_its_markers_only(tmp_path: Path):
    path = tmp_path / "MODEL_CARD.md"
    path.write_text(f"before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n")
    markdown.insert(path, "new")
    assert path.read_text() == f"before\n{markdown.BEGIN}\n\nnew\n\n{markdown.END}\nafter\n"
    for text in ("no markers", f"{markdown.END}{markdown.BEGIN}", markdown.BEGIN * 2):
        path.write_text(text)
        with pytest.raises(DataError, match="figures: begin"):
            markdown.insert(path, "new")
        assert path.read_text() == text
    with pytest.raises(DataError):
        markdown.refuse_without_markers(tmp_path / "absent.md")


def test_rows_say_n_units_and_interval_or_each_unit():
    few = Figure("a | b", "nano", 0.04, 4, "patient", 2, "s", 0, per_unit={"p1": 0.5, "p2": 1.0})
    many = Figure("c", "U-Net", 0.9, 40, "cluster", 20, "s", 0, interval=(0.8, 0.95), aim=">= 0.9")
    text = "\n".join(markdown.section(Part("Title", ["Note."], [few, many])))
    assert "| a \\| b | nano | 0.0400 | p1: 0.500; p2: 1.000 | 4 | 2 |" in text
    assert "| c | U-Net | 0.900 | 0.800 to 0.950 | 40 | 20 | >= 0.9 |" in text
    assert "patient (s); cluster (s)" in text and markdown.number(float("nan")) == "-"


def test_json_has_null_where_a_number_is_not_defined():
    value = {"a": [1.0, float("nan")], "b": (float("inf"), "x")}
    assert json.dumps(without_nan(value)) == '{"a": [1.0, null], "b": [null, "x"]}'


def test_the_reference_network_has_about_a_million_parameters():
    assert 0.9e6 < sum(p.numel() for p in unet.build().parameters()) < 1.2e6


def test_the_reference_network_trains_resumes_and_draws_on_the_files_grid(tmp_path, monkeypatch):
    cases.cheng(tmp_path, train=6, val=3, test=2)
    table = prepare("brain_tumour_cheng", tmp_path, tmp_path / "table.parquet")
    arguments = unet.UnetArguments(
        data=str(table), out=str(tmp_path / "unet"), steps=12, side=64, batch=4, workers=0,
        cache=str(tmp_path / "cache"),
    )  # fmt: skip
    straight = unet.UNet.load(unet.main(arguments))
    assert 0 < straight.record["threshold"] < 1 and straight.record["parameters"] > 0.9e6
    assert [row["steps"] for row in straight.record["history"]] == list(range(1, 13))
    stopped = dataclasses.replace(arguments, out=str(tmp_path / "stopped"))
    step = unet.Training.step

    def interrupted(self, batch):
        if self.steps == 7:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unet.Training, "step", interrupted)
        unet.main(stopped)
    assert unet.UNet.load(unet.main(stopped)).sha256 == straight.sha256
    maps = straight.maps([np.zeros((96, 80), np.uint8), np.ones((96, 80), np.uint8)], "drawing")
    assert [m.shape for m in maps] == [(96, 80)] * 2
    assert min(m.min() for m in maps) >= 0 and max(m.max() for m in maps) <= 1
    with pytest.raises(ModelError, match="medic-ad evaluate unet"):
        unet.UNet.load(tmp_path / "absent")


def test_a_refused_unet_leaves_no_folder(tmp_path: Path):
    cases.cheng(tmp_path, train=2, val=2, test=2)
    table = prepare("brain_tumour_cheng", tmp_path, tmp_path / "table.parquet")
    out = tmp_path / "unet"
    common: dict[str, Any] = {"out": str(out), "side": 64, "cache": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="expected a Parquet table of samples"):
        unet.main(unet.UnetArguments(data=str(tmp_path / "no.parquet"), **common))
    with pytest.raises(DataError, match="source 'elsewhere'.*got none; name another"):
        unet.main(unet.UnetArguments(data=str(table), source="elsewhere", **common))
    assert not out.exists()
