"""The benchmarks' turns and ratios, and the one for a GPU on a model that a CPU carries."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from medic_ad.errors import MedicADError
from medic_ad.model.configuration import MedicADConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
gpu, rounds = (importlib.import_module(name) for name in ("gpu", "rounds"))


def test_cases_take_turns_and_ratios_are_taken_within_a_round() -> None:
    order: list[str] = []
    seconds = rounds.in_turns({name: partial(order.append, name) for name in "abc"}, 4)
    assert [order[i : i + 3] for i in range(0, 18, 3)] == [
        list(turn) for turn in ("bca", "cab", "abc", "bca", "cab", "abc")
    ]  # two of them warm up
    assert [len(each) for each in seconds.values()] == [4, 4, 4]
    slow = {"a": [2.0, 20.0, 6.0], "b": [1.0, 10.0, 2.0]}  # the second round was slow for both
    assert rounds.ratio(slow, "a", "b") == {"median": 2.0, "low": 2.0, "high": 3.0, "n": 3}
    assert rounds.added(slow, "a", "b")["median"] == 1.0


def test_a_tiny_model_runs_through_the_gpu_benchmark(tmp_path: Path, monkeypatch) -> None:
    settings = tiny.config()
    settings.text_config.vocab_size, settings.text_config.max_position_embeddings = 1024, 2048
    settings.save_pretrained(tmp_path)
    monkeypatch.setattr(gpu, "PIXELS", (64, 96))
    monkeypatch.setattr(gpu, "REQUESTS", (2,))
    monkeypatch.setattr(gpu, "TRAINED", 2)
    out = gpu.main(str(tmp_path), 1)
    assert out["request_pixels"] == [64, 96]
    network = gpu.build(gpu.configuration(str(tmp_path)))
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    backbone = sizes["model"]  # the embeddings are tied
    heads = sizes["detector"] + sizes["comparer"] + sizes["explainer"]
    assert out["memory"]["heads_add"] == pytest.approx(heads / backbone)
    assert [f["prompt_tokens"] for f in out["first_token"]] == [24 + 2 + 24 + 32, 24 + 4 + 48 + 48]
    assert out["requests"][0]["requests_a_second"]["median"] > 0
    trained = {name: out["training"][name] for name in ("detect", "compare", "explain")}
    assert trained["explain"]["trained_parameters"] == sizes["explainer"]
    assert all(stage["operations"] > 1e6 for stage in trained.values())


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a GPU; the refusal is for those without"
)
def test_full_size_is_refused_without_a_gpu(tmp_path: Path) -> None:
    MedicADConfig().save_pretrained(tmp_path)
    with pytest.raises(MedicADError, match=r"expected a GPU for \d+\.\d billion parameters, but"):
        gpu.main(str(tmp_path), 1)
