"""A published backbone in training: precision, attention, checkpointing, a tower without graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_memory import real_batch

from medic_ad.errors import ModelError
from medic_ad.load import load_checkpoint, load_model
from medic_ad.memory import Kept
from medic_ad.train import detect
from medic_ad.train.frozen import freeze_for


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in the Hub's layout, in bfloat16 as Lingshu-7B is."""
    folder = tmp_path_factory.mktemp("published")
    tensors = tiny.published_checkpoint(folder)
    tiny.write_shards(folder, {n: t.bfloat16() for n, t in tensors.items()}, 3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    return folder


def trained(published: Path, out: Path, data: Path, **own: Any) -> detect.DetectArguments:
    common = tiny.arguments(data, out / "cache", batch=2, steps=2)
    return detect.DetectArguments(
        **{**common, "model": str(published), "out": str(out / "detect"), **own}
    )


def test_a_bfloat16_backbone_trains_as_it_is_and_its_heads_in_float32(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.table(tmp_path / "data")
    seen: dict[str, set[torch.dtype]] = {}
    real = detect.fit

    def fit(stage: Any, model: Any, *rest: Any, **facts: Any) -> Any:
        for p in model.parameters():
            seen.setdefault("trained" if p.requires_grad else "frozen", set()).add(p.dtype)
        return real(stage, model, *rest, **facts)

    monkeypatch.setattr(detect, "fit", fit)
    arguments = trained(published, tmp_path, data, bf16=True, attention="eager", checkpointing=True)
    out = detect.main(arguments)
    assert seen == {"trained": {torch.float32}, "frozen": {torch.bfloat16}}
    record = json.loads((out / "detect.run.json").read_text())
    assert (record["attention"], record["dtype"]) == ("eager", "bfloat16")
    assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]
    assert record["arguments"]["attention"] == "eager" and record["arguments"]["checkpointing"]
    saved = load_file(out / "model.safetensors")
    kinds = {n: t.dtype for n, t in saved.items() if not n.startswith("calibration.")}
    assert set(kinds.values()) == {torch.bfloat16} and len(kinds) > 300
    again, _ = load_checkpoint(out)
    assert again.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_attention_that_was_asked_for_is_used_everywhere(published: Path, name: str) -> None:
    network, _ = load_checkpoint(published, attention=name)
    parts = [network.model.visual.blocks[0].attn, network.model.language_model.layers[0].self_attn]
    assert {part.config._attn_implementation for part in parts} == {name}
    assert load_model("nano", "cpu", name).network.config._attn_implementation == name


def test_an_attention_that_is_not_there_is_one_sentence(published: Path) -> None:
    with pytest.raises(ModelError, match="expected an attention of sdpa, .* got 'fast'"):
        load_checkpoint(published, attention="fast")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="flash-attn and a GPU for flash_attention_2"):
            load_checkpoint(published, attention="flash_attention_2")


def gradients(stage: str, checkpointing: bool) -> tuple[dict[str, torch.Tensor], int, list[int]]:
    """Gradients of one step, bytes kept for its backward pass, calls of every vision block."""
    network = tiny.network().train()
    freeze_for(network, stage)
    if checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    calls = [0] * len(network.model.visual.blocks)

    def counted(index: int) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            calls[index] += 1
            assert output.grad_fn is None and not output.requires_grad

        return hook

    for index, block in enumerate(network.model.visual.blocks):
        block.register_forward_hook(counted(index))
    module, batch = real_batch(stage, network, tiny.processor())
    kept = Kept(module)
    with kept.counting():
        loss = module(**batch)["loss"]
    loss.backward()
    found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert set(found) == {n for n, p in network.named_parameters() if p.requires_grad}
    return found, kept.bytes, calls


@pytest.mark.parametrize("stage", ["detect", "compare"])
def test_checkpointing_loses_no_gradient_and_the_frozen_tower_keeps_no_graph(stage: str) -> None:
    plain, bytes_plain, calls_plain = gradients(stage, checkpointing=False)
    again, bytes_again, calls_again = gradients(stage, checkpointing=True)
    assert set(plain) == set(again) and len(plain) > 30
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-4, atol=1e-7)
    assert bytes_again < bytes_plain
    assert calls_plain == calls_again == [1] * 4  # one vision pass, which is not done again
