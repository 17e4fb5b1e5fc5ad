"""Parts of the card over planted predictions must give the known figures."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate_cases as cases
import numpy as np
import pytest
import tiny

from medic_ad import look
from medic_ad.data.sample import Sample
from medic_ad.evaluate.card import compare, detect, localise
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.material.made_pairs import NEW, bin_words, draw, plan
from medic_ad.evaluate.material.seen import seen_patients, steps_made
from medic_ad.evaluate.material.sets import cheng_twins, held_out_pairs
from medic_ad.evaluate.material.twins import Twins, edited
from medic_ad.evaluate.predictions.store import Context, Part
from medic_ad.words import EXCHANGED


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.cheng(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


def planted(
    root: Path, out: Path, material: Path, monkeypatch: pytest.MonkeyPatch, sees: bool
) -> tuple[Context, cases.Seer]:
    """A context whose model sees the truth or noise; test material is shared by the tests."""
    seer = cases.Seer(sees)
    monkeypatch.setattr(look, "look", seer)
    (out / "material").parent.mkdir(parents=True, exist_ok=True)
    (out / "material").symlink_to(material)
    return cases.context(root, out, pairs=24), seer


def figure(part: Part, name: str, of: str = "planted") -> Figure:
    [found] = [f for f in part.figures if f.name == name and f.of == of]
    return found


def test_perfect_maps_and_scores(root, tmp_path, material, monkeypatch):
    context, _ = planted(root, tmp_path, material, monkeypatch, sees=True)
    part = localise.measure(context)
    for name in ("pixel AUROC", "pixel AP", "mean Dice", "pointing game"):
        found = figure(part, name)
        assert found.value == pytest.approx(1, abs=0.02), name
        assert (found.n, found.units, found.split) == (12, 12, "brain_tumour_cheng test")
    assert figure(part, "area drawn on the same slices, tumour inpainted").value == 0
    assert figure(part, "pixel AUROC", "grey value").value > 0.95  # lesions are the brightest
    part = detect.measure(context)
    for name in ("AUROC", "AP", "F1 at the stored threshold", "sensitivity at 90% specificity"):
        assert figure(part, name).value == 1, name
    assert figure(part, "AUROC, shams only").n == 24
    assert figure(part, "F1", "majority (all abnormal)").value == pytest.approx(0.8)
    assert figure(part, "AP", "image-free").value == pytest.approx(2 / 3)
    assert figure(part, "normal read as abnormal").value == 0


def test_chance_maps_and_scores(root, tmp_path, material, monkeypatch):
    context, _ = planted(root, tmp_path, material, monkeypatch, sees=False)
    part = localise.measure(context)
    assert figure(part, "pixel AUROC").value == pytest.approx(0.5, abs=0.03)
    assert figure(part, "pixel AP").value < 0.05 and figure(part, "mean Dice").value < 0.1
    area = figure(part, "area drawn on the same slices, tumour inpainted").value
    assert area == pytest.approx(0.5, abs=0.02)
    interval = figure(detect.measure(context), "AUROC").interval
    assert interval is not None and interval[0] < 0.5 < interval[1]


def test_predictions_are_made_once_and_the_opening_is_written_down(
    root, tmp_path, material, monkeypatch
):
    context, seer = planted(root, tmp_path, material, monkeypatch, sees=True)
    first, calls = localise.measure(context), seer.calls
    assert calls > 0 and localise.measure(context) == first and seer.calls == calls
    detect.measure(context)
    assert seer.calls == calls  # the same predictions
    lines = [json.loads(x) for x in (tmp_path / "opened.jsonl").read_text().splitlines()]
    assert [(x["what"], x["times_opened_before"]) for x in lines] == [("brain_tumour_cheng", 0)]
    assert lines[0]["weights_sha256"] == context.weights and lines[0]["date"]
    for file in (tmp_path / "predictions").rglob("*.npz"):
        file.unlink()
    localise.measure(context)
    lines = [json.loads(x) for x in (tmp_path / "opened.jsonl").read_text().splitlines()]
    assert [x["times_opened_before"] for x in lines] == [0, 1]


def test_twins_lose_their_lesion_and_shams_keep_it(root, tmp_path, material, monkeypatch):
    context, _ = planted(root, tmp_path, material, monkeypatch, sees=True)
    twins = cheng_twins(context)
    assert len(twins.groups) == 12 and twins.image.dtype == twins.clean.dtype == np.uint8
    for image, clean, sham, mask in zip(
        twins.image, twins.clean, twins.sham, twins.mask, strict=True
    ):
        assert clean[mask].max() < 200 and np.array_equal(sham[mask], image[mask])
        assert (sham != image).any()
        # far from the lesion the twin is the file's own, grey value by grey value
        assert (clean != image).mean() < 0.15


def test_edited_touches_only_what_the_edit_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.float32)

    def edit(grey: np.ndarray) -> np.ndarray:
        out = grey.copy()
        out[:5] = 0.5
        return out

    out = edited(pixels, edit)
    assert np.array_equal(out[5:], pixels[5:].astype(np.uint8)) and len(np.unique(out[:5])) == 1


def test_pairs_are_balanced_and_show_the_change_they_are_said_to_show(
    root, tmp_path, material, monkeypatch
):
    context, _ = planted(root, tmp_path, material, monkeypatch, sees=True)
    pairs = held_out_pairs(context)
    assert {c: int((pairs.change == c).sum()) for c in ("worse", "stable", "better")} == {
        "worse": 8, "stable": 8, "better": 8,
    }  # fmt: skip
    more, less = pairs.more.sum((1, 2)), pairs.less.sum((1, 2))
    assert (more > less)[pairs.change == "worse"].all()
    assert (less > more)[pairs.change == "better"].all()
    assert not (more + less)[pairs.change == "stable"].any()
    bright = (pairs.second > 200).sum((1, 2)) - (pairs.first > 200).sum((1, 2)).astype(int)
    assert (bright > 0)[(pairs.change == "worse") & (pairs.kind == NEW)].all()
    assert (bright < 0)[(pairs.change == "better") & (pairs.kind == NEW)].all()
    again = held_out_pairs(cases.context(root, tmp_path / "elsewhere", pairs=24))
    assert np.array_equal(again.first, pairs.first) and np.array_equal(again.kind, pairs.kind)


def test_the_plan_covers_every_growth_bin_alike():
    rows = plan(240, np.random.default_rng(0))
    kinds: dict[tuple[str, str], int] = {}
    for change, kind, factor in rows:
        kinds[change, kind] = kinds.get((change, kind), 0) + 1
        if kind.startswith("growth"):
            low, high = map(float, kind.removeprefix("growth ").split(" to "))
            assert low <= factor <= high
    assert len(kinds) == 10 and kinds["worse", bin_words(2.2, 3.0)] == 20
    assert kinds["stable", "no lesion"] == 20 and kinds["stable", "sham of a lesion"] == 60


def test_a_lesion_without_pixels_is_nobodys_donor():
    """One that is smaller than a pixel of the canvas leaves its slice with an empty mask."""
    shown, masks = zip(*(tiny.head(seed, True) for seed in range(3)), strict=True)
    clean = np.stack([tiny.head(seed, False)[0] for seed in range(3)])
    mask = np.stack(masks)
    mask[1] = False
    twins = Twins(["a", "b", "c"], np.stack(shown), clean, clean, mask)
    made = draw(twins, 12, 0)
    grown = np.isin(made["change"], ("worse", "better"))
    assert grown.sum() == 8 and (made["more"] | made["less"])[grown].any((1, 2)).all()


def test_known_labels_give_known_accuracy(root, tmp_path, material, monkeypatch):
    context, _ = planted(root, tmp_path, material, monkeypatch, sees=True)
    truth = held_out_pairs(context)
    signed = truth.more.astype(np.float32) - truth.less
    half = truth.change.copy()
    half[truth.change == "better"] = "worse"  # every better pair is wrong

    def labels(model, pairs):
        return {"label": half, "map": signed}

    def both(model, pairs, count, folder):
        back = np.array([EXCHANGED[x] for x in half[:count]])
        back[0] = "worse" if back[0] != "worse" else "stable"  # one pair of 12 is not inverted
        return {"ahead": half[:count], "back": back, "exact": np.ones(count, bool)}

    monkeypatch.setattr(compare, "compare_all", labels)
    monkeypatch.setattr(compare, "read_both_ways", both)
    context = cases.context(root, tmp_path, pairs=24, read_pairs=12)
    part = compare.measure(context)
    assert figure(part, "3-class accuracy").value == pytest.approx(2 / 3)
    assert figure(part, "3-class accuracy", "always stable").value == pytest.approx(1 / 3)
    assert figure(part, "macro F1").value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert figure(part, "direction F1 (worse, better)").value == pytest.approx(1 / 3)
    assert figure(part, "accuracy, no lesion").value == 1
    assert figure(part, "signed change map, pixel AUROC, changed pairs").value > 0.99
    assert figure(part, "files exchanged: label inverted").value == pytest.approx(11 / 12)


@pytest.mark.parametrize(
    ("trained", "fitted", "words"),
    [
        ({}, {}, ("seen in training", "used for calibration")),  # the set's standing split
        ({"exclude": "patient07"}, {"exclude": "patient26"}, ("not seen", "not seen")),
        (
            {"patients": ["patient26"]},
            {"patients": ["patient26"]},
            ("not seen", "seen in training"),
        ),
        ({"patients": []}, {"patients": ["patient07"]}, ("used for calibration", "not seen")),
    ],
)
def test_what_weights_know_of_a_patient_is_read_from_their_records(
    trained: dict, fitted: dict, words: tuple[str, str], tmp_path: Path
) -> None:
    samples = [
        Sample(image=f"{p}.nii", group=p, patient=p, split=s, source="ms")
        for p, s in (("patient07", "train"), ("patient26", "val"))
    ]
    for name, own in (("base-vision", trained), ("detect", trained), ("calibrate", fitted)):
        record = {"arguments": {"exclude": own.get("exclude", "")}}
        record |= {"patients": own["patients"]} if "patients" in own else {}
        (tmp_path / f"{name}.run.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text("{}")
    seen = seen_patients(str(tmp_path), samples)
    assert seen == dict(zip(("patient07", "patient26"), words, strict=True))


def test_steps_are_told_of_the_stages_that_have_a_record(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert steps_made(str(tmp_path)) == "not recorded"
    for name, own in (("detect", {"stage": "detect", "steps": 900}), ("calibrate", {})):
        (tmp_path / f"{name}.run.json").write_text(json.dumps(own))
    assert steps_made(str(tmp_path)) == "detect 900"
