"""Every stage learns a planted blob within seconds, and leaves what is frozen as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from medic_ad.load import Model, load_checkpoint
from medic_ad.look import Look, compare, look
from medic_ad.train import detect

LEARNED = {  # name of the record -> what its run may change
    "base-vision": ("model.visual.",),
    "base-language": ("model.language_model.", "model.visual.merger."),
    "detect": ("detector.", "comparer.no_prior"),
    "compare": ("comparer.",),
    "explain": ("explainer.",),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trained:
    return tiny.trained(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(scope="module")
def model(trained: tiny.Trained) -> Model:
    network, processor = load_checkpoint(trained.explain)
    return Model("tiny", network.eval().requires_grad_(False), processor, "")


@pytest.fixture(scope="module")
def seen(model: Model) -> tuple[Look, torch.Tensor, np.ndarray]:
    """A look at 40 heads that no run has seen, their masks, and which of them have a blob."""
    images, masks = tiny.fresh(40)
    abnormal = masks.flatten(1).any(1).numpy()
    assert abnormal.sum() == 20
    return look(model, images), masks, abnormal


def record(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / f"{name}.run.json").read_text())
    return loaded


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "bar"),
    [("base-vision", 0.7), ("base-language", 0.7), ("detect", 0.8), ("compare", 0.8),
     ("explain", 0.7)],
)  # fmt: skip
def test_the_loss_falls_clearly(trained: tiny.Trained, name: str, bar: float) -> None:
    """The mean over the last 25 steps logged against that over the first 25."""
    losses = [row["loss"] for row in record(trained.explain, name)["log"] if "loss" in row]
    assert len(losses) >= 2
    assert losses[-1] < bar * losses[0]


@pytest.mark.parametrize(
    ("before", "after", "learned"),
    [("base", "detect", ("detector.", "comparer.no_prior")), ("detect", "compare", ("comparer.",)),
     ("compare", "explain", ("explainer.",))],
)  # fmt: skip
def test_only_its_own_stage_changes(
    trained: tiny.Trained, before: str, after: str, learned: tuple[str, ...]
) -> None:
    first, second = weights(getattr(trained, before)), weights(getattr(trained, after))
    assert set(first) == set(second)
    changed = {
        k for k in first if not torch.equal(torch.nan_to_num(first[k]), torch.nan_to_num(second[k]))
    }
    own = {k for k in first if k.startswith(learned)}
    if after == "compare":
        # learned in stage 1 and frozen here; and a bias that the difference of two dates cancels
        own -= {"comparer.no_prior", "comparer.pooled_query.bias"}
    assert changed == own and len(own) > 50
    assert "calibration.threshold" in first and first["calibration.change_temperature"].isnan()


def test_the_backbone_is_the_same_after_all_stages(trained: tiny.Trained) -> None:
    first, last = weights(trained.base), weights(trained.explain)
    backbone = [k for k in first if k.startswith(("model.", "visual.", "lm_head"))]
    assert len(backbone) > 70
    assert all(torch.equal(first[k], last[k]) for k in backbone)


def test_the_tower_is_trained_only_when_asked(trained: tiny.Trained, tmp_path: Path) -> None:
    given = tiny.arguments(trained.data, trained.cache, out=str(tmp_path / "tower"), steps=3)
    asked = detect.DetectArguments(**given, model=str(trained.base), tower=True)
    first, second = weights(trained.base), weights(detect.main(asked))
    changed = {k for k in first if k in second and not torch.equal(first[k], second[k])}
    tower = {k for k in first if k.startswith(("visual.", "model.visual."))}
    assert tower and tower <= changed
    assert not any(k.startswith("model.language_model.") for k in changed)


@pytest.mark.parametrize("name", LEARNED)
def test_the_record_holds_arguments_and_proof(
    trained: tiny.Trained, model: Model, name: str
) -> None:
    found = record(trained.explain, name)  # every stage hands on the records before it
    stage = name.split("-")[0]
    steps = {"base-vision": 150, "base-language": 50, "detect": 100, "compare": 75, "explain": 125}
    given = found["arguments"]
    assert found["stage"] == name and given["steps"] == steps[name]
    assert given["data"] == str(trained.data) and given["cache"] == str(trained.cache)
    assert (given["batch"], given["workers"], given["bf16"], given["seed"]) == (8, 0, False, 0)
    assert given["learning_rate"] == (5e-3 if stage == "explain" else 3e-3)
    assert given["weight_decay"] == 0.05  # a default that nobody gave
    assert given["model"] == ("" if stage == "base" else str(getattr(trained, _before(stage))))
    frozen = found["frozen"]
    assert frozen["sha256_before"] == frozen["sha256_after"] and len(frozen["sha256_before"]) == 64
    named = dict(model.network.named_parameters())
    own = {k for k in named if k.startswith(LEARNED[name])}
    if name == "compare":
        own.remove("comparer.no_prior")  # learned in stage 1
    assert found["trained_parameters"] == sum(named[k].numel() for k in own) > 10_000
    calibration = model.network.calibration.state_dict()
    assert calibration and frozen["tensors"] == len(named) - len(own) + len(calibration)
    assert found["seconds"] > 0 and found["log"][-1]["step"] == steps[name]
    parts = {"detect": {"image", "pixel", "language", "support"}, "compare": {"label", "map"}}
    assert parts.get(stage, set()) <= set(found["log"][0])
    assert list((trained.explain.parent / stage).rglob("events.out.tfevents*"))  # TensorBoard


def _before(stage: str) -> str:
    order = ["base", "detect", "compare", "explain"]
    return order[order.index(stage) - 1]


def test_detect_finds_the_planted_blob(seen: tuple[Look, torch.Tensor, np.ndarray]) -> None:
    looked, masks, abnormal = seen
    assert roc_auc_score(abnormal, looked.logits) >= 0.85
    maps = torch.stack([d.map for d in looked.detected])[abnormal]
    share = torch.nn.functional.adaptive_avg_pool2d(masks[abnormal][:, None].float(), (8, 8))[:, 0]
    assert roc_auc_score((share > 0.5).flatten(), maps.flatten()) >= 0.95
    assert maps.abs().max() <= 1


def test_explain_draws_the_planted_blob(seen: tuple[Look, torch.Tensor, np.ndarray]) -> None:
    looked, masks, abnormal = seen
    heat, truth = looked.heatmaps[abnormal], masks[abnormal]
    assert roc_auc_score(truth.flatten(), heat.flatten()) >= 0.97
    found = heat > 0.5
    dice = 2 * (found & truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)))
    assert dice.mean() >= 0.6
    peaks = heat.flatten(1).argmax(1)
    assert truth.flatten(1)[torch.arange(20), peaks].float().mean() >= 0.85
    assert (looked.heatmaps[~abnormal] > 0.5).float().mean() < 0.01


def test_compare_knows_which_date_has_the_blob(model: Model) -> None:
    """By antisymmetry one order tells of both; `stable` is the same head in other light."""
    right = steady = 0
    inside, outside = [], []
    for seed in range(200, 220):
        without, _ = tiny.head(seed, False)
        image, mask = tiny.head(seed, True)
        first, second = (look(model, tiny.fitted(x)) for x in (without, image))
        out = compare(model, first, second)
        right += int(out.logits.argmax() == 0)
        truth = tiny.fitted(mask * 255.0)[0] > 0.5
        inside.append(float(out.map[truth].mean()))
        outside.append(float(out.map[~truth].abs().mean()))
        dimmed = look(model, 0.95 * tiny.fitted(image) ** 1.1)
        steady += int(compare(model, second, dimmed).logits.argmax() == 1)
    assert right >= 18 and steady >= 16
    assert np.mean(inside) > 0.4 and np.mean(outside) < 0.1


@torch.no_grad()
def test_a_lesion_that_ano_denies_is_drawn_fainter(
    model: Model, seen: tuple[Look, torch.Tensor, np.ndarray]
) -> None:
    looked, masks, abnormal = seen
    network = model.network
    normal = looked.detected[int(np.flatnonzero(~abnormal)[0])]
    told = [normal if a else d for a, d in zip(abnormal, looked.detected, strict=True)]
    fainter = torch.stack(network.explain(looked.vision, told)).sigmoid()
    truth = masks[abnormal]
    assert fainter[abnormal][truth].mean() < looked.heatmaps[abnormal][truth].mean()
