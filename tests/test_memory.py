"""`medic-ad info --memory`: counts that are published, bytes that a real step keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from typer.testing import CliRunner

from medic_ad import memory
from medic_ad.cli import app
from medic_ad.memory import Kept, collect_memory, find_config, stage_memory
from medic_ad.model.modeling import HEADS, MedicADForConditionalGeneration
from medic_ad.model.presets import PRESETS, preset_config
from medic_ad.train import compare, detect, explain
from medic_ad.train.frozen import freeze_for

PUBLISHED = {  # parameters of the files on the Hub: total_size of their index, 2 bytes each
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen2.5-vl-72b": 73_410_777_344,
    "lingshu-7b": 8_292_166_656,
    "lingshu-32b": 33_452_718_336,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = MedicADForConditionalGeneration(preset_config(name))
    own = sum(p.numel() for n, p in model.named_parameters() if n.split(".")[0] in HEADS)
    assert sum(p.numel() for p in model.parameters()) - own == PUBLISHED[name]
    assert own < 0.03 * PUBLISHED[name]  # DESIGN: near 2 % of a 7B model
    assert set(PRESETS) == set(PUBLISHED)


BATCH = 4


def real_batch(stage: str, network: Any, processor: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A stage around a network and a batch as its draws give it, all of it known."""
    images, masks = tiny.fresh(BATCH)
    shared: dict[str, Any] = {"data": "d", "out": "o"}
    known = torch.ones(BATCH, dtype=torch.bool)
    if stage == "explain":
        module: torch.nn.Module = explain.ExplainStage(network, explain.ExplainArguments(**shared))
        pixels = processor.images(images, network.config)
        return module, {"pixels": pixels, "mask": masks.float(), "twin": images[:0]}
    batch = {"image": images, "mask": masks.float()}
    if stage == "detect":
        module = detect.DetectStage(network, processor, detect.DetectArguments(**shared))
        label = masks.flatten(1).any(1).float()
        told = {"label": label, "known": known, "hints": []}
    else:
        module = compare.CompareStage(network, processor, compare.CompareArguments(**shared))
        told = {"known": known.tolist(), "change": ["stable"] * BATCH}
        told |= {"followup": images, "mask_followup": masks.float()}
    return module, {**batch, **told, "dialogues": [("Is there an anomaly?", "No.")] * BATCH}


@pytest.mark.parametrize("stage", ["detect", "compare", "explain"])
def test_the_estimate_is_near_what_a_real_step_keeps(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 20 %: the losses' own maps and the mask of the padding are not in the estimate."""
    network, processor = tiny.network().train(), tiny.processor()
    freeze_for(network, stage)
    module, batch = real_batch(stage, network, processor)
    kept = Kept(module)
    with kept.counting():
        loss = module(**batch)["loss"]
    prompt = processor.prompt("Is there an anomaly?", 2 if stage == "compare" else 1, answer="No.")
    merged = (tiny.SIDE // 16) ** 2
    places = {"detect": merged + 32, "compare": 2 * merged + 48, "explain": 0}[stage]
    tokens = processor.text([prompt], network.config, merged)["input_ids"].shape[1]
    monkeypatch.setattr(memory, "WORDS", tokens - places)
    [row] = [r for r in stage_memory(tiny.config(), BATCH) if r.stage == stage]
    assert row.activations == pytest.approx(kept.bytes, rel=0.2)

    loss.backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    optimiser.step()
    gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
    moments = sum(
        v.nbytes for state in optimiser.state.values() for k, v in state.items() if k != "step"
    )
    assert (row.gradients, row.optimiser) == (gradients, moments)
    assert row.weights == sum(p.nbytes for p in network.parameters())
    assert row.trained == sum(p.numel() for p in trained)


def test_stage_one_of_7b_fits_into_40_gb_at_batch_8() -> None:
    rows = {row.stage: row for row in stage_memory(preset_config("lingshu-7b"), 8)}
    assert rows["detect"].total < 40e9
    assert rows["detect"].weights > 2 * PUBLISHED["lingshu-7b"]
    for row in rows.values():
        assert row.trained + row.frozen > PUBLISHED["lingshu-7b"]
        assert row.checkpointed <= row.activations
    assert rows["detect"].checkpointed < 0.3 * rows["detect"].activations


def test_a_folder_of_a_base_is_measured_as_it_is(tmp_path: Path) -> None:
    tiny.published_checkpoint(tmp_path)
    config = find_config(str(tmp_path))
    assert config.model_type == "medic_ad" and config.text_config.hidden_size == 48
    assert collect_memory(str(tmp_path), 2)["stages"][0]["frozen"] > 100_000


def test_the_command_prints_a_table_or_json() -> None:
    run = CliRunner().invoke(app, ["info", "--model", "nano", "--memory", "--batch", "2", "--json"])
    found = json.loads(run.stdout)
    assert [row["stage"] for row in found["stages"]] == ["detect", "compare", "explain"]
    for row in found["stages"]:
        parts = ("weights", "gradients", "optimiser", "activations")
        assert row["total"] == sum(row[part] for part in parts)
    told = CliRunner().invoke(app, ["info", "--model", "nano", "--memory"]).stdout
    assert "Not counted" in told and "images of 192 x 192" in told and "explain" in told
    assert CliRunner().invoke(app, ["info", "--memory"]).exit_code == 2
