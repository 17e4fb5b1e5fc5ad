"""Networks trained from scratch stand beside the model, on a table whose truth is planted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table_cases
from table_cases import figures, plant, value

from medic_ad.data.sample import read_info, read_samples, write_samples
from medic_ad.errors import DataError, MedicADError, ModelError
from medic_ad.evaluate import detect, localise, resnet, unet
from medic_ad.evaluate.baselines.decision import Decision
from medic_ad.evaluate.card import card

COUNTS = {"train": 40, "val": 16, "test": 24}


def trained(root: Path, **own: Any) -> Path:
    """A ResNet on the planted table in `root`, small enough for a test."""
    values: dict[str, Any] = dict(
        data=str(root / "mine.parquet"), out=str(root / "resnet"), cache=str(root / "cache"),
        steps=40, batch=16, side=64, workers=0, bf16=False, save_steps=20, learning_rate=3e-3,
    )  # fmt: skip
    return resnet.main(resnet.ResnetArguments(**values | own))


def test_the_small_resnet_has_about_the_stated_parameters():
    assert 0.5e6 < sum(p.numel() for p in resnet.build().parameters()) < 0.8e6


def test_a_resnet_finds_planted_discs_and_stands_beside_the_model(tmp_path, monkeypatch):
    plant(monkeypatch)
    data = table_cases.table(tmp_path, COUNTS)
    folder = trained(tmp_path)
    arguments = detect.DetectArguments(
        data=str(data), model="noise", out=str(tmp_path / "out"), resnet=str(folder), resamples=50
    )
    detect.main(arguments)
    seen = figures(tmp_path / "out", "detect")
    assert value(seen, "AUROC", "ResNet")["value"] > 0.9
    difference = value(seen, "AUROC", "noise - ResNet")
    assert difference["value"] < 0 and difference["interval"][1] < 0
    opened = tmp_path / "out" / "opened.jsonl"
    lines = len(opened.read_text().splitlines())
    assert lines == 2  # the model's opening of the test split, and the ResNet's
    detect.main(arguments)
    assert len(opened.read_text().splitlines()) == lines
    with pytest.raises(ModelError, match="medic-ad evaluate resnet"):
        detect.main(dataclasses.replace(arguments, resnet=str(tmp_path / "absent")))


def two_tables(root: Path) -> list[Path]:
    """Tables of the same name and shape with other pixels."""
    return [
        table_cases.table(root / name, {"train": 8, "val": 6, "test": 6}, seed)
        for seed, name in enumerate(("one", "two"))
    ]


def barely_trained(root: Path, data: Path) -> Path:
    """The folder of a U-Net of a few steps."""
    return unet.main(
        unet.UnetArguments(
            data=str(data), out=str(root / "unet"), steps=1, side=64, batch=2, workers=0,
            cache=str(root / "cache"),
        )
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"learning_rate": -1e-3}])
def test_a_u_net_of_no_steps_batch_or_rate_is_refused(wrong):
    with pytest.raises(MedicADError, match=r"expected --.* above 0, got .*; give another value"):
        unet.UnetArguments(data="", out="", **wrong)


def test_a_u_net_goes_on_with_its_own_arguments_alone(tmp_path):
    data, other = two_tables(tmp_path)
    folder = barely_trained(tmp_path, data)
    assert unet.UNet.load(folder).record["arguments"]["steps"] == 1
    begun = unet.UnetArguments(
        data=str(data), out=str(folder), steps=1, side=64, batch=2, workers=0,
        cache=str(tmp_path / "cache"),
    )  # fmt: skip
    unet.main(begun)  # it has all its steps
    for change, named in (
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"data": str(other)}, "table"),
    ):
        with pytest.raises(ModelError, match=f"the same {named} in .*state.pt"):
            unet.main(dataclasses.replace(begun, **change))
    record = json.loads((folder / "unet.json").read_text())
    del record["arguments"]["steps"]
    (folder / "unet.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="train it again"):
        unet.UNet.load(folder)


def test_a_network_of_another_table_or_of_the_measured_split_is_refused(tmp_path, monkeypatch):
    seers = plant(monkeypatch)
    data, other = two_tables(tmp_path)
    folder = trained(tmp_path / "one", steps=1)
    own = barely_trained(tmp_path, data)
    asked: dict[str, Any] = dict(model="noise", out=str(tmp_path / "out"), resamples=20)
    beside_resnet = detect.DetectArguments(data=str(other), resnet=str(folder), **asked)
    beside_unet = localise.LocaliseArguments(data=str(other), unet=str(own), **asked)
    commands: list[tuple[Any, Any]] = [(detect.main, beside_resnet), (localise.main, beside_unet)]
    for main, arguments in commands:
        with pytest.raises(ModelError, match="trained on mine, or on another version"):
            main(arguments)
        with pytest.raises(ModelError, match="another split than 'train'"):
            main(dataclasses.replace(arguments, data=str(data), split="train"))
    assert not (tmp_path / "out").exists() and not seers["noise"].calls
    record = json.loads((own / "unet.json").read_text())
    del record["trained_on"]  # as records once were
    (own / "unet.json").write_text(json.dumps(record))
    again = f"a table that its record does not name.*medic-ad evaluate unet --data {data}"
    with pytest.raises(ModelError, match=again):
        localise.main(dataclasses.replace(beside_unet, data=str(data)))


def test_the_card_takes_no_unet_of_another_table(tmp_path):
    data, other = two_tables(tmp_path)
    own = barely_trained(tmp_path, data)
    asked: dict[str, Any] = dict(data_root=str(tmp_path / "sets"), out=str(tmp_path / "card"))
    with pytest.raises(DataError, match="--unet and --data together"):
        card.CardArguments(unet=str(own), **asked)
    with pytest.raises(ModelError, match="trained on mine, or on another version"):
        card.main(card.CardArguments(unet=str(own), data=str(other), **asked))
    # its own table passes, and what is missing next is the card's data sets
    with pytest.raises(DataError, match="ms_cross_sectional"):
        card.main(card.CardArguments(unet=str(own), data=str(data), **asked))
    record = json.loads((own / "unet.json").read_text())
    del record["trained_on"]
    (own / "unet.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="train it again by `medic-ad evaluate unet --data"):
        card.main(card.CardArguments(unet=str(own), data=str(data), **asked))
    assert not (tmp_path / "card").exists()


def test_the_same_seed_gives_the_same_resnet_and_another_seed_another(tmp_path):
    table_cases.table(tmp_path, COUNTS)
    one = resnet.ResNet.load(trained(tmp_path, steps=6))
    two = resnet.ResNet.load(trained(tmp_path, steps=6, out=str(tmp_path / "again")))
    three = resnet.ResNet.load(trained(tmp_path, steps=6, out=str(tmp_path / "other"), seed=1))
    assert one.sha256 == two.sha256 != three.sha256


def test_labels_of_one_class_are_refused_before_anything_is_trained(tmp_path):
    data = table_cases.table(tmp_path, COUNTS)
    rows = [s for s in read_samples(data) if s.split != "val" or s.label]
    write_samples(rows, data, read_info(data))
    with pytest.raises(DataError, match="normal and abnormal images in split 'val'"):
        trained(tmp_path)
    assert not (tmp_path / "resnet").exists()


def test_a_unet_stands_beside_the_model_in_the_same_tables(tmp_path, monkeypatch):
    plant(monkeypatch)
    data = table_cases.table(tmp_path, {"train": 12, "val": 6, "test": 12})
    folder = unet.main(
        unet.UnetArguments(
            data=str(data), out=str(tmp_path / "unet"), steps=20, side=64, batch=4, workers=0,
            cache=str(tmp_path / "cache"),
        )
    )  # fmt: skip
    localise.main(
        localise.LocaliseArguments(
            data=str(data), model="seer", out=str(tmp_path / "out"), unet=str(folder), resamples=50
        )
    )
    seen = figures(tmp_path / "out", "localise")
    own, other = (value(seen, "mean Dice", of)["value"] for of in ("seer", "U-Net"))
    assert own > 0.9 > other
    difference = value(seen, "mean Dice", "seer - U-Net")["value"]
    assert difference == pytest.approx(own - other)
    assert "MONAI" in " ".join(seen["parts"][0]["notes"])


def test_a_decision_keeps_the_order_and_cuts_between_the_classes():
    labels = np.array([0, 0, 0, 1, 1, 1])
    decision = Decision.fit(np.array([-3.0, -2, -1, 1, 2, 3]), labels)
    scores = decision.scores(np.array([-1.0, 1.0]))
    assert scores[0] < decision.threshold < scores[1] and 0 < scores.min() < scores.max() < 1
