"""LoRA on the language model: recorded, saved and loaded again; its base is frozen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from medic_ad.errors import ModelError
from medic_ad.load import load_checkpoint
from medic_ad.train import compare, detect, explain

RANK = 4
LAYERS = 2 * 7  # linear layers of the tiny language model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained weights, `detect` with adapters on them, `explain` on that."""
    root = tmp_path_factory.mktemp("lora")
    data = tiny.table(root / "data")
    untrained = root / "untrained"
    tiny.network().save_pretrained(untrained)
    tiny.processor().save_pretrained(untrained)

    def own(name: str, model: Path, **more: Any) -> dict[str, Any]:
        common = tiny.arguments(data, root / "cache", batch=4, steps=5)
        return {**common, "model": str(model), "out": str(root / name), **more}

    adapted = detect.main(detect.DetectArguments(**own("detect", untrained, lora=RANK)))
    later = explain.main(explain.ExplainArguments(**own("explain", adapted)))
    other = compare.CompareArguments(**own("compare", adapted, lora=RANK + 1))
    with pytest.raises(ModelError, match=f"expected --lora {RANK} as in .*got {RANK + 1}"):
        compare.main(other)
    return {"untrained": untrained, "detect": adapted, "explain": later}


def test_adapters_learn_and_what_they_stand_beside_does_not(runs: dict[str, Path]) -> None:
    before = load_file(runs["untrained"] / "model.safetensors")
    after = load_file(runs["detect"] / "model.safetensors")
    adapters = {name for name in after if ".lora_" in name}
    assert len(adapters) == 2 * LAYERS
    assert all(after[n].any() for n in adapters)  # lora_B starts at zero
    plain = {
        name.replace(".base_layer", ""): t for name, t in after.items() if name not in adapters
    }
    assert set(plain) == set(before)
    moved = {n for n in before if not torch.equal(before[n].nan_to_num(), plain[n].nan_to_num())}
    assert moved and all(n.startswith(("detector.", "comparer.no_prior")) for n in moved)
    record = json.loads((runs["detect"] / "detect.run.json").read_text())
    own = sum(plain[n].numel() for n in before if n.startswith(("detector.", "comparer.no_prior")))
    assert record["trained_parameters"] == own + sum(after[n].numel() for n in adapters)
    assert record["arguments"]["lora"] == RANK
    assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]


def test_loaded_again_it_speaks_with_its_adapters(runs: dict[str, Path]) -> None:
    network, _ = load_checkpoint(runs["detect"])
    network.eval()
    assert network.config.lora_rank == RANK
    saved = load_file(runs["detect"] / "model.safetensors")
    loaded = {n: t for n, t in network.state_dict().items() if ".lora_" in n}
    assert len(loaded) == 2 * LAYERS
    for name, tensor in loaded.items():
        [same] = [t for n, t in saved.items() if n.endswith(name.split("language_model.")[1])]
        assert torch.equal(tensor, same)
    text = tiny.prompt(network.config, [])
    with torch.no_grad():
        spoken = network(**text).logits
        for name, parameter in network.named_parameters():
            if ".lora_B" in name:
                parameter.zero_()
        silent = network(**text).logits
        stock, _ = load_checkpoint(runs["untrained"])
        assert torch.allclose(silent, stock.eval()(**text).logits, atol=1e-6)
    assert float((spoken - silent).abs().max()) > 1e-5


def test_a_later_stage_hands_the_adapters_on(runs: dict[str, Path]) -> None:
    first, later = (load_file(runs[n] / "model.safetensors") for n in ("detect", "explain"))
    adapters = [n for n in first if ".lora_" in n]
    assert all(torch.equal(first[n], later[n]) for n in adapters) and adapters
    assert any(not torch.equal(first[n], later[n]) for n in first if n.startswith("explainer."))


def test_without_peft_adapters_are_one_sentence(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match="expected the package peft"):
        load_checkpoint(runs["detect"])
    load_checkpoint(runs["untrained"])
