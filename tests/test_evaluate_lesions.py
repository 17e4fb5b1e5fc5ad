"""Evaluation of registration and of lesions over time, on a small made head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from course_cases import calibrated
from head_cases import AFFINE, SPACING, head

from medic_ad.align import align
from medic_ad.cli_stages import EVALUATE
from medic_ad.data.longitudinal import prepare_host
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.evaluate import registration
from medic_ad.evaluate.lesions import lesions
from medic_ad.evaluate.lesions.lesions import LesionArguments, figures
from medic_ad.evaluate.lesions.study import Outcome, judge, make_study, try_study
from medic_ad.evaluate.registration import RegistrationArguments
from medic_ad.image import in_memory
from medic_ad.lesions import measure_lesions
from medic_ad.report.schema import NOTICE


def test_lesions_of_one_study_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(root: str, rng: np.random.Generator):
        return {"head": (prepare_host(head(), SPACING, rng), AFFINE)}

    monkeypatch.setattr(lesions, "hosts", small)
    page = lesions.main(
        LesionArguments(out=str(tmp_path), model="", studies=1, lesions=8, resamples=10)
    )
    record = json.loads((tmp_path / "lesions.json").read_text())
    value = {f["name"]: f["value"] for f in record["figures"]}
    assert value["matching F1"] >= 0.9
    assert value["class of change right"] >= 0.8
    assert value["exchange of dates inverts all"] == 1
    assert value["median volume error above 0.5 ml, carried by registration"] < 0.1
    assert sum(o["what"] == "kind" for o in record["outcomes"]) >= 4
    assert "matching F1" in page.read_text()
    assert "with no weights" in page.read_text() and NOTICE in page.read_text()
    assert record["seen"] == {}  # true masks alone: no weights, nothing to have seen


def test_figures_name_weights_and_which_hosts_they_have_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = Sample(image="t.nii", group="t", patient="mni152", split="train", source="mni152")
    ms = [
        Sample(image=f"{p}.nii", group=p, patient=p, split="val", source="ms") for p in ("p1", "p2")
    ]
    monkeypatch.setattr(lesions.mni152, "samples", lambda: [template])
    monkeypatch.setattr(lesions, "samples_of", lambda root, name: ms)
    for name, patients in (("detect", ["mni152"]), ("calibrate", ["p1"])):
        record = {"arguments": {}, "patients": patients}
        (tmp_path / f"{name}.run.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text("{}")
    hosts = ["mni152", "ms/p1", "ms/p2"]
    outcomes = [Outcome(f"{h}{k}", h, "kind", 1.0) for h in hosts for k in range(2)]
    outcomes += [Outcome("s", h, w, 1.0) for h in hosts for w in ("carried", "measured", "link")]
    model = calibrated()
    arguments = LesionArguments(
        out=str(tmp_path / "out"), model=str(tmp_path), data_root="somewhere", resamples=10, seed=7
    )
    text = lesions.write(arguments, model, outcomes).read_text()
    record = json.loads((tmp_path / "out" / "lesions.json").read_text())
    assert record["seen"] == {
        "mni152": "seen in training", "ms/p1": "used for calibration", "ms/p2": "not seen"
    }  # fmt: skip
    assert "mni152 seen in training; ms/p1 used for calibration; ms/p2 not seen" in text
    made = record["provenance"]
    assert made["weights_sha256"] == model.weights_sha256 and made["arguments"]["seed"] == 7
    assert f"weights {model.weights_sha256[:16]}" in text and "seed 7" in text
    assert {"torch", "transformers"} <= set(made["libraries"]) and made["medic_ad"] in text


def test_masks_of_a_model_are_judged_by_what_they_miss_and_invent() -> None:
    rng = np.random.default_rng(1)
    made = make_study("s", "head", prepare_host(head(), SPACING, rng), AFFINE, 8, rng)
    spacings = [how.spacing_mm for how in made.ways]
    masks = [labels > 0 for labels in made.truth]
    followed = [f for f in made.study.fates[0] if f.kind in ("enlarged", "stable", "reduced")]
    missed = next(f for f in followed if {*f.before, *f.after} <= made.visible)
    masks[1][made.truth[1] == missed.after[0]] = False
    masks[0][2:5, 2:5, 2:5] = True
    dates = [measure_lesions(m, s) for m, s in zip(masks, spacings, strict=True)]
    found = align(made.images[1], made.images[0])
    true = {o.detail: o.value for o in try_study(made, None) if o.what == "link"}
    outcomes = judge(made, found, dates, "mine")
    assert {o.masks for o in outcomes} == {"mine"}
    links = {o.detail: o.value for o in outcomes if o.what == "link"}
    key = str((missed.before[0], missed.after[0]))
    assert true[key] == 1 and links[key] == 0.5
    wrong = [o.detail for o in outcomes if o.what == "kind" and not o.value]
    assert missed.kind in wrong
    assert [o.value for o in outcomes if o.what == "exchanged"] == [1.0]


def test_a_model_that_sees_nothing_finds_nothing() -> None:
    rng = np.random.default_rng(1)
    made = make_study("s", "head", prepare_host(head(), SPACING, rng), AFFINE, 8, rng)
    blind = calibrated()
    blind.network.calibration.heatmap_threshold.fill_(1.0)
    outcomes = [o for o in try_study(made, blind) if o.masks == "tiny"]
    assert [o.value for o in outcomes if o.what == "in_scope"] == [1.0, 1.0]
    found = {f.name: f.value for f in figures(outcomes, 0, 10, "head")}
    assert found["matching F1"] == 0 == found["class of change right"]
    assert found["median volume error above 0.5 ml, on its own grid"] == 1


def test_figures_count_what_they_say() -> None:
    rows = [("link", 1.0)] * 3 + [("link", 0.5), ("link", 0.0)]
    rows += [("kind", 1.0), ("kind", 0.0), ("carried", 0.1), ("carried", 0.2), ("carried", 0.9)]
    rows += [(w, 1.0) for w in ("measured", "exchanged", "comparable")]
    rows += [(w, 1.0) for w in ("align_cpu_seconds", "match_cpu_seconds")]
    outcomes = [Outcome(f"study{i}", "head", w, v) for i in range(12) for w, v in rows]
    found = {f.name: f for f in figures(outcomes, 0, 20, "made")}
    assert found["matching F1"].value == pytest.approx(6 / 8)
    assert found["class of change right"].value == 0.5
    carried = found["median volume error above 0.5 ml, carried by registration"]
    assert carried.value == pytest.approx(0.2) and carried.n == 36 and carried.units == 12
    assert carried.interval == pytest.approx((0.2, 0.2))


def test_known_motion_of_a_small_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = in_memory(head(), AFFINE, "MR", "BRAIN")
    monkeypatch.setattr(registration, "volumes", lambda root: {"head": image})
    registration.main(RegistrationArguments(out=str(tmp_path), transforms=1, resamples=10))
    record = json.loads((tmp_path / "registration.json").read_text())
    value = {f["name"]: f["value"] for f in record["figures"]}
    assert value["mean error, mm"] < 1 and value["share within 1 mm"] == 1
    assert value["identical volumes unchanged"] == 1


def test_folders_without_data_are_named(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="nilearn is not installed (extra `demo`)")
    for use in (registration.volumes, lambda root: lesions.hosts(root, np.random.default_rng(0))):
        with pytest.raises(DataError, match="--data-root"):
            use(str(tmp_path))


def test_both_are_commands() -> None:
    assert EVALUATE["lesions"].module == lesions.__name__
    assert EVALUATE["registration"].module == registration.__name__
